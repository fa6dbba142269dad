"""Training batches as a torch data set, for training loops of other people."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from mstat.config import Config
from mstat.data.loader import Tensors, TrainingBatches
from mstat.data.sampler import Sampler
from shards.read import Reader


class Steps(Dataset[Tensors]):
    """The P x K batch of each step, augmented; item s is the batch of step s, a pure function of (config.seed, s).

    An item is a whole batch, so a DataLoader takes `batch_size=None`, keeps the order (`shuffle=False`), and may have
    any number of workers. It is a dict of `frames_BTHWC`, uint8 of shape (B, T, H, W, 3) at `config.model.image_size`,
    and `labels_B`, int64 class numbers; `pids` has the identity of each class.

    Args:
        reader: Result of `shards.open`.
        sampler: Result of `mstat.training.train.training_sampler(reader, config)`.
        config: Settings; `config.clip` has those of the augmentation.
        num_steps: Number of steps, the length of the data set.
        rank, world_size: With several processes, an item is the slice of this rank of the batch; all ranks take all
            steps, so no sampler or launcher may divide the steps among them.
    """

    def __init__(
        self, reader: Reader, sampler: Sampler, config: Config, num_steps: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.batches = TrainingBatches(reader, sampler, config, rank, world_size)
        self.pids, self.num_steps = sampler.pids, num_steps

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: int) -> Tensors:
        if not 0 <= step < self.num_steps:
            raise IndexError(step)
        room = self.batches.room()
        self.batches.fill(room, step)
        first, end = self.batches.bounds
        return {
            "frames_BTHWC": torch.from_numpy(room["frames_BTHWC"]),
            "labels_B": torch.from_numpy(room["labels_n"][first:end]),
        }
