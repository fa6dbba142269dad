"""Sections of evaluation.json: scores with what speaks against them, other sets, splits, distances, cameras, rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mstat.report import results
from mstat.report.run_reader import Folder
from tests.mstat.report.conftest import make_evaluation


def folder_with(run: Path, **changes: Any) -> Folder:
    (run / "evaluation.json").write_text(json.dumps({**make_evaluation(), **changes}))
    return Folder(run)


def test_a_warning_stands_before_the_scores(run: Path) -> None:
    """Scores of a part of a set are seen as such before they are read."""
    made = results.scores(folder_with(run, warnings=["a part of the set"]))
    assert made.index("Not comparable with published scores: a part of the set.") < made.index("<table")
    assert '<tr class="strong"><th scope="row" class="left">Stage I+II+III</th><td>76.1</td>' in made


def test_names_of_baselines_are_escaped(run: Path) -> None:
    made = results.scores(folder_with(run, baselines={"<b>": {"mAP": 0.123}}))
    assert "&lt;b&gt;" in made
    assert "<b>" not in made


def test_without_an_evaluation_the_way_out_is_told(run: Path) -> None:
    (run / "evaluation.json").unlink()
    assert "evaluation.json is not in the run folder. Make it with launch/evaluate.py --run" in results.scores(
        Folder(run)
    )
    assert results.splits(Folder(run)) == results.distances(Folder(run)) == results.cameras(Folder(run)) == ""


def test_distances_have_deviations_where_they_are_means(run: Path) -> None:
    """A distance that cannot be computed (no query is right) is a dash."""
    entry = {"intra": 0.44104, "intra_correct": None, "inter": 0.5012, "inter_mean": 0.6, "sd": {"intra": 0.00126}}
    assert results.distance_cells(entry) == ["0.4410 ± 0.0013", "–", "0.5012", "0.6000"]
    made = results.distances(folder_with(run, distances={"cosine": entry}))
    assert "0.4410 ± 0.0013" in made


def test_cameras_are_a_matrix(run: Path) -> None:
    """Rows ask and columns are searched; the best and the worst pair stand in words; pairs without a query, or
    without mAP (earlier versions), a dash."""
    pairs = [
        {"query": 1, "gallery": 2, "num_valid_query": 1200, "rank1": 0.875, "mAP": 0.5},
        {"query": 2, "gallery": 1, "num_valid_query": 7, "rank1": 0.25},
    ]
    made = results.cameras(folder_with(run, cameras=pairs))
    assert "best from 1 in 2, 87.5 % and worst from 2 in 1, 25.0 %" in made
    rows = made[made.index("<tbody>") :]
    assert '<th scope="row" class="left">from 1</th><td>–</td><td>87.5 / 50.0 of 1,200</td>' in rows
    assert '<th scope="row" class="left">from 2</th><td>25.0 / – of 7</td><td>–</td>' in rows
    assert (run / "figures" / "cameras.svg").is_file()


def test_rates_have_intervals_and_thresholds(run: Path) -> None:
    """Verification and open set; what cannot be seen is a dash, and so are the intervals of a mean over splits."""
    counts = {"num_genuine": 1200, "num_impostor": 10**6, "num_removed": 3.0, "num_mated": 40, "num_nonmated": 50}
    entry = {
        **counts,
        **{"tpr_at_0.1": 0.9, "threshold_at_0.1": 0.25, "tpr_at_0.01": None, "threshold_at_0.01": None},
        **{"eer": 0.0512, "eer_threshold": 0.125, "dir_at_0.1": 0.75},
        "intervals": {"tpr_at_0.1": [0.8, 0.95], "dir_at_0.1": [0.6, 0.9]},
    }
    folder = folder_with(run, verification={"cosine": entry}, open_set={"cosine": entry})
    rows = results.verification(folder).split("<tbody>")[1]
    assert "FPR 0.1</th><td>90.0</td><td>80.0–95.0</td><td>0.2500</td>" in rows
    assert "FPR 0.01</th><td>–</td><td>–</td><td>–</td>" in rows
    assert "equal errors</th><td>5.1</td><td>–</td><td>0.1250</td>" in rows
    assert "<img" not in results.verification(folder)
    curve = {"roc_fpr": [0.1, 1], "roc_tpr": [0.9, 1]}
    drawn = results.verification(folder_with(run, verification={"cosine": entry | curve}))
    assert 'alt="ROC: equal error rate 5.1 %"' in drawn
    assert "mathdefault" not in (run / "figures" / "roc.svg").read_text()  # labels of the logarithmic axis
    made = results.open_set(folder)
    assert "With 3 identities taken out of the gallery: of 40 queries" in made
    assert "FPIR 0.1</th><td>75.0</td><td>60.0–90.0</td><td>0.2500</td>" in made
    of_splits = entry | {"intervals": None, "sd": {"dir_at_0.1": 0.01}}
    assert "<td>75.0 ± 1.0</td><td>–</td>" in results.open_set(folder_with(run, open_set={"cosine": of_splits}))
    assert results.open_set(folder_with(run)) == results.open_set(folder_with(run, open_set={})) == ""


def test_groups_of_queries_are_one_table(run: Path) -> None:
    """By true matches and by length, whichever there is; a protocol without mAP has a dash."""
    group = {"num_valid_query": 1200, "mAP": None, "rank1": 0.5, "intervals": {"rank1": [0.4, 0.6]}}
    made = results.groups(folder_with(run, by_matches={"3-5": group}, by_length={"256+": group | {"mAP": 0.25}}))
    assert "true matches</th>" in made
    assert ">3-5</th><td>–</td><td>–</td><td>50.0</td><td>40.0–60.0</td><td>1,200</td>" in made
    assert ">256+</th><td>25.0</td>" in made
    assert "true matches" not in results.groups(folder_with(run, by_length={"256+": group}))
    assert results.groups(folder_with(run)) == ""


def test_too_many_cameras_cost_a_note(run: Path) -> None:
    """A table of a million cells would hang the page."""
    pairs = [
        {"query": camera, "gallery": 0, "num_valid_query": 1, "rank1": 1.0}
        for camera in range(results.MOST_CAMERAS + 1)
    ]
    assert "101 x 1 cameras are too many for a table." in results.cameras(folder_with(run, cameras=pairs))


def test_a_set_of_splits_links_to_each(run: Path) -> None:
    """Quoted, since the name of a split comes from the data set."""
    made = results.splits(folder_with(run, splits={"a&b": {"mAP": 0.5}}))
    assert '<a href="split-a&amp;b/report.html">a&amp;b</a>' in made


def test_scores_after_reranking_stand_apart(run: Path) -> None:
    """In a section of their own, with a warning; the scores and the heading of the page do not have them."""
    settings = {"rerank": "k-reciprocal", "rerank_k1": 20, "rerank_k2": 6, "rerank_lambda": 0.3}
    folder = folder_with(run, reranked={"settings": settings, "mAP": 0.9876, "rank1": 0.9})
    html = results.reranked(folder)
    assert "98.8" in html
    assert "re-ranking (k1 20, k2 6, λ 0.3): not comparable with scores without" in html
    assert "98.8" not in results.scores(folder)
    assert results.reranked(folder_with(run)) == ""


def test_the_set_of_the_training_is_marked(run: Path) -> None:
    """Among all that the run was scored on, also under another protocol; by checksum."""
    own, other = ({"name": "mars", "checksum": letter * 64} for letter in "ab")
    (run / "environment.json").write_text(json.dumps({"shards_checksum": "a" * 64}))
    for dataset, protocol in ((other, "official"), (own, "removed")):
        folder = run / "evaluations" / protocol
        folder.mkdir(parents=True)
        changes = {"dataset": dataset, "protocol": protocol}
        (folder / "evaluation.json").write_text(json.dumps({**make_evaluation(), **changes}))
    made = results.others(folder_with(run, dataset=own))
    assert "own: mars (aaaaaaaa), official, split 0" in made
    assert "own: mars (aaaaaaaa), removed, split 0" in made
    assert ">mars (bbbbbbbb), official, split 0" in made
