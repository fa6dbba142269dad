"""The matrix of runs and data sets, from evaluation.json files as launch/evaluate.py writes them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from mstat.report.cross_matrix import Matrix, matrix_of
from mstat.report.run_groups import compared, grouped
from tests.mstat.report.conftest import make_evaluation

SUMS = {"mars": "a1" * 32, "duke": "b2" * 32, "prid": "c3" * 32}
EVAL = {"num_frames": 32, "mode": "sample", "seed": 0, "stage_norm": True}


def write_scores(folder: Path, name: str, score: object, **changes: Any) -> None:
    """evaluation.json of a data set of this name; `score` is rank-1."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = {"name": name, "checksum": SUMS.get(name)}
    content = {**make_evaluation(), "dataset": dataset, "eval": EVAL, "rank1": score, **changes}
    (folder / "evaluation.json").write_text(json.dumps(content))


def make_run(folder: Path, own: str, rank1: float, others: dict[str, float], seed: int = 0) -> Path:
    """A run that was trained on one data set and scored on others, too."""
    write_scores(folder, own, rank1)
    (folder / "config.yaml").write_text(f"seed: {seed}\ndata: {{shards: data/{own}}}\n")
    (folder / "environment.json").write_text(json.dumps({"shards_checksum": SUMS[own]}))
    for name, score in others.items():
        write_scores(folder / "evaluations" / name, name, score)
    return folder


def matrix(*runs: Path) -> Matrix:
    return matrix_of(grouped(compared(runs)))


def texts(made: Matrix) -> list[list[str]]:
    """Rank-1 of each cell in percent, with a star at own sets; empty without a score."""

    def text(cell: Any) -> str:
        return "" if cell is None else f"{100 * cell.mean('rank1'):.0f}{'*' if cell.is_own else ''}"

    return [[text(cell) for cell in line.cells] for line in made.lines]


def test_runs_and_data_sets(tmp_path: Path) -> None:
    """Own sets come first, in the order of the runs, and are marked; what was not scored is empty."""
    first = make_run(tmp_path / "first", "mars", 0.9, {"duke": 0.4, "prid": 0.3})
    second = make_run(tmp_path / "second", "duke", 0.8, {"mars": 0.5})
    made = matrix(second, first)
    assert made.labels == ["duke", "mars", "prid"]
    assert [line.name for line in made.lines] == ["second", "first"]
    assert texts(made) == [["80*", "50", ""], ["40", "90*", "30"]]
    assert [line.trained_on for line in made.lines] == [SUMS["duke"], SUMS["mars"]]
    assert made.is_across
    assert made.remarks == []


def test_seeds_are_one_row(tmp_path: Path) -> None:
    """Mean and sample deviation of the seeds that were scored on a set."""
    values = [0.7, 0.8, 0.75]
    runs = [
        make_run(tmp_path / f"seed-{seed}", "mars", value, {"duke": value / 2} if seed else {}, seed)
        for seed, value in enumerate(values)
    ]
    (line,) = matrix(*runs).lines
    own, other = line.cells
    assert own is not None
    assert other is not None
    assert own.mean("rank1") == pytest.approx(statistics.fmean(values), rel=1e-12)
    assert own.sd("rank1") == pytest.approx(statistics.stdev(values), rel=1e-12)
    assert len(other.evaluations) == 2
    assert other.mean("rank1") == pytest.approx(statistics.fmean(values[1:]) / 2, rel=1e-12)


def test_a_set_is_known_by_its_checksum(tmp_path: Path) -> None:
    """Two sets of one name are two columns, with the start of their checksums; one set of two names is one column."""
    first = make_run(tmp_path / "first", "mars", 0.9, {})
    rebuilt = {"name": "mars", "checksum": "d4" * 32}
    renamed = {"name": "my-mars", "checksum": SUMS["mars"]}
    second = make_run(tmp_path / "second", "duke", 0.8, {})
    write_scores(second / "evaluations" / "rebuilt", "mars", 0.2, dataset=rebuilt)
    write_scores(second / "evaluations" / "renamed", "mars", 0.3, dataset=renamed)
    made = matrix(first, second)
    assert made.labels == ["mars a1a1a1a1", "duke", "mars d4d4d4d4"]
    assert texts(made) == [["90*", "", ""], ["30", "80*", "20"]]


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"protocol": "queries-removed"}, "mars, queries-removed"),
        ({"split": "3"}, "mars, split 3"),
        ({"eval": {**EVAL, "num_frames": 8}}, "mars, num_frames 8"),
        ({"eval": {**EVAL, "flip": True}}, "mars, flip true"),
        ({"eval": {**EVAL, "resolution": 64}}, "mars, resolution 64"),
    ],
)
def test_other_terms_are_another_column(changes: dict[str, Any], label: str, tmp_path: Path) -> None:
    """Another protocol, split or setting of the evaluation: never in the cell of comparable scores."""
    first = make_run(tmp_path / "first", "mars", 0.9, {})
    second = make_run(tmp_path / "second", "duke", 0.8, {})
    write_scores(second / "evaluations" / "mars", "mars", 0.3, **changes)
    made = matrix(first, second)
    assert made.labels[1] == label
    assert texts(made) == [["90*", "", ""], ["", "30", "80*"]]


