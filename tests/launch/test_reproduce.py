"""An experiment of the paper as a user starts it: a share of its runs, then the rest and the table."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import metrics, run


def test_an_experiment_from_its_runs_to_its_table(tiny_config: Path, tmp_path: Path) -> None:
    """A cluster job does its share; the next start does what is missing, on two processes, and writes the table; an
    experiment that needs no run more trains none."""
    arguments = ["--quick", "--config", tiny_config, "--out", tmp_path, "--train.steps", 2]
    status, output = run("reproduce", ["table3", *arguments, "--array-task", "2/4"], accelerate=None)
    assert status == 0, output
    assert "run 1 of 1" in output
    assert "3 runs of table3 are not done" in output
    runs = tmp_path / "runs"
    assert [path.name for path in runs.iterdir()] == ["model.iap=II"]
    assert len(metrics(runs / "model.iap=II" / "seed-0")) == 2, "a flag of the user's counts more than --quick"
    trained = (runs / "model.iap=II" / "seed-0" / "model.safetensors").stat()

    status, output = run("reproduce", ["table3", *arguments], accelerate="ddp", processes=2)
    assert status == 0, output
    assert "run 2 of 4: " in output
    assert output.count(" is done") == 1
    assert (runs / "model.iap=II" / "seed-0" / "model.safetensors").stat() == trained
    table = json.loads((tmp_path / "table3.json").read_text())
    assert [row["ours"]["mAP"]["values"] == [None] for row in table["rows"]] == [False] * 4
    assert "| *paper, MARS* | 91.8 | 97.4 | 85.3 |" in (tmp_path / "table3.md").read_text()
    assert "IAP in both" in output

    status, output = run("reproduce", ["table2", *arguments], accelerate=None)
    assert status == 0, output
    assert "run 1 of 1" in output
    assert output.count(" is done") == 1
    assert "Stages I, II and III" in output
