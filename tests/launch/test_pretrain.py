"""Pretraining as a user starts it: two processes as one, and a training that starts from what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.pretraining.pretrain import pretrain
from mstat.training.train import train
from mstat.weights.pretrained import NOWHERE
from tests.conftest import NO_SCORES, metrics, run, state, tiny_actions_yaml


def test_two_processes_pretrain_as_one_and_training_starts_from_it(
    tiny_actions: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """launch/pretrain.py on two processes: losses of a single one to 1e-5, the same accuracy; its weights go into an
    MSTAT by --model.init; a run goes on as it was only."""
    yaml = tmp_path / "actions.yaml"
    yaml.write_text(tiny_actions_yaml(tiny_actions))
    alone, two = tmp_path / "alone", tmp_path / "two"
    config = load_config(yaml, ["--run", str(alone), "--data.num_workers", "0"])
    with Engine(config) as engine:
        evaluation = pretrain(config, engine)

    status, output = run("pretrain", ["--config", yaml, "--run", two], accelerate="ddp", processes=2)
    assert status == 0, output
    assert f"to start from this model: launch/train.py --model.init {two}/model.safetensors" in output.replace("\n", "")
    assert "step 4: accuracy" in output
    assert [record["step"] for record in metrics(two)] == list(range(1, 9))
    for ours, one in zip(metrics(two), metrics(alone), strict=True):
        assert ours["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert 0 <= ours["accuracy"] <= 1
    losses = [record["loss"] for record in metrics(two)]
    assert max(losses) - min(losses) > 0.05, "it stood still"
    assert json.loads((two / "evaluation.json").read_text()) == evaluation
    assert state(two) == {"state": "done", "step": 8, "reason": None}

    flags = ["--config", tiny_config, "--model.init", two / "model.safetensors", "--train.steps", 2, *NO_SCORES]
    status, output = run("train", [*flags, "--run", tmp_path / "run"], accelerate=None)
    assert status == 0, output
    rows = json.loads((tmp_path / "run" / "init.json").read_text())["rows"]
    assert {row["key"] for row in rows if row["ours"] == NOWHERE} >= {"time_embed", "head.weight", "head.bias"}
    assert ("blocks.0.temporal_fc.weight", "stage1.blocks.0.temporal.fc.weight") in {
        (row["key"], row["ours"]) for row in rows
    }
    again = load_config(yaml, ["--run", str(two), "--pretrain.time", "none"])
    with Engine(again) as engine, pytest.raises(ValueError, match=r"made with pretrain\.time='divided'"):
        pretrain(again, engine)
    with Engine(again) as engine, pytest.raises(ValueError, match="no queries or no gallery"):
        train(again, engine)
