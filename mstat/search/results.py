"""Results of a search: a table for a terminal, JSON lines, and a page with pictures.

A query without a hit has the empty list in JSON, and the word "nobody" elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import shards
from mstat.errors import UserError
from mstat.evaluation.saved_features import SavedFeatures
from mstat.report import page
from mstat.report.galleries import MOST_RANKS, NUM_QUERIES, person, ranked_gallery
from mstat.report.run_reader import Folder
from mstat.report.tables import Row, Table
from mstat.search.gallery import Hit
from mstat.search.queries import checksum
from shards.read import Reader

NOBODY = "nobody passes the threshold"
KEYS = ("rank", "key", "pid", "camid", "similarity")  # of a hit in JSON

# A query's labels (index, key, pid, camid) and its hits.
Result = tuple[Mapping[str, Any], Sequence[Hit]]


def table(query: Mapping[str, Any], hits: Sequence[Hit]) -> Table:
    """Return the hits of a query as a table."""
    rows = [
        Row(str(hit.rank), [hit.key, person(hit.pid), str(hit.camid), f"{hit.similarity:.4f}"]) for hit in hits
    ] or [Row("", [NOBODY], "faint")]
    title = f"{query['key']}: {person(query['pid'])}, camera {query['camid']}"
    return Table(["rank", "tracklet", "identity", "camera", "similarity"], rows, title, align="rllrr", framed=False)


def json_line(query: Mapping[str, Any], hits: Sequence[Hit]) -> str:
    """Return a query and its hits as one line of JSON, in ASCII."""
    listed = [{key: asdict(hit)[key] for key in KEYS} for hit in hits]
    return json.dumps({"query": query["key"], "hits": listed})


def html(
    title: str, facts: Sequence[str], results: Sequence[Result], num_queries: int, readers: Sequence[Reader | str]
) -> str:
    """Return a page of ranked galleries.

    Args:
        title: Title of the page.
        facts: Sentences on the search.
        results: Those of all queries, of which the first `NUM_QUERIES` are shown, with at most `MOST_RANKS` hits.
        num_queries: Number of all queries.
        readers: Opened shards of the queries and of the gallery, or sentences on why there are none.
    """
    notes = [page.note(text) for text in dict.fromkeys(reader for reader in readers if isinstance(reader, str))]
    if num_queries > NUM_QUERIES:
        notes.append(page.note(f"The first {NUM_QUERIES} of {num_queries:,} queries are shown."))
    articles = []
    for query, hits in results[:NUM_QUERIES]:
        ranked = [{**asdict(hit), "correct": None} for hit in hits[:MOST_RANKS]]
        number = f"{len(hits)} found" if hits else NOBODY
        if len(hits) > MOST_RANKS:
            number += f", the first {MOST_RANKS} are shown"
        articles.append(ranked_gallery(query, number, ranked, readers[0], readers[1]))
    header = [f"<h1>{page.escape(title)}</h1>", *(f'<p class="soft">{page.escape(fact)}</p>' for fact in facts)]
    return page.document(title, "\n".join(header), [*notes, *articles])


def shards_of(saved: SavedFeatures, features: Path, run: Path | None, place: str | None) -> Reader | str:
    """Return the opened shards of features, or a sentence on why there are none.

    Args:
        features: Folder of `saved`.
        run: Run folder that the user names; None is the run, or its evaluation, in whose folder `features` lies.
        place: Folder or URL of the shards; None is `data.shards` of the run, if that is the same data set.

    Raises:
        UserError: If `place` is another data set.
    """
    recorded = checksum(saved.info)
    if place is None:
        of_run = Folder(run or Folder(features.absolute().parent).of_run).reader
        if isinstance(of_run, str) or of_run.checksum != recorded:
            return "No frames: the data set of the features is not that of a run at hand; give it as --shards."
        return of_run
    reader = shards.open(place)
    if reader.checksum != recorded:
        raise UserError(
            f"--shards {place}: its checksum is {reader.checksum[:12]}, that of the features' data set "
            f"{str(recorded)[:12]}: give the set that was embedded"
        )
    return reader
