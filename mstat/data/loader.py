"""From a sampler to tensors: training batches by step, evaluation batches by number, made in worker processes.

Both kinds of batches are pure functions of their index, so the number of workers and ranks changes nothing but the
time, and a run that goes on at step k starts reading there. Legend: B clips of this rank, n clips of the global batch,
T frames, H, W, C = 3, N patches, R residual branches.
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
from mstat.data.sampler import CLIPS, PKSampler
from mstat.data.workers import Place, done
from mstat.distributed.gather import slice_bounds
from mstat.errors import UserError
from mstat.model.randomness import draw_noise
from shards import images
from shards.read import Reader

Arrays = dict[str, np.ndarray]
Tensors = dict[str, torch.Tensor]
AHEAD = 3  # batches that each worker may have made before they are taken


class Batches(Protocol):
    """Batches by index, all of one layout. Pickled to the workers."""

    def room(self) -> Arrays:
        """Unwritten arrays for one batch."""

    def fill(self, room: Arrays, index: int) -> None:
        """Write the batch of an index there, all of it."""


class TrainingBatches:
    """The rank's part of the batch of each step.

    frames_BTHWC uint8, tps_BTN int64, keep_BR float32 (see `mstat.model.randomness`) of the rank's slice, and
    labels_n int64 of the whole global batch.

    Args:
        colour: Of erased and padded areas, the model's pixel mean.
    """

    def __init__(
        self, reader: Reader, sampler: PKSampler, config: Config, rank: int, world_size: int, colour: Fill = GREY
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
    """Slots that batches are made in, one after another and again from the first.

    Workers and trainer share their memory, so that a number is all that is sent. A batch as new shared tensors, which
    torch would send, costs a third more than to make it, in page faults, and is handed over by a thread that has to
    wait for the worker's interpreter.
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
                f"/dev/shm: {free / 1e6:,.0f} MB free where the loader's workers need {needed / 1e6:,.0f} for their "
                "batches; give it more (docker run --shm-size), or lower data.num_workers"
            ) from error

    def slot(self, number: int) -> Tensors:
        """Views of it."""
        return {name: tensor[number] for name, tensor in self.memory.items()}


def _fill(batches: Batches, memory: Tensors, place: Place) -> None:
    slot, index = place
    batches.fill({name: tensor[slot].numpy() for name, tensor in memory.items()}, index)


def load(
    batches: Batches, indices: Sequence[int], num_workers: int, pin_memory: bool, at_once: int = 1
) -> Generator[Tensors]:
    """The batches of `indices` in their order, made ahead by `num_workers` processes.

    Their memory is used again: a batch lasts until another `at_once` of them are taken, unless it is pinned. To be
    closed by who does not take them all; it then ends its workers, as it does after an error.

    Raises:
        UserError: If a worker dies.
        Exception: What `batches.fill` raised, in a worker too.
    """
    # A place is handed out before a batch is given, so that those which are made, or wait, are never more than
    # num_workers * AHEAD; the others are the taker's.
    num_slots = num_workers * AHEAD + at_once
    ring = _Ring(batches, num_slots, shared=num_workers > 0)
    places = zip(cycle(range(num_slots)), indices, strict=False)
    with closing(done(partial(_fill, batches), ring.memory, places, num_workers, AHEAD)) as numbers:
        for number in numbers:
            slot = ring.slot(number)
            yield {name: tensor.pin_memory() for name, tensor in slot.items()} if pin_memory else slot
