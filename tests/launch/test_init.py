"""`--model.init` as a user gives it: a table and a record of the start, or one line and nothing done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import NO_SCORES, PROJECT
from tests.mstat.weights.test_pretrained import timesformer_weights
from tests.mstat.weights.test_safe_load import Hostile


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command itself, without a launcher around it."""
    command = [sys.executable, str(PROJECT / "launch" / "train.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


@pytest.mark.parametrize("name", ["hostile.pyth", "hostile.safetensors"])
def test_a_hostile_file_ends_a_run_before_it_begins(tmp_path: Path, tiny_config: Path, name: str) -> None:
    """Exit status 1, one line that names the file, no traceback, nothing run, no run folder."""
    path, trace = tmp_path / name, tmp_path / "ran"
    torch.save({"model_state": {**timesformer_weights(), "hook": Hostile(trace, "system")}}, path)
    ended = train("--config", tiny_config, "--run", tmp_path / "run", "--model.init", path)
    assert ended.returncode == 1, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if "error" in line.lower() or name in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {path}: not a file of plain tensors: ")
    assert "Traceback" not in ended.stderr
    assert not trace.exists()
    assert not (tmp_path / "run").exists()


def test_a_start_is_told_and_recorded(tmp_path: Path, tiny_config: Path) -> None:
    """The table is printed once, when the run begins; init.json has every key and every tensor, classifiers too."""
    path, run = tmp_path / "k600.pyth", tmp_path / "run"
    torch.save({"model_state": {f"model.{key}": value for key, value in timesformer_weights().items()}}, path)
    flags = ["--config", tiny_config, "--run", run, "--model.init", path, *NO_SCORES]
    begun = train(*flags, "--train.steps", "1")
    assert begun.returncode == 0, begun.stderr
    assert "2-D bicubic, 4 x 4 -> 4 x 2 (16 -> 8 positions)" in begun.stdout
    record = json.loads((run / "init.json").read_text())
    assert record["file"] == str(path)
    assert {row["key"] for row in record["rows"]} == {"-"} | {f"model.{key}" for key in timesformer_weights()}
    assert {"heads.I.classifier.weight", "stem.position"} <= {row["ours"] for row in record["rows"]}

    gone_on = train(*flags, "--train.steps", "2")
    assert gone_on.returncode == 0, gone_on.stderr
    assert "bicubic" not in gone_on.stdout
