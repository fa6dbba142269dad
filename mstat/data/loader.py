"""From a plan to tensors: training batches by step, evaluation batches by number, made in worker processes.

Both data sets are pure functions of their index, so the number of workers and ranks changes nothing but the time,
and a run that goes on at step k starts reading there. Legend: B clips of this rank, n clips of the global batch,
T frames, H, W, C = 3, N patches, R residual branches.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from mstat import signals
from mstat.config import Config
from mstat.data.augment import augment
from mstat.data.clips import evaluation_clips, training_frames
from mstat.data.degrade import occlude, shrink
from mstat.data.plan import CLIPS, Plan, slice_bounds
from mstat.model.noise import draw_noise
from shards import pictures
from shards.read import Reader

# Pickled to the workers and back: whole numbers of clips, never single frames.
Arrays = dict[str, torch.Tensor]


class TrainingBatches(Dataset[Arrays]):
    """`[step]` -> this rank's part of the batch of a step.

    frames_BTHWC uint8, tps_BTN int64, keep_BR float32 (see `mstat.model.noise`) of the rank's slice, and
    labels_n int64 of the whole global batch.
    """

    def __init__(self, reader: Reader, plan: Plan, config: Config, rank: int, world_size: int) -> None:
        self.reader, self.plan, self.config = reader, plan, config
        self.bounds = slice_bounds(plan.size, world_size, rank)

    def __getitem__(self, step: int) -> Arrays:
        batch = self.plan.batch(step)
        clips = [self._clip(step, position, int(batch.tracklets_n[position])) for position in range(*self.bounds)]
        frames, tps, keep = default_collate(clips)  # in a worker, straight into memory that the trainer shares
        return {"frames_BTHWC": frames, "tps_BTN": tps, "keep_BR": keep, "labels_n": torch.from_numpy(batch.labels_n)}

    def _clip(self, step: int, position: int, tracklet: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        config = self.config
        rng = np.random.default_rng([config.seed, CLIPS, step, position])
        numbers = training_frames(int(self.reader.num_frames[tracklet]), config.clip, rng)
        frames_THWC = self.reader.frames(tracklet, numbers, size=config.model.image_size)
        return augment(frames_THWC, config.clip, rng), *draw_noise(rng, config.model, config.clip.num_frames)


class EvaluationBatches(Dataset[Arrays]):
    """`[number]` -> the clips of one batch on a grid that does not depend on the number of ranks.

    frames_BTHWC uint8 with B = eval.batch_size always (the last clip is repeated to fill up, so that every matrix
    product has one shape), and rows_B int64: the place of each clip's tracklet in `tracklets`, -1 for a filler.

    Args:
        num_intact: Places from here on get `eval.occlusion` and `eval.resolution`.
    """

    def __init__(
        self,
        reader: Reader,
        tracklets: Sequence[int],
        batches: list[list[tuple[int, int]]],
        config: Config,
        size: tuple[int, int],
        num_intact: int,
    ) -> None:
        self.reader, self.tracklets, self.batches, self.config, self.size = reader, tracklets, batches, config, size
        self.num_intact = num_intact

    def __getitem__(self, number: int) -> Arrays:
        clips = self.batches[number]
        frames = []
        for row, clip in clips:
            tracklet = int(self.tracklets[row])
            numbers = evaluation_clips(int(self.reader.num_frames[tracklet]), self.config.eval, tracklet)[clip]
            frames.append(self._frames(tracklet, numbers, intact=row < self.num_intact))
        filler = self.config.eval.batch_size - len(clips)
        rows = [row for row, _ in clips] + [-1] * filler
        return {"frames_BTHWC": default_collate(frames + [frames[-1]] * filler), "rows_B": torch.tensor(rows)}

    def _frames(self, tracklet: int, numbers: np.ndarray, intact: bool) -> np.ndarray:
        config = self.config.eval
        if intact:
            return self.reader.frames(tracklet, numbers, size=self.size)
        if config.resolution is None:
            frames_THWC = self.reader.frames(tracklet, numbers, size=self.size)
        else:
            frames_THWC = pictures.resize(shrink(self.reader.frames(tracklet, numbers), config.resolution), self.size)
        return occlude(frames_THWC, config.occlusion, config.seed, tracklet)


def load(dataset: Dataset[Arrays], indices: Sequence[int], num_workers: int, pin_memory: bool) -> DataLoader[Arrays]:
    """The batches of `indices` in their order, made ahead by `num_workers` processes."""
    options: dict[str, Any] = {}
    start_fork_server(num_workers)
    if num_workers:
        context = multiprocessing.get_context("forkserver")
        options = {"multiprocessing_context": context, "prefetch_factor": 3, "worker_init_fn": _watch_trainer}
    return DataLoader(
        dataset, batch_size=None, sampler=indices, num_workers=num_workers, pin_memory=pin_memory, **options
    )


def start_fork_server(num_workers: int) -> None:
    """What workers are forked from; forking this process itself, with its compute and communication threads, can hang.

    It imports torch, for a second or two: begin early, and there is something else to do meanwhile.
    """
    if num_workers:
        multiprocessing.get_context("forkserver").set_forkserver_preload(["mstat.data.loader"])
        resource_tracker.ensure_running()  # starting it lets signals through again
        with signals.blocked():
            forkserver.ensure_running()


def _watch_trainer(worker: int) -> None:
    """End with the trainer, also where it is killed: torch watches a worker's parent, which is the fork server."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
