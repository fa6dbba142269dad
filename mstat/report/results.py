"""HTML of evaluation.json: scores, splits, CMC, distances (Table VI), verification, open set, groups, cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from mstat.report import figures, page
from mstat.report import scores as rounded
from mstat.report.run_reader import Folder
from mstat.report.tables import Part, Row, Table
from mstat.runs.scored_set import trained_checksum

MOST_CAMERAS = 100  # most rows or columns of the table of cameras
CMC = "Queries with a true match among the first k"
DISTANCES_CAPTION = (
    "Between features of unit length, from 0 to 2. Intra (smaller is better): mean over identities of the distance "
    "between a query and its true matches; correct: over queries with a true match at rank 1. Inter (larger is "
    "better): the smallest distance between two identities; mean: over queries, of the distance to the nearest item of "
    "another identity."
)


def scores(folder: Folder) -> str:
    evaluation = folder.evaluation
    if isinstance(evaluation, str):
        return page.note(f"{evaluation} Make it with launch/evaluate.py --run RUN.")
    parts = []
    if not isinstance(evaluation.get("dataset"), dict):
        known = f"; the run was trained on checksum {folder.checksum[:12]}" if folder.checksum else ""
        parts.append(page.note(f"evaluation.json is of an earlier version, which recorded no data set{known}."))
    return "\n".join([*parts, rounded.score_table(evaluation, splits=False).html()])


def reranked(folder: Folder) -> str:
    """Return the scores after re-ranking or query expansion, apart from all others."""
    if isinstance(folder.evaluation, str):
        return ""
    return "\n".join(table.html() for table in rounded.reranked_tables(folder.evaluation))


def others(folder: Folder) -> str:
    """Return the scores on other data sets, protocols or splits, below those on the run's own."""
    if not folder.others:
        return ""
    rows, notes = [], []
    trained_on = trained_checksum(folder.run)
    if not isinstance(folder.evaluation, str):
        rows.append(Row(_scored_set(folder.evaluation, trained_on), rounded.cells(folder.evaluation), "strong"))
    for name, evaluation in folder.others.items():
        if isinstance(evaluation, str):
            notes.append(page.note(evaluation))
            continue
        link = f"evaluations/{quote(name)}/report.html"
        rows.append(Row(_scored_set(evaluation, trained_on), rounded.cells(evaluation), link=link))
        notes += [page.warning(f"{name}: {warning}") for warning in rounded.warnings(evaluation)]
    caption = (
        "In percent, with the features of all stages. Bold: the data set, protocol and split of the training. Own: the "
        "data set of the training."
    )
    table = Table(["scored on", *rounded.HEADINGS.values()], rows, caption=caption)
    return "\n".join([table.html(), *notes])


def _scored_set(evaluation: Mapping[str, Any], trained_on: str | None) -> str:
    named = evaluation.get("dataset")
    of_set = ""
    if isinstance(named, dict):
        own = "own: " if named["checksum"] == trained_on else ""
        of_set = f"{own}{named['name']} ({named['checksum'][:8]}), "
    return f"{of_set}{evaluation['protocol']}, split {evaluation['split']}"


def splits(folder: Folder) -> str:
    if isinstance(folder.evaluation, str) or not folder.is_set:
        return ""
    rows = [
        Row(split, rounded.cells(of_split), link=f"split-{split}/report.html")
        for split, of_split in folder.evaluation["splits"].items()
    ]
    return Table(["split", *rounded.HEADINGS.values()], rows, caption=rounded.caption(folder.evaluation)).html()


def cmc(folder: Folder) -> str:
    evaluation = folder.evaluation
    if isinstance(evaluation, str):
        return page.note(evaluation)
    result = {"MSTAT": evaluation, **(evaluation.get("baselines") or {})}
    curves = {name: entry["cmc"] for name, entry in result.items() if entry.get("cmc")}
    if not curves:
        return page.note("evaluation.json holds no CMC curve.")
    return folder.figure("cmc.svg", figures.cmc_figure(curves), f"{CMC}: {at_rank_1(curves)}", CMC)


def at_rank_1(curves: Mapping[str, Sequence[float]]) -> str:
    """Return the first values of CMC curves as text, for screen readers."""
    return "; ".join(f"{name} {rounded.percent(curve[0])} % at rank 1" for name, curve in curves.items() if curve)


def distances(folder: Folder) -> str:
    if isinstance(folder.evaluation, str) or not folder.evaluation.get("distances"):
        return ""
    rows = [Row(kind, distance_cells(entry)) for kind, entry in folder.evaluation["distances"].items()]
    return Table(["distance", *rounded.DISTANCES.values()], rows, caption=DISTANCES_CAPTION).html()


def distance_cells(entry: Mapping[str, Any]) -> list[str]:
    """Return one cell for each of DISTANCES; a mean has its standard deviation."""
    return [rounded.number(entry.get(key), entry.get("sd", {}).get(key), digits=4) for key in rounded.DISTANCES]


