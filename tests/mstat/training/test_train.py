"""Settings that a training refuses before any work, and settings that must not change when it resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mstat
import shards
from mstat.config import Config, changed
from mstat.config.cli import load_config, override
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.model import MSTAT
from mstat.training.objective import ReIdentification
from mstat.training.train import _due, run_facts, train, training_sampler
from mstat.weights.checkpoint_files import read_weights
from shards.read import Reader
from tests.conftest import assert_same_losses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.keep_best": "true"}, "train.keep_best needs evaluations during training: set"),
        ({"data.split": "9"}, "9"),
        ({"batch.num_identities": "100"}, "100"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_the_work(
    settings: dict[str, str], message: str, tiny_config: Path, tmp_path: Path
) -> None:
    """No run folder is made."""
    changes: dict[str, Any] = {"run": str(tmp_path / "run"), **settings}
    config = override(load_config(tiny_config), changes)
    with pytest.raises((UserError, shards.records.UsageError), match=message):
        train(config, Engine(config))
    assert not (tmp_path / "run").exists()


def test_the_sampler_has_the_training_identities_alone(tiny_config: Path) -> None:
    """Of the protocol and split; the test's people are never trained on."""
    config = load_config(tiny_config)
    reader = shards.open(config.data.shards)
    sampler = training_sampler(reader, config)
    roles = reader.roles(config.data.protocol, config.data.split)
    is_training = (roles & shards.records.Role.TRAIN) > 0
    assert sorted(sampler.pids) == sorted(set(reader.pids[is_training].tolist()))
    assert not set(sampler.pids) & set(reader.pids[~is_training].tolist())
    assert sampler.size == config.batch.num_identities * config.batch.num_tracklets


def test_an_epoch_of_tracklets(tiny_config: Path) -> None:
    """`schedule.epoch tracklets` counts max(1, n // K) groups of each training identity, P of which make a step."""
    config = override(load_config(tiny_config), {"schedule.epoch": "tracklets"})
    reader = shards.open(config.data.shards)
    is_training = (reader.roles(config.data.protocol, config.data.split) & shards.records.Role.TRAIN) > 0
    pids = reader.pids[is_training].tolist()
    groups = sum(max(1, pids.count(pid) // config.batch.num_tracklets) for pid in set(pids))
    assert training_sampler(reader, config).steps_per_epoch == groups // config.batch.num_identities


def test_facts_change_with_what_changes_the_run(tiny_config: Path) -> None:
    """A run goes on with more steps, from other weights or to another folder, and with no other seed or model."""
    config = load_config(tiny_config)
    reader, engine = shards.open(config.data.shards), Engine(config)
    facts = run_facts(config, engine, reader)
    for changes in (
        {"train.steps": "40"},
        {"run": "elsewhere"},
        {"train.log_every": "7"},
        {"train.log_with": "[tensorboard]"},
        {"model.init": "weights.pt"},
        {"schedule.epoch": "tracklets"},
        {"loss.stage_weights": "[1, 2, 3]"},
    ):
        assert run_facts(override(config, changes), engine, reader) == facts
    for changes in (
        {"seed": "5"},
        {"batch.num_identities": "5"},
        {"model.width": "64"},
        {"optim.name": "sgd"},
        {"optim.betas": "[0.9, 0.99]"},
        {"optim.head_lr": "2"},
        {"optim.bias_lr": "2"},
        {"optim.layer_decay": "0.5"},
        {"optim.freeze_steps": "2"},
    ):
        changed = run_facts(override(config, changes), engine, reader)
        assert changed != facts
        assert changed == json.loads(json.dumps(changed)), "as a checkpoint returns them"
    assert {facts[f"optim.{name}"] for name in ("betas", "head_lr", "freeze_steps")} == {None}, "as in old checkpoints"


class Watched(ReIdentification):
    """Re-identification that notes the weights that it is given to score, in the place of their scores."""

    def __init__(self) -> None:
        self.scored: list[dict[str, torch.Tensor]] = []

    def score(self, engine: Engine, model: MSTAT, reader: Reader, config: Config) -> tuple[dict[str, Any], str]:
        self.scored.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"mAP": 0.5}, ""

    def evaluate(self, engine: Engine, model: MSTAT, reader: Reader, config: Config) -> dict[str, Any]:
        return self.score(engine, model, reader, config)[0]

    def report(self, run: Path, reader: Reader) -> str:
        return ""


def test_the_average_is_scored_and_exported(tiny_config: Path, tmp_path: Path) -> None:
    """During training and after it; the losses are those of a run without an average. A run that goes on from step 1
    ends with the same average, bit for bit."""
    plain, averaged = tmp_path / "plain", tmp_path / "averaged"
    every = {"train.steps": 2, "train.save_every": 1, "train.eval_every": 1}
    for folder, ema in ((plain, None), (averaged, 0.9)):
        config = changed(load_config(tiny_config), {"run": str(folder), "train.ema": ema, **every})
        watched = Watched()
        train(config, Engine(config), watched)
        assert_same_losses(folder, plain, rel=0)
    for step, scored in zip((1, 2), watched.scored, strict=True):
        average, raw = (read_weights(run / "checkpoints" / f"step-{step:09d}") for run in (averaged, plain))
        assert all(torch.equal(tensor, average[f"model.{name}"]) for name, tensor in scored.items())
        assert not all(torch.equal(tensor, raw[f"model.{name}"]) for name, tensor in scored.items())
    first, second = (read_weights(averaged / "checkpoints" / f"step-{step:09d}") for step in (1, 2))
    for name, tensor in second.items():  # `raw` is of step 2
        torch.testing.assert_close(tensor, first[name].lerp(raw[name], 1 - 2 / 11))
    loaded = mstat.load(averaged).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in watched.scored[-1].items())

    before = (averaged / "model.safetensors").read_bytes()
    shutil.rmtree(averaged / "checkpoints" / "step-000000002")
    train(config, Engine(config), Watched())
    assert (averaged / "model.safetensors").read_bytes() == before


def test_when_something_is_due() -> None:
    """Every so many steps, not before the first; null and 0 are never."""
    assert [step for step in range(10) if _due(step, 3)] == [3, 6, 9]
    assert not any(_due(step, every) for step in range(10) for every in (None, 0))
    assert np.all([_due(step, 1) for step in range(1, 5)])
