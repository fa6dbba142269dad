"""Training batches as a torch data set: those of training, by any number of workers, sliced over ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import shards
from mstat.config import Config
from mstat.config.cli import load_config
from mstat.data.loader import load
from mstat.data.steps import Steps
from mstat.training.train import training_sampler


@pytest.fixture
def config(tiny_config: Path) -> Config:
    return load_config(tiny_config)


def steps(config: Config, num_steps: int = 5, rank: int = 0, world_size: int = 1) -> Steps:
    reader = shards.open(config.data.shards)
    return Steps(reader, training_sampler(reader, config), config, num_steps, rank, world_size)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_training(workers: int, config: Config) -> None:
    items = steps(config)
    batches = list(DataLoader(items, batch_size=None, num_workers=workers))
    assert len(batches) == len(items) == 5
    expected = load(items.batches, range(5), 0, pin_memory=False)
    for batch, theirs in zip(batches, expected, strict=True):
        assert torch.equal(batch["frames_BTHWC"], theirs["frames_BTHWC"])
        assert torch.equal(batch["labels_B"], theirs["labels_n"])
    with pytest.raises(IndexError):
        items[5]


def test_ranks_share_a_batch(config: Config) -> None:
    whole, *parts = (steps(config, rank=rank, world_size=size)[3] for rank, size in [(0, 1), (0, 3), (1, 3), (2, 3)])
    for name, value in whole.items():
        assert torch.equal(value, torch.cat([part[name] for part in parts]))
