"""A checkpoint by the names that a user gives it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mstat.errors import UserError
from mstat.runs.checkpoint import find


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints by their names alone; the evaluation after step 10 was the best."""
    for step in (10, 20, 30):
        folder = tmp_path / "checkpoints" / f"step-{step:09d}"
        folder.mkdir(parents=True)
        (folder / "checkpoint.json").touch()
    records = [{"step": 5, "mAP": 0.1, "kept": True}, {"step": 10, "mAP": 0.3, "kept": True}, {"step": 20, "mAP": 0.2}]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "step"),
    [("newest", 30), ("best", 10), ("20", 20), ("step-000000020", 20), ("{}/checkpoints/step-000000010", 10)],
)
def test_every_name_of_a_checkpoint(run: Path, name: str, step: int) -> None:
    """A path, a folder's name, a step, `newest` and `best`."""
    assert find(run, name.format(run)) == run / "checkpoints" / f"step-{step:09d}"


def test_what_is_not_there_is_named(run: Path) -> None:
    """With those that are; and how a best one is kept."""
    with pytest.raises(UserError, match=r"step-000000040: not a checkpoint .*step-000000010, step-000000020, step-00"):
        find(run, "40")
    (run / "evaluations.jsonl").unlink()
    with pytest.raises(UserError, match=r"no best checkpoint; train with --train\.keep_best true"):
        find(run, "best")