def verification(folder: Folder) -> str:
    """Return error rates and thresholds for the question whether two tracklets show one person."""
    if isinstance(folder.evaluation, str) or not (entry := (folder.evaluation.get("verification") or {}).get("cosine")):
        return ""
    names = [name.removeprefix("tpr_at_") for name in entry if name.startswith("tpr_at_")]
    rows = [_rate(f"FPR {name}", entry, f"tpr_at_{name}", f"threshold_at_{name}") for name in names]
    equal = _rate("equal errors", entry, "eer", "eer_threshold")
    caption = (
        f"Of {entry['num_genuine']:,.0f} pairs of one person, the share that is accepted (TPR, in percent) where a "
        f"share of the {entry['num_impostor']:,.0f} pairs of two is (FPR), and the cosine similarity from which they "
        "are. Last row: the rate at which both errors are equal. A dash: too few pairs of two persons."
    )
    headings = ["accepted of two persons", "TPR", "95 % interval", "threshold"]
    table = Table(headings, [*rows, equal], caption=caption).html()
    curve = entry.get("roc_fpr"), entry.get("roc_tpr")
    if not all(curve):
        return table
    alt = f"ROC: equal error rate {rounded.percent(entry.get('eer'))} %"
    return f"{table}\n{folder.figure('roc.svg', figures.roc_figure(*curve), alt, 'ROC of all stages')}"


def open_set(folder: Folder) -> str:
    """Return identification rates for the question who of the gallery it is, if anybody."""
    if isinstance(folder.evaluation, str) or not (entry := (folder.evaluation.get("open_set") or {}).get("cosine")):
        return ""
    names = [name.removeprefix("dir_at_") for name in entry if name.startswith("dir_at_")]
    rows = [_rate(f"FPIR {name}", entry, f"dir_at_{name}", f"threshold_at_{name}") for name in names]
    caption = (
        f"With {entry['num_removed']:,.0f} identities taken out of the gallery: of {entry['num_mated']:,.0f} queries "
        "of the others, the share that is identified at rank 1 (DIR, in percent) where a share of the "
        f"{entry['num_nonmated']:,.0f} queries of those taken out is taken for somebody (FPIR), and the cosine "
        "similarity from which a query is answered. A dash: too few queries."
    )
    return Table(["taken for somebody", "DIR", "95 % interval", "threshold"], rows, caption=caption).html()


def _rate(name: str, entry: Mapping[str, Any], key: str, threshold: str) -> Row:
    interval = rounded.interval((entry.get("intervals") or {}).get(key))
    return Row(name, [rounded.score(entry, key), interval, rounded.number(entry[threshold], digits=4)])


def groups(folder: Folder) -> str:
    """Return mAP and rank-1 by the number of true matches and by the length of the query's tracklet."""
    titles = {"by_matches": "true matches", "by_length": "frames of the query"}
    rows: list[Row | Part] = []
    for key, title in titles.items():
        entries = {} if isinstance(folder.evaluation, str) else folder.evaluation.get(key) or {}
        rows += [Part(title), *(Row(name, _group_cells(entry)) for name, entry in entries.items())] if entries else []
    if not rows:
        return ""
    caption = "In percent, with 95 % intervals over identities, and the number of queries with a true match."
    headings = ["queries by", "mAP", "95 % interval", "rank-1", "95 % interval", "queries"]
    return Table(headings, rows, caption=caption).html()


def _group_cells(entry: Mapping[str, Any]) -> list[str]:
    bounds = entry.get("intervals") or {}
    values = [
        cell for key in ("mAP", "rank1") for cell in (rounded.score(entry, key), rounded.interval(bounds.get(key)))
    ]
    return [*values, f"{entry['num_valid_query']:,.0f}"]


def cameras(folder: Folder) -> str:
    """Return rank-1 for each query camera (rows) and gallery camera (columns)."""
    if isinstance(folder.evaluation, str) or folder.is_set or not folder.evaluation.get("cameras"):
        return ""  # cameras are not averaged over splits, which have different queries
    result = {(entry["query"], entry["gallery"]): entry for entry in folder.evaluation["cameras"]}
    requested, searched = (sorted({entry[side] for entry in result.values()}) for side in ("query", "gallery"))
    if len(requested) > MOST_CAMERAS or len(searched) > MOST_CAMERAS:
        return page.note(f"{len(requested)} x {len(searched)} cameras are too many for a table.")
    matrix = np.array(
        [[result.get((a, b), {"rank1": np.nan})["rank1"] for b in searched] for a in requested], np.float64
    )
    worst, best = (pick(result, key=lambda pair: result[pair]["rank1"]) for pick in (min, max))
    extremes = " and ".join(
        f"{word} from {pair[0]} in {pair[1]}, {rounded.percent(result[pair]['rank1'])} %"
        for word, pair in (("best", best), ("worst", worst))
    )
    name = "Rank-1 in percent of the queries of one camera in the gallery of another"

    def cell(pair: tuple[int, int]) -> str:
        if pair not in result:
            return rounded.ABSENT
        of_pair = result[pair]
        shares = f"{rounded.percent(of_pair['rank1'])} / {rounded.percent(of_pair.get('mAP'))}"
        return f"{shares} of {of_pair['num_valid_query']:,}"

    rows = [Row(f"from {a:d}", [cell((a, b)) for b in searched]) for a in requested]
    caption = "Rank-1 / mAP in percent of the queries of one camera in the gallery of another, and their number."
    table = Table(["camera", *(f"in {b:d}" for b in searched)], rows, caption=caption)
    svg = figures.camera_figure(matrix, requested, searched)
    figure = folder.figure("cameras.svg", svg, f"{name}: {extremes}", f"{name}: {extremes}.")
    return figure + "\n" + page.details("As a table, with mAP and the number of queries", table.html())
