"""evaluation.json as HTML: scores, splits, CMC, distances of Table VI, cameras."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from mstat.report import figures, page
from mstat.report import scores as rounded
from mstat.report.run_reader import Folder

DISTANCES = {"intra": "intra", "intra_correct": "intra, correct", "inter": "inter", "inter_mean": "inter, mean"}


def scores(folder: Folder) -> str:
    evaluation = folder.evaluation
    if isinstance(evaluation, str):
        return page.note(f"{evaluation} launch/evaluate.py --run with this folder makes it.")
    rows = [("baseline", page.escape(name), cells) for name, cells in rounded.baseline_rows(evaluation)]
    rows += [
        ("whole" if name == rounded.STAGES[-1] else "", f"Stage {name}", cells)
        for name, cells in rounded.stage_rows(evaluation)
    ]
    parts = [page.warning(warning) for warning in rounded.warnings(evaluation)]
    if not isinstance(evaluation.get("dataset"), dict):
        known = f"the run was trained on the set of checksum {folder.checksum[:12]}" if folder.checksum else "unknown"
        parts.append(page.note(f"evaluation.json, of an earlier version, does not name its data set: {known}."))
    table = page.table(["features", *rounded.HEADINGS], rows, rounded.caption(evaluation))
    return "\n".join([*parts, table])


def others(folder: Folder) -> str:
    """Scores on other sets, protocols or splits beside those on the run's own."""
    if not folder.others:
        return ""
    rows, notes = [], []
    if not isinstance(folder.evaluation, str):
        rows.append(("whole", _what(folder.evaluation), rounded.cells(folder.evaluation)))
    for name, evaluation in folder.others.items():
        if isinstance(evaluation, str):
            notes.append(page.note(evaluation))
            continue
        link = f'<a href="evaluations/{page.escape(quote(name))}/report.html">{_what(evaluation)}</a>'
        rows.append(("", link, rounded.cells(evaluation)))
        notes += [page.warning(f"{name}: {warning}") for warning in rounded.warnings(evaluation)]
    message = "In percent, of all stages; bold: the set, protocol and split that the run was trained on."
    return "\n".join([page.table(["scored on", *rounded.HEADINGS], rows, message), *notes])


def _what(evaluation: Mapping[str, Any]) -> str:
    named = evaluation.get("dataset")
    of_set = f"{named['name']} ({named['checksum'][:8]}), " if isinstance(named, dict) else ""
    return page.escape(f"{of_set}{evaluation['protocol']}, split {evaluation['split']}")


def splits(folder: Folder) -> str:
    if isinstance(folder.evaluation, str) or not folder.is_set:
        return ""
    rows = [
        ("", f'<a href="{page.escape(f"split-{split}")}/report.html">{page.escape(split)}</a>', cells)
        for split, cells in rounded.split_rows(folder.evaluation)
    ]
    return page.table(["split", *rounded.HEADINGS], rows, rounded.caption(folder.evaluation))


def cmc(folder: Folder) -> str:
    evaluation = folder.evaluation
    if isinstance(evaluation, str):
        return page.note(evaluation)
    result = {"MSTAT": evaluation, **(evaluation.get("baselines") or {})}
    curves = {name: entry["cmc"] for name, entry in result.items() if entry.get("cmc")}
    if not curves:
        return page.note("evaluation.json holds no CMC curve.")
    message = "; ".join(f"{name} {rounded.percent(curve[0])} % at rank 1" for name, curve in curves.items())
    svg = figures.cmc_figure(curves)
    folder.save("cmc.svg", svg)
    name = "Queries with a right match among the first k"
    return page.figure(svg, page.SVG, f"{name}: {message}", name)


def distances(folder: Folder) -> str:
    if isinstance(folder.evaluation, str) or not folder.evaluation.get("distances"):
        return ""
    rows = [("", page.escape(kind), distance_cells(entry)) for kind, entry in folder.evaluation["distances"].items()]
    return page.table(["distance", *DISTANCES.values()], rows, DISTANCES_CAPTION)


MOST_CAMERAS = 100  # a side
DISTANCES_CAPTION = (
    "Of features of unit length, from 0 to 2. Intra, small is good: mean over the identities of the distance between a "
    "query and its true matches; correct: of the queries whose nearest is right. Inter, large is good: the smallest "
    "distance between two identities; mean: over the queries, of that to the nearest of somebody else."
)


def distance_cells(entry: Mapping[str, Any]) -> list[str]:
    """One cell for each of DISTANCES, of a mean with its standard deviation."""
    sd = entry.get("sd", {})
    return [
        rounded.ABSENT
        if entry.get(key) is None
        else f"{entry[key]:.4f}" + (f" ± {sd[key]:.4f}" if sd.get(key) is not None else "")
        for key in DISTANCES
    ]


def cameras(folder: Folder) -> str:
    """Rank-1 where the queries of one camera are searched in one other: rows ask, columns are searched."""
    if isinstance(folder.evaluation, str) or folder.is_set or not folder.evaluation.get("cameras"):
        return ""  # the cameras of a set are not averaged: another split asks for other people
    result = {(entry["query"], entry["gallery"]): entry for entry in folder.evaluation["cameras"]}
    requested, searched = (sorted({entry[side] for entry in result.values()}) for side in ("query", "gallery"))
    if len(requested) > MOST_CAMERAS or len(searched) > MOST_CAMERAS:
        return page.note(f"{len(requested)} x {len(searched)} cameras are too many for a table.")
    matrix = np.array(
        [[result.get((a, b), {"rank1": np.nan})["rank1"] for b in searched] for a in requested], np.float64
    )
    svg = figures.camera_figure(matrix, requested, searched)
    folder.save("cameras.svg", svg)
    worst, best = (pick(result, key=lambda pair: result[pair]["rank1"]) for pick in (min, max))
    message = " and ".join(
        f"{word} from {pair[0]} in {pair[1]}, {rounded.percent(result[pair]['rank1'])} %"
        for word, pair in (("best", best), ("worst", worst))
    )
    caption = "Rank-1 in percent of one camera's queries where one other camera alone is searched"

    def cell(pair: tuple[int, int]) -> str:
        if pair not in result:
            return rounded.ABSENT
        return f"{rounded.percent(result[pair]['rank1'])} <small>of {result[pair]['num_valid_query']:,}</small>"

    rows = [("", f"from {a:d}", [cell((a, b)) for b in searched]) for a in requested]
    table = page.table(["camera", *(f"in {b:d}" for b in searched)], rows, f"{caption}, of how many queries.")
    return (
        page.figure(svg, page.SVG, f"{caption}: {message}", f"{caption}: {message}.")
        + "\n"
        + page.details("As a table, with the number of queries", table)
    )
