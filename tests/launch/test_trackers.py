"""Trackers of a run that `kill -9` ends."""

from __future__ import annotations

import json
import time
from pathlib import Path

from mstat.config.cli import load_config, override
from mstat.distributed.engine import Engine
from mstat.training.trackers import FILE
from mstat.training.train import train
from tests.conftest import NO_SCORES, metrics, start
from tests.mstat.training.test_trackers import of_mlflow, of_tensorboard, sent


def test_no_step_is_doubled_or_lost_after_a_kill(tiny_config: Path, tmp_path: Path) -> None:
    """The run is killed when both trackers have steps of it, and resumes."""
    folder = tmp_path / "run"
    log_with = "[tensorboard, mlflow]"
    flags = ["--config", tiny_config, "--run", folder, *NO_SCORES, "--train.log_with", log_with]
    process = start("train", [*flags, "--train.steps", 100_000], accelerate=None)
    deadline = time.monotonic() + 120
    while not ((folder / FILE).exists() and len(sent(folder)) == 2 and min(sent(folder).values())):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.kill()
    output, _ = process.communicate()
    assert "train.log_with" not in output
    newest = max(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))
    steps = {"train.steps": str(newest + 3), "train.eval_every": "null", "train.log_with": log_with}
    config = override(load_config(tiny_config), {"run": str(folder), **steps})
    train(config, Engine(config))
    expected = list(range(1, newest + 4))
    assert [record["step"] for record in metrics(folder)] == expected
    assert [step for step, _ in of_tensorboard(folder)] == expected
    assert [step for step, _ in of_mlflow(folder)] == expected
    assert json.loads((folder / "state.json").read_text())["state"] == "done"
