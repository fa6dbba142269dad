"""Speed of the loader compared with the demand of a GPU: clips per core, cores per GPU, stalls (`make bench-loading`).

It measures the training loader with the paper's batch (24 clips of 8 frames of 224x112) on real pictures, as stored and
at training size. CPU time counts, because other work on the machine affects it least. It needs the video of
../shared/data (MSTAT_SHARED).
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch

import shards
from benchmarks import realistic
from benchmarks.harness import Figure, run_main, save, table
from benchmarks.scaling_model import BF16_PEAK, FORWARD_FLOP
from mstat.config import Config, DataConfig
from mstat.data.loader import Arrays, TrainingBatches, load
from mstat.training.train import training_sampler
from shards.shard import Encoding
from shards.write import building, write

AS_STORED, AT_SIZE = "as stored, 256x128", "at training size, 224x112"
WANTED = {AS_STORED: 8, AT_SIZE: 4}  # cores a GPU, at most
NUM_TRACKLETS, WORKERS = 600, 2
FREE_STEPS, PACED_STEPS, AHEAD = 150, 400, 10  # AHEAD batches are ready before the first is taken
LOADS = (0.8, 0.5)  # speed of the consumer, relative to the loader's
# https://www.nvidia.com/en-us/data-center/h200: 1,979 TFLOP/s "with sparsity", which is twice the dense rate.
PEAKS = {"A100": BF16_PEAK, "H200": 1979e12 / 2}
UTILISATION = 0.5


class Rate(NamedTuple):
    """Speed of the loader without waits: seconds per step, CPU seconds per clip."""

    step: float
    clip: float


class Timed:
    """Batches with the time at which they were made, by a clock that all processes share."""

    def __init__(self, batches: TrainingBatches) -> None:
        self.batches = batches

    def room(self) -> Arrays:
        return {**self.batches.room(), "made": np.empty(1)}

    def fill(self, room: Arrays, step: int) -> None:
        self.batches.fill(room, step)
        room["made"][:] = time.perf_counter()


def training(path: Path) -> TrainingBatches:
    """Return the batches of one rank, at the paper's settings."""
    config = Config(data=DataConfig(shards=str(path)))
    reader = shards.open(path)
    return TrainingBatches(reader, training_sampler(reader, config), config, rank=0, world_size=1)


def free_rate(dataset: TrainingBatches) -> Rate:
    """Take batches as fast as possible; CPU time is the sum of workers and trainer."""

    def cpu_seconds() -> float:
        return time.process_time() + sum(sum(worker.cpu_times()[:2]) for worker in workers)

    steps, num_clips = AHEAD + FREE_STEPS + 30, FREE_STEPS * dataset.sampler.size
    with closing(load(dataset, range(steps), WORKERS, pin_memory=False)) as batches:
        for _ in range(AHEAD):
            next(batches)
        workers = [psutil.Process(child.pid) for child in multiprocessing.active_children()]
        began, cpu_began = time.perf_counter(), cpu_seconds()
        for _ in range(FREE_STEPS):
            next(batches)
        taken, cpu = time.perf_counter() - began, cpu_seconds() - cpu_began
    return Rate(taken / FREE_STEPS, cpu / num_clips)


def paced(dataset: TrainingBatches, pace: float) -> Iterator[tuple[float, float]]:
    """Take a batch every `pace` seconds, including its copy.

    Yields the seconds until each step had its batch, and until the batch was made (negative if it was ready).
    """
    copy = None
    with closing(load(Timed(dataset), range(PACED_STEPS), WORKERS, pin_memory=False)) as batches:
        for _ in range(PACED_STEPS):
            began = time.perf_counter()
            batch = next(batches)
            ready = time.perf_counter()
            copy = batch["frames_BTHWC"].clone() if copy is None else copy.copy_(batch["frames_BTHWC"])
            yield ready - began, batch["made"].item() - began
            time.sleep(max(0.0, ready + pace - time.perf_counter()))


def main() -> None:
    torch.set_num_threads(1)
    rates, waits = {}, {}
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as name:
        folder = Path(name)
        source = realistic.source(folder / "files", realistic.crops(folder), NUM_TRACKLETS)
        for label, encoding in {AS_STORED: Encoding(), AT_SIZE: Encoding((224, 112))}.items():
            with building(folder / label) as place:
                write(source, place, workers=2, encoding=encoding)
            dataset = training(folder / label)
            rates[label] = free_rate(dataset)
            for share in LOADS:  # each worker's first batch is left out
                waits[label, share] = np.array(list(paced(dataset, rates[label].step / share)))[WORKERS:]
    rows, stalls, figures = [], [], []
    for label, rate in rates.items():
        clips = f"{1 / rate.clip:,.0f}"
        needed = rate.clip * UTILISATION / (3 * FORWARD_FLOP)  # cores for each FLOP/s of a GPU's peak
        cores = {gpu: f"{needed * peak:.2f}" for gpu, peak in PEAKS.items()}
        rows.append([label, f"{24 / rate.step:,.0f}", f"**{clips}**", *cores.values(), WANTED[label]])
        figures.append(Figure(f"loader, frames {label}: clips/s of a core", clips))
        for gpu, number in cores.items():
            what = f"cores for one {gpu} at {UTILISATION:.0%} of its peak (not measured), frames {label}"
            figures.append(Figure(what, number, wanted=f"< {WANTED[label]}"))
    for (label, share), times in waits.items():
        taken, made = 1e3 * times.T
        late = f"{(made > 0).sum()} of {len(times)}"
        stalls.append([f"{label}, {share:.0%} load", late, f"{np.median(taken):.1f}", f"{taken.max():.1f}"])
        what = f"steps whose batch was not made, at {share:.0%} load, frames {label}"
        figures.append(Figure(what, late, wanted="0"))
    head = ["", "clips/s", "**clips a CPU second**", *(f"cores, {gpu}" for gpu in PEAKS)]
    save(
        "loading",
        "The loader",
        f"Batches of 24 clips of 8 frames, augmented, at 224x112, made by {WORKERS} workers from a set of "
        f"{NUM_TRACKLETS} tracklets of {realistic.LENGTH} frames: crops of a real video, in the page cache. CPU time "
        "is that of workers and trainer together. **GPU rates were not measured**: cores are for "
        f"{UTILISATION:.0%} of the published dense bf16 peak (docs/scaling.md, nvidia.com/en-us/data-center/h200) over "
        f" the 3 x {FORWARD_FLOP / 1e9:.1f} GFLOP of a training clip.",
        table([*head, "wanted, at most"], rows),
        "Stalls: a trainer takes a fixed time a step, so that it asks for so much of what the workers give, and copies "
        f"each batch; {PACED_STEPS} steps. Milliseconds are those until it had its batch.",
        table(["", "not made when asked for", "ms, median", "ms, max"], stalls),
        figures=figures,
    )


if __name__ == "__main__":
    run_main(main, __doc__)