def test_the_mean_over_splits_has_its_deviation(tmp_path: Path) -> None:
    """The folder of `--data.split all` is trained on the set of its runs."""
    run = tmp_path / "all"
    write_scores(run, "prid", 0.5, split="all", sd={"rank1": 0.02}, splits={"0": {}, "1": {}})
    (run / "split-0").mkdir()
    (run / "split-0" / "environment.json").write_text(json.dumps({"shards_checksum": SUMS["prid"]}))
    made = matrix(run, make_run(tmp_path / "one", "mars", 0.9, {}))
    cell = made.lines[0].cells[0]
    assert cell is not None
    assert (cell.is_own, cell.sd("rank1"), cell.sd("mAP")) == (True, 0.02, None)


def test_one_set_is_no_matrix(tmp_path: Path) -> None:
    """Runs that were scored on the set that they were trained on: the table of scores has that already."""
    runs = [make_run(tmp_path / name, "mars", 0.9, {}) for name in ("first", "second")]
    assert not matrix(*runs).is_across
    write_scores(runs[1], "mars", 0.9, dataset={"name": "duke", "checksum": SUMS["duke"]})
    assert matrix(*runs).is_across


def test_what_is_left_out_is_remarked(tmp_path: Path) -> None:
    """Scores of a checkpoint are of another model; without a data set, or of equal terms twice, no cell can hold them;
    an own set that is unknown is not guessed."""
    run = make_run(tmp_path / "run", "mars", 0.9, {"duke": 0.4})
    write_scores(run / "evaluations" / "step-5", "prid", 0.1, checkpoint="checkpoints/step-5")
    write_scores(run / "evaluations" / "twice", "duke", 0.2)
    write_scores(run / "evaluations" / "unnamed", "prid", 0.2, dataset=None)
    (run / "evaluations" / "z").mkdir()
    (run / "evaluations" / "z" / "evaluation.json").write_text("[")
    bare = tmp_path / "bare"
    write_scores(bare / "elsewhere", "duke", 0.3)
    (bare / "elsewhere" / "config.yaml").write_text("seed: 0\n")
    made = matrix(run, bare / "elsewhere")
    assert texts(made)[0] == ["90*", "40"]
    assert made.remarks[:2] == [
        "run/evaluations/twice/evaluation.json: left out, because run/evaluations/duke/evaluation.json has the same "
        "data set, protocol, split and settings.",
        "run/evaluations/unnamed/evaluation.json: left out, because it names no data set, protocol or split.",
    ]
    assert made.remarks[2].startswith("run: evaluations/z/evaluation.json cannot be read")
    assert len(made.remarks) == 3


def test_an_unknown_training_set_is_not_guessed(tmp_path: Path) -> None:
    """Files that name the set of neither the training nor the run's own scores: no mark, and a remark."""
    known = make_run(tmp_path / "known", "mars", 0.9, {"duke": 0.4})
    unknown = tmp_path / "unknown"
    write_scores(unknown / "evaluations" / "mars", "mars", 0.5)
    (unknown / "config.yaml").write_text("seed: 0\n")
    made = matrix(known, unknown)
    assert texts(made) == [["90*", "40"], ["50", ""]]
    assert made.lines[1].trained_on is None
    assert "No data set is marked as the own of unknown: its training set is unknown." in made.remarks


ODD: list[Any] = [None, 3, -1.5, "x" * 5000, True, [], [[1]], {}, {"checksum": []}, 10**400, float("nan"), "\x1b[2J"]
KEYS = ("dataset", "protocol", "split", "eval", "mAP", "rank1", "sd", "num_valid_query", "warnings", "checkpoint")


@pytest.mark.parametrize("key", KEYS)
def test_no_value_of_a_file_breaks_the_matrix(key: str, tmp_path: Path) -> None:
    """Values of any type, in the file or one level down: the other scores stay, and no text steers a terminal."""
    run = make_run(tmp_path / "run", "mars", 0.9, {"duke": 0.4})
    for number, odd in enumerate(ODD):
        write_scores(run / "evaluations" / f"odd-{number}", "prid", 0.1, **{key: odd})
        inner = {"name": odd, "checksum": odd, "num_frames": odd, "rank1": odd}
        write_scores(run / "evaluations" / f"inner-{number}", "prid", 0.2, **{key: inner})
    made = matrix(run, make_run(tmp_path / "other", "duke", 0.8, {}))
    assert made.labels[0].startswith("mars")
    of_run = dict(zip(made.columns, made.lines[0].cells, strict=True))
    scores = {cell.evaluations[0].place: cell.mean("rank1") for cell in of_run.values() if cell is not None}
    assert (scores["run/evaluation.json"], scores["run/evaluations/duke/evaluation.json"]) == (0.9, 0.4)
    assert all(label.isprintable() for label in made.labels)


@pytest.mark.parametrize("odd", ["0.5", True, 1.5, -0.1, float("nan"), 10**400, [0.5], {}])
def test_what_is_no_score_is_empty(odd: object, tmp_path: Path) -> None:
    """A value that is no fraction is shown by no number, and is remarked."""
    run = make_run(tmp_path / "run", "mars", 0.9, {})
    write_scores(run / "evaluations" / "duke", "duke", odd)
    made = matrix(run, make_run(tmp_path / "other", "duke", 0.8, {}))
    cell = made.lines[0].cells[1]
    assert cell is not None
    assert cell.mean("rank1") is None
    assert made.remarks == ["run/evaluations/duke/evaluation.json: rank1 is not a score."]
