"""Ranked galleries of an HTML page: each query as a strip of frames, followed by its nearest gallery tracklets.

The report of a run has those of its evaluation, the page of a search (`mstat.search.results`) those that it found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mstat.report import page
from mstat.report.images import encode_overview, encode_strip, even_numbers
from mstat.report.run_reader import Folder
from mstat.report.scores import percent
from shards.records import DISTRACTOR_PID, DataError

if TYPE_CHECKING:
    from shards.read import Reader

MOST_RANKS = 50  # most ranks to show for a query; evaluations list ten
NUM_QUERIES = 24  # keeps the page at about 5 MB, small enough for e-mail
QUERY_FRAMES, GALLERY_FRAMES = 8, 4
LEGEND = " ✓ and a solid line: same identity; ✗ and a dashed line: another identity."


def typical(folder: Folder) -> str:
    """Return queries from the best to the worst; empty if rankings.json has none, which `failures` reports."""
    if folder.is_set or isinstance(folder.rankings, str) or not folder.rankings.get("typical"):
        return ""
    if folder.of_other_scores(folder.rankings):
        return ""
    queries = folder.rankings["typical"][:NUM_QUERIES]
    caption = f"{len(queries)} queries evenly spaced from the highest average precision to the lowest."
    return _galleries(folder, queries, "galleries.jpg", caption)


def failures(folder: Folder) -> str:
    """Return the hardest queries."""
    if folder.is_set:
        return ""
    if isinstance(folder.rankings, str):
        return page.note(folder.rankings)
    if remark := folder.of_other_scores(folder.rankings):
        return page.note(remark)
    listed = folder.rankings["queries"]
    if not listed:
        return page.note("rankings.json lists no query.")
    queries = listed[:NUM_QUERIES]
    wrong = sum(query["first_hit"] > 1 for query in queries)
    caption = f"The {len(queries)} queries of lowest average precision; rank 1 is wrong for {wrong} of them."
    return _galleries(folder, queries, "failures.jpg", caption)


def _galleries(folder: Folder, queries: Sequence[Mapping[str, Any]], file: str, caption: str) -> str:
    """Return queries of rankings.json in their order; without shards, they have no pictures."""
    reader = folder.reader
    overview_note = "" if isinstance(reader, str) else f" Overview: figures/{file} in the run folder."
    parts = [f'<p class="soft">{page.escape(caption + LEGEND + overview_note)}</p>']
    if isinstance(reader, str):
        parts.append(page.note(reader))
    parts += [_query(query, reader) for query in queries]
    if not isinstance(reader, str):
        overview = [
            (
                _middle(reader, query),
                [(_middle(reader, item), item["correct"]) for item in query["gallery"][:MOST_RANKS]],
            )
            for query in queries
        ]
        folder.save(file, encode_overview(overview))
    return "\n".join(parts)


def _query(query: Mapping[str, Any], reader: Reader | str) -> str:
    ranked = query["gallery"][:MOST_RANKS]
    hit = f"first true match at rank {query['first_hit']:,}"
    if query["first_hit"] > len(ranked):
        hit += " (not shown)"
    facts = f"average precision {percent(query['ap'])} % · {hit} · {query['num_positives']} true matches in the gallery"
    return ranked_gallery(query, facts, ranked, reader, reader)


def ranked_gallery(
    query: Mapping[str, Any],
    facts: str,
    ranked: Sequence[Mapping[str, Any]],
    query_reader: Reader | str,
    gallery_reader: Reader | str,
) -> str:
    """Return a query and its ranked gallery tracklets as HTML.

    Args:
        query: index, key, pid and camid of the query.
        facts: Text below the query's name.
        ranked: The same of each gallery tracklet, and rank, similarity and `correct`: whether it shows the same
            identity, or None if that is not judged.
        query_reader, gallery_reader: Opened shards of both, or a sentence on why there are none.
    """
    label = f"{person(query['pid'])}, camera {query['camid']}"
    strip = _strip(query_reader, query, QUERY_FRAMES, f"Query {query['key']}: {label}")
    items = "\n".join(_ranked(item, gallery_reader) for item in ranked)
    return (
        f'<article class="query">\n<h3>Query {page.escape(query["key"])}</h3>\n'
        f'<p class="soft">{page.escape(f"{label} · {facts}")}</p>\n'
        f"{strip}\n" + (f'<ol class="ranks">\n{items}\n</ol>\n' if items else "") + "</article>"
    )


def _ranked(item: Mapping[str, Any], reader: Reader | str) -> str:
    mark, verdict = {True: ("✓ ", "right"), False: ("✗ ", "wrong"), None: ("", "")}[item["correct"]]
    rank = f"{item['rank']:d} {verdict}".rstrip()
    caption = f"{person(item['pid'])}, camera {item['camid']}"
    alt = f"Rank {', '.join(rank.split())}: {item['key']}, {caption}"
    return (
        f'<li class="{verdict or "found"}">{_strip(reader, item, GALLERY_FRAMES, alt)}\n'
        f"<b>{mark}{rank}</b> · {item['similarity']:.3f}<br>{page.escape(caption)}<br>"
        f'<span class="soft">{page.escape(item["key"])}</span></li>'
    )


def person(pid: int) -> str:
    """Return an identity in words; distractors and tracklets without labels have none."""
    return f"person {pid}" if pid > DISTRACTOR_PID else "no identity"


def _strip(reader: Reader | str, item: Mapping[str, Any], num_frames: int, alt: str) -> str:
    """Return the tracklet of a query or gallery entry as one picture, or the reason why there is none."""
    if isinstance(reader, str):
        return ""
    frames_THWC = _frames(reader, item, num_frames)
    if isinstance(frames_THWC, str):
        return page.note(frames_THWC)
    jpeg, size = encode_strip(frames_THWC)
    return page.picture(jpeg, page.JPEG, alt, size)


def _middle(reader: Reader, item: Mapping[str, Any]) -> np.ndarray | None:
    """Return a frame from the middle of a tracklet; None if it cannot be read, which `_strip` reports."""
    frames_THWC = _frames(reader, item, 3)
    return None if isinstance(frames_THWC, str) else frames_THWC[len(frames_THWC) // 2]


def _frames(reader: Reader, item: Mapping[str, Any], num_frames: int) -> np.ndarray | str:
    """Return evenly spaced frames of a tracklet, or the reason why there are none."""
    try:
        tracklet = reader[item["index"]]
        if tracklet.key != item["key"]:
            raise DataError(f"the shards have {tracklet.key} at its index {item['index']}")
        return reader.frames(item["index"], even_numbers(tracklet.num_frames, num_frames))
    except (DataError, IndexError, OSError) as error:
        return f"No frames of {item['key']}: {error}"
