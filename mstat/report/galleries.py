"""Ranked galleries of the HTML report: a query as a strip of frames, beneath it what the model took for nearest."""

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

MOST_RANKS = 50  # of a query that are shown; evaluations list ten
NUM_QUERIES = 24  # a page that a mail still carries: about 5 MB
QUERY_FRAMES, GALLERY_FRAMES = 8, 4
LEGEND = " ✓ and a solid line: the same person; ✗ and a dashed line: somebody else."


def typical(folder: Folder) -> str:
    """Queries from the best to the worst. Empty where rankings.json has none: the hardest ones say what is amiss."""
    if folder.is_set or isinstance(folder.rankings, str) or not folder.rankings.get("typical"):
        return ""
    if folder.of_other_scores(folder.rankings):
        return ""
    queries = folder.rankings["typical"][:NUM_QUERIES]
    message = f"{len(queries)} queries at even steps through all, from the highest average precision to the lowest."
    return _galleries(folder, queries, "galleries.jpg", message)


def failures(folder: Folder) -> str:
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
    message = f"The {len(queries)} queries of lowest average precision; {wrong} of them have somebody else for nearest."
    return _galleries(folder, queries, "failures.jpg", message)


def _galleries(folder: Folder, queries: Sequence[Mapping[str, Any]], file: str, message: str) -> str:
    """Queries of rankings.json in their order, without pictures where there are no shards."""
    reader = folder.reader
    glance = "" if isinstance(reader, str) else f" At one glance: figures/{file} in the run folder."
    parts = [f'<p class="soft">{page.escape(message + LEGEND + glance)}</p>']
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
    hit = f"first right match at rank {query['first_hit']:,}"
    if query["first_hit"] > len(ranked):
        hit += " (not shown)"
    facts = (
        f"{_person(query['pid'])}, camera {query['camid']} · average precision {percent(query['ap'])} % · {hit} · "
        f"{query['num_positives']} right in the gallery"
    )
    alt = f"Query {query['key']}: {_person(query['pid'])}, camera {query['camid']}"
    return (
        f'<article class="query">\n<h3>Query {page.escape(query["key"])}</h3>\n'
        f'<p class="soft">{page.escape(facts)}</p>\n'
        f"{_strip(reader, query, QUERY_FRAMES, alt)}\n"
        f'<ol class="ranks">\n' + "\n".join(_ranked(item, reader) for item in ranked) + "\n</ol>\n</article>"
    )


def _ranked(item: Mapping[str, Any], reader: Reader | str) -> str:
    verdict = "right" if item["correct"] else "wrong"
    mark = "✓" if item["correct"] else "✗"
    alt = f"Rank {item['rank']}, {verdict}: {item['key']}, {_person(item['pid'])}, camera {item['camid']}"
    caption = f"{_person(item['pid'])}, camera {item['camid']}"
    return (
        f'<li class="{verdict}">{_strip(reader, item, GALLERY_FRAMES, alt)}\n'
        f"<b>{mark} {item['rank']:d} {verdict}</b> · {item['similarity']:.3f}<br>{page.escape(caption)}<br>"
        f'<span class="soft">{page.escape(item["key"])}</span></li>'
    )


def _person(pid: int) -> str:
    return "distractor" if pid == DISTRACTOR_PID else f"person {pid}"


def _strip(reader: Reader | str, item: Mapping[str, Any], num_frames: int, alt: str) -> str:
    """The tracklet of a query or gallery entry as one picture, or the reason why there is none."""
    if isinstance(reader, str):
        return ""
    frames_THWC = _frames(reader, item, num_frames)
    if isinstance(frames_THWC, str):
        return page.note(frames_THWC)
    jpeg, size = encode_strip(frames_THWC)
    return page.picture(jpeg, page.JPEG, alt, size)


def _middle(reader: Reader, item: Mapping[str, Any]) -> np.ndarray | None:
    """A frame from the middle of a tracklet; None where it cannot be read, which `_strip` tells."""
    frames_THWC = _frames(reader, item, 3)
    return None if isinstance(frames_THWC, str) else frames_THWC[len(frames_THWC) // 2]


def _frames(reader: Reader, item: Mapping[str, Any], num_frames: int) -> np.ndarray | str:
    """Frames spread evenly over a tracklet, or why there are none."""
    try:
        tracklet = reader[item["index"]]
        if tracklet.key != item["key"]:
            raise DataError(f"the shards hold {tracklet.key} at its place {item['index']}")
        return reader.frames(item["index"], even_numbers(tracklet.num_frames, num_frames))
    except (DataError, IndexError, OSError) as error:
        return f"No frames of {item['key']}: {error}"
