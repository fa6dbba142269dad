"""The runs of `make bench-loading`: the loader's parts, its own rate, and what a trainer of a given pace sees of it."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

import shards
from mstat.config import Config, DataConfig
from mstat.data.augment import augment
from mstat.data.clips import training_frames
from mstat.data.loader import Arrays, TrainingBatches, load
from mstat.model.randomness import draw_noise
from mstat.training.train import training_sampler
from shards import images

WORKERS = 2
ROUNDS, STEPS = 5, 20  # of the parts
FREE_STEPS, PACED_STEPS, MEMORY_STEPS, SAMPLED_EVERY = 150, 400, 600, 5
WARM_UP = 100  # steps of a worker's life that count for its start: files opened, index touched, heap grown


class Timed:
    """Batches that tell when they were made, by the clock that all processes share."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def room(self) -> Arrays:
        return {**self.batches.room(), "made": np.empty(1)}

    def fill(self, room: Arrays, step: int) -> None:
        self.batches.fill(room, step)
        room["made"][:] = time.perf_counter()


class Free(NamedTuple):
    """The loader with nothing to wait for. Seconds; `steps` is wall clock of each."""

    first: float
    steps: np.ndarray
    workers_cpu: float  # of a clip, all workers together
    trainer_cpu: float

    @property
    def cpu(self) -> float:
        return self.workers_cpu + self.trainer_cpu


def training(path: Path) -> TrainingBatches:
    """The batches of one rank, at the paper's settings."""
    config = Config(data=DataConfig(shards=str(path)))
    reader = shards.open(path)
    return TrainingBatches(reader, training_sampler(reader, config), config, rank=0, world_size=1)


def parts(dataset: TrainingBatches) -> dict[str, float]:
    """CPU seconds a clip of each part of making a batch, in this process with one thread: medians of the rounds."""
    rounds = [one_round(dataset, range(first, first + STEPS)) for first in range(0, ROUNDS * STEPS, STEPS)]
    medians = {part: statistics.median(one[part] for one in rounds) for part in rounds[0]}
    whole = medians.pop("all of it")
    return {**medians, "read, check and all else": whole - sum(medians.values()), "all of it": whole}


def one_round(dataset: TrainingBatches, steps: range) -> dict[str, float]:
    """The batches of some steps as the loader makes them, and their parts one by one on the same clips."""
    sampler, reader, config = dataset.sampler, dataset.reader, dataset.config
    size, num_frames = config.model.image_size, config.clip.num_frames
    rng = np.random.default_rng(steps.start)
    encoded = []
    for step in steps:
        for tracklet in sampler.batch(step).tracklets_n.tolist():
            numbers = training_frames(int(reader.num_frames[tracklet]), config.clip, rng)
            encoded.append([reader.encoded(tracklet, number) for number in numbers])
    frames = [decoded(clip, size) for clip in encoded[: sampler.size]]
    room = dataset.room()
    in_turn = islice(cycle(zip(frames, room["frames_BTHWC"], strict=True)), len(encoded))
    seconds = {
        "all of it": cpu(lambda: [dataset.fill(room, step) for step in steps]),
        "plan": cpu(lambda: [sampler.batch(step) for step in steps]),
        "decode and resize": cpu(lambda: spent(decoded(clip, size) for clip in encoded)),
        "augment": cpu(
            lambda: spent(
                augment(clip, config.clip, rng, out) for _, (clip, out) in zip(encoded, in_turn, strict=False)
            )
        ),
        "noise": cpu(lambda: spent(draw_noise(rng, config.model, num_frames) for _ in encoded)),
    }
    return {part: taken / len(encoded) for part, taken in seconds.items()}


def decoded(encoded: list[bytes], size: tuple[int, int]) -> np.ndarray:
    """A clip of bytes in memory: what no loader of these pictures can leave out."""
    return images.resize(np.stack([images.decode(data, size) for data in encoded]), size)


def spent(results: Iterable[object]) -> None:
    """Make them all and keep none, as the loader does: what is kept needs new pages."""
    deque(results, maxlen=0)


def cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def take(dataset: TrainingBatches, num_workers: int, num_steps: int) -> Iterator[float]:
    """Take batches as fast as they come; seconds that each was waited for, the first from the start of the workers."""
    began = time.perf_counter()
    for _ in load(dataset, range(num_steps), num_workers, pin_memory=False):
        yield time.perf_counter() - began
        began = time.perf_counter()


def workers() -> list[psutil.Process]:
    return [psutil.Process(child.pid) for child in multiprocessing.active_children()]


def run_free(dataset: TrainingBatches, num_workers: int) -> Free:
    """The loader's own rate."""

    def cpu_seconds() -> float:
        return sum(sum(worker.cpu_times()[:2]) for worker in processes)

    batches = take(dataset, num_workers, FREE_STEPS + 30)
    first = next(batches)
    processes = workers()
    for _ in range(9):  # what was made ahead
        next(batches)
    of_workers, of_trainer = cpu_seconds(), time.process_time()
    steps = np.array([next(batches) for _ in range(FREE_STEPS)])
    num_clips = FREE_STEPS * dataset.sampler.size
    result = (cpu_seconds() - of_workers) / num_clips, (time.process_time() - of_trainer) / num_clips
    batches.close()
    return Free(first, steps, *result)


def paced(dataset: TrainingBatches, num_steps: int, pace: float) -> Iterator[tuple[float, float]]:
    """A trainer that takes `pace` seconds a step, the copy of the batch included.

    Of each step the seconds until it had its batch, and those until that was made: below 0 where it was there already.
    """
    batches = load(Timed(dataset), range(num_steps), WORKERS, pin_memory=False)
    copy = None
    for _ in range(num_steps):
        began = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        copy = batch["frames_BTHWC"].clone() if copy is None else copy.copy_(batch["frames_BTHWC"])
        yield ready - began, batch["made"].item() - began
        time.sleep(max(0.0, ready + pace - time.perf_counter()))


def run_paced(dataset: TrainingBatches, pace: float) -> np.ndarray:
    """Rows of the two times of each step."""
    return np.array(list(paced(dataset, PACED_STEPS, pace)))


def run_watched(dataset: TrainingBatches, pace: float) -> np.ndarray:
    """Rows of step, and bytes of all workers together: PSS (their share of resident pages), and what is anonymous."""
    rows = []
    processes: list[psutil.Process] = []
    for step, _ in enumerate(paced(dataset, MEMORY_STEPS, pace)):
        processes = processes or workers()
        if step >= WARM_UP and step % SAMPLED_EVERY == 0 and step < MEMORY_STEPS - 10:  # they end ahead of the trainer
            sizes = [worker.memory_full_info() for worker in processes]
            rows.append((step, sum(size.pss for size in sizes), sum(size.rss - size.shared for size in sizes)))
    return np.array(rows, dtype=np.float64)
