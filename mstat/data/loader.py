"""Load batches as tensors in worker processes: training batches by step, evaluation batches by number.

Both kinds of batches are pure functions of their index. So the number of workers and ranks changes only the time, and a
run that resumes at step k starts reading there. Legend: B clips of this rank, n clips of the global batch, T frames, H,
W, C = 3, N patches, R residual branches.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from itertools import cycle
from typing import Protocol

import numpy as np
import torch

from mstat.config import Config, EvalConfig
from mstat.data.augment import GREY, Fill, augment
from mstat.data.clips import evaluation_clips, training_frames
from mstat.data.corruptions import occlude, shrink
from mstat.data.sampler import CLIPS, Sampler
from mstat.data.workers import Place, done
from mstat.distributed.gather import slice_bounds
from mstat.errors import UserError
from mstat.model.randomness import draw_noise
from shards import images
from shards.read import Reader

Arrays = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]
AHEAD = 3  # batches that each worker prepares in advance


class Batches(Protocol):
    """Batches by index, all of one layout. Workers get a pickled copy."""

    def room(self) -> Arrays:
        """Return uninitialised arrays for one batch."""

    def fill(self, room: Arrays, index: int) -> None:
        """Write the batch of an index into all of `room`."""


class TrainingBatches:
    """The rank's slice of the batch of each step.

    frames_BTHWC uint8, tps_BTN int64, keep_BR float32 (see `mstat.model.randomness`) of the rank's slice, and
    labels_n int64 of the whole global batch.

    Args:
        colour: Colour of erased and padded areas: the model's pixel mean.
    """

    def __init__(
        self, reader: Reader, sampler: Sampler, config: Config, rank: int, world_size: int, colour: Fill = GREY
    ) -> None:
        self.reader, self.sampler, self.config, self.colour = reader, sampler, config, colour
        self.bounds = slice_bounds(sampler.size, world_size, rank)

    def room(self) -> Arrays:
        start, stop = self.bounds
        model, num_frames = self.config.model, self.config.clip.num_frames
        tps_TN, keep_R = draw_noise(np.random.default_rng(0), model, num_frames)  # for their shapes
        return {
            "frames_BTHWC": np.empty((stop - start, num_frames, *model.image_size, 3), np.uint8),
            "tps_BTN": np.empty((stop - start, *tps_TN.shape), tps_TN.dtype),
            "keep_BR": np.empty((stop - start, *keep_R.shape), keep_R.dtype),
            "labels_n": np.empty(self.sampler.size, np.int64),
        }

    def fill(self, room: Arrays, step: int) -> None:
        batch, config = self.sampler.batch(step), self.config
        room["labels_n"][:] = batch.labels_n
        for place, position in enumerate(range(*self.bounds)):
            tracklet = int(batch.tracklets_n[position])
            rng = np.random.default_rng([config.seed, CLIPS, step, position])
            numbers = training_frames(int(self.reader.num_frames[tracklet]), config.clip, rng)
            frames_THWC = self.reader.frames(tracklet, numbers, size=config.model.image_size)
            augment(frames_THWC, config.clip, rng, room["frames_BTHWC"][place], self.colour)
            room["tps_BTN"][place], room["keep_BR"][place] = draw_noise(rng, config.model, config.clip.num_frames)


class EvaluationBatches:
    """The clips of each batch on a grid that does not depend on the number of ranks.

    frames_BTHWC uint8, where B is always eval.batch_size (the last clip is repeated, so that every matrix product has
    one shape), and rows_B int64: the index of each clip's tracklet in `tracklets`, -1 for a repeated clip.

    Args:
        num_intact: `eval.occlusion` and `eval.resolution` apply to `tracklets` from this index on.
    """

    def __init__(
        self,
        reader: Reader,
        tracklets: Sequence[int],
        batches: list[list[tuple[int, int]]],
        config: EvalConfig,
        size: tuple[int, int],
        num_intact: int,
    ) -> None:
        self.reader, self.tracklets, self.batches, self.config, self.size = reader, tracklets, batches, config, size
        self.num_intact = num_intact

    def room(self) -> Arrays:
        config = self.config
        return {
            "frames_BTHWC": np.empty((config.batch_size, config.num_frames, *self.size, 3), np.uint8),
            "rows_B": np.empty(config.batch_size, np.int64),
        }

    def fill(self, room: Arrays, number: int) -> None:
        clips = self.batches[number]
        for place, (row, clip) in enumerate(clips):
            tracklet = int(self.tracklets[row])
            numbers = evaluation_clips(int(self.reader.num_frames[tracklet]), self.config, tracklet)[clip]
            room["frames_BTHWC"][place] = self._frames(tracklet, numbers, intact=row < self.num_intact)
            room["rows_B"][place] = row
        room["frames_BTHWC"][len(clips) :] = room["frames_BTHWC"][len(clips) - 1]
        room["rows_B"][len(clips) :] = -1

    def _frames(self, tracklet: int, numbers: np.ndarray, intact: bool) -> np.ndarray:
        config = self.config
        if intact:
            return self.reader.frames(tracklet, numbers, size=self.size)
        if config.resolution is None:
            frames_THWC = self.reader.frames(tracklet, numbers, size=self.size)
        else:
            frames_THWC = images.resize(shrink(self.reader.frames(tracklet, numbers), config.resolution), self.size)
        return occlude(frames_THWC, config.occlusion, config.seed, tracklet)


class _Ring:
    """Ring buffer of slots for batches.

    Workers and trainer share its memory, so a worker only sends the number of a slot. With torch's way, new shared
    tensors for each batch, page faults cost a third of the time to make a batch, and a thread sends the batch, which
    waits for the worker's interpreter lock.
    """

    def __init__(self, batches: Batches, num_slots: int, shared: bool) -> None:
        rooms = {name: torch.from_numpy(array) for name, array in batches.room().items()}
        self.memory = {name: room.new_empty((num_slots, *room.shape)) for name, room in rooms.items()}
        if shared:
            self._share()

    def _share(self) -> None:
        try:
            for tensor in self.memory.values():
                tensor.share_memory_()
        except RuntimeError as error:
            needed, free = sum(tensor.nbytes for tensor in self.memory.values()), shutil.disk_usage("/dev/shm").free
            raise UserError(
                f"/dev/shm: {free / 1e6:,.0f} MB free, but the loader's workers need {needed / 1e6:,.0f} MB for their "
                "batches: enlarge it (docker run --shm-size), or lower data.num_workers"
            ) from error

    def slot(self, number: int) -> Tensors:
        """Return views of a slot."""
        return {name: tensor[number] for name, tensor in self.memory.items()}


def _fill(batches: Batches, memory: Tensors, place: Place) -> None:
    slot, index = place
    batches.fill({name: tensor[slot].numpy() for name, tensor in memory.items()}, index)


def load(
    batches: Batches,
    indices: Sequence[int],
    num_workers: int,
    pin_memory: bool,
    at_once: int = 1,
    turns: Sequence[int] | None = None,
) -> Generator[Tensors]:
    """Yield the batches of `indices` in order, prepared by `num_workers` processes.

    `turns` are the numbers of the workers that prepare the batches; None deals the batches out in turn.

    Memory is reused: a batch is valid until `at_once` more are taken, unless it is pinned. Close the generator if you
    stop early; otherwise workers keep running. After an error it stops them itself.

    Raises:
        UserError: If a worker dies.
        Exception: Any error of `batches.fill`, also in a worker.
    """
    # At most num_workers * AHEAD batches are in flight; the remaining slots belong to the consumer.
    num_slots = num_workers * AHEAD + at_once
    ring = _Ring(batches, num_slots, shared=num_workers > 0)
    places = zip(cycle(range(num_slots)), indices, strict=False)
    with closing(done(partial(_fill, batches), ring.memory, places, num_workers, AHEAD, turns)) as numbers:
        for number in numbers:
            slot = ring.slot(number)
            yield {name: tensor.pin_memory() for name, tensor in slot.items()} if pin_memory else slot
