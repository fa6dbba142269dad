"""The loader: the same pixels, noise and labels for any number of ranks and workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import shards
from mstat.config import Config
from mstat.configure import load_config
from mstat.data.loader import EvaluationBatches, TrainingBatches, load
from mstat.train import training_plan


@pytest.fixture
def config(tiny_config: Path) -> Config:
    return load_config(tiny_config, ["--model.tps_probability", "0.5", "--model.drop_path", "0.5"])


def batches(config: Config, world_size: int, num_workers: int, steps: range) -> list[dict[str, torch.Tensor]]:
    """Global batches of some steps, put together from the slices of all ranks."""
    reader = shards.open(config.data.shards)
    plan = training_plan(reader, config)
    ranks = [
        list(load(TrainingBatches(reader, plan, config, rank, world_size), steps, num_workers, pin_memory=False))
        for rank in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        assert all(torch.equal(part["labels_n"], parts[0]["labels_n"]) for part in parts)
    return [
        {name: parts[0][name] if name == "labels_n" else torch.cat([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 2), (2, 0), (3, 1), (5, 0), (12, 0)])
def test_ranks_and_workers_change_nothing(config: Config, world_size: int, num_workers: int) -> None:
    """Bitwise equal frames, shuffling, drop path and labels; 12 clips over 5 ranks are ragged slices."""
    steps = range(3, 6)
    for ours, one in zip(batches(config, world_size, num_workers, steps), batches(config, 1, 0, steps), strict=True):
        assert ours.keys() == one.keys()
        assert all(torch.equal(ours[name], one[name]) for name in one)


def test_a_reached_step_costs_no_replay(config: Config) -> None:
    """Step 5 alone is step 5 after 3 and 4; another seed gives other clips of other tracklets."""
    (alone,) = batches(config, 1, 0, range(5, 6))
    after = batches(config, 1, 0, range(3, 6))[-1]
    assert all(torch.equal(alone[name], after[name]) for name in alone)
    config.seed = 1
    (other,) = batches(config, 1, 0, range(5, 6))
    assert not torch.equal(alone["frames_BTHWC"], other["frames_BTHWC"])


def test_evaluation_batches_have_one_shape(config: Config) -> None:
    """The last clip is repeated to fill a batch, and its place is -1."""
    reader = shards.open(config.data.shards)
    batch = EvaluationBatches(reader, [7, 9, 11], [[(0, 0), (2, 0)]], config, config.model.image_size)[0]
    assert batch["frames_BTHWC"].shape == (4, 4, 32, 16, 3)
    assert batch["rows_B"].tolist() == [0, 2, -1, -1]
    assert torch.equal(batch["frames_BTHWC"][1], batch["frames_BTHWC"][3])
