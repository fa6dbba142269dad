"""Does the loader feed a GPU? Its rate, its parts, the cores it needs, stalls, memory, starts: `make bench-loading`.

The whole loader of a training, at the paper's batch (24 clips of 8 frames of 224x112), on real pictures as they are
stored and as shards at training size. What counts is CPU time, which other work on the machine disturbs least; wall
clock is told beside it. Writes benchmarks/loading_<hardware>_<date>.md. Needs the video of ../shared/data
(MSTAT_SHARED).
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import realistic
import torch
from record import Figure, conditions, save
from scaling import BF16_PEAK, FORWARD_FLOP, table
from scipy.stats import linregress
from torch.utils.data import default_collate

import shards
from mstat.config import Config, DataConfig
from mstat.data.augment import augment
from mstat.data.clips import training_frames
from mstat.data.loader import Arrays, TrainingBatches, load
from mstat.model.noise import draw_noise
from mstat.train import training_plan
from shards import pictures
from shards.shard import Encoding
from shards.write import building, write

AS_STORED, AT_SIZE = "as stored, 256x128", "at training size, 224x112"
WANTED = {AS_STORED: 8, AT_SIZE: 4}  # cores a GPU, at most
NUM_TRACKLETS = 600  # 300 identities: 25 steps an epoch
WORKERS = 2
ROUNDS, STEPS = 5, 20  # of the parts
FREE_STEPS, PACED_STEPS, MEMORY_STEPS, SAMPLED_EVERY = 150, 400, 600, 5
WARM_UP = 100  # steps of a worker's life that count for its start: files opened, index touched, heap grown
LOAD = 0.8  # of the loader's own rate, at which the consumer takes
# https://www.nvidia.com/en-us/data-center/h200: 1,979 TFLOP/s "with sparsity", which is twice the dense rate.
PEAKS = {"A100": BF16_PEAK, "H200": 1979e12 / 2}
UTILISATION = 0.5
STALL = 2e-3  # seconds of waiting that count as a stall; taking over a batch that is there costs about one


class Free(NamedTuple):
    """The loader with nothing to wait for. Seconds; `steps` is wall clock of each."""

    first: float
    steps: np.ndarray
    workers_cpu: float  # of a clip, all workers together
    trainer_cpu: float

    @property
    def cpu(self) -> float:
        return self.workers_cpu + self.trainer_cpu


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as name:
        folder = Path(name)
        source = realistic.source(realistic.pictures(folder), NUM_TRACKLETS)
        datasets = {}
        for label, encoding in {AS_STORED: Encoding(), AT_SIZE: Encoding((224, 112))}.items():
            with building(folder / label) as place:
                write(source, place, workers=2, encoding=encoding)
            datasets[label] = training(folder / label)
        cold = next(take(datasets[AS_STORED], WORKERS, 1))  # starts the fork server, once in a process
        in_parts = {label: parts(dataset) for label, dataset in datasets.items()}
        free = {
            label: {workers: run_free(dataset, workers) for workers in (1, WORKERS)}
            for label, dataset in datasets.items()
        }
        pace = {label: float(runs[WORKERS].steps.mean()) / LOAD for label, runs in free.items()}
        waits = {label: run_paced(dataset, pace[label]) for label, dataset in datasets.items()}
        memory = {label: run_watched(dataset, pace[label]) for label, dataset in datasets.items()}
    epoch = datasets[AS_STORED].plan.steps_per_epoch
    text = [
        f"# The loader\n\n{conditions('bench-loading')}\n",
        f"Batches of {datasets[AS_STORED].plan.size} clips of 8 frames, augmented, at 224x112, from a set of "
        f"{NUM_TRACKLETS} tracklets of {realistic.LENGTH} frames: crops of a real video, JPEGs of 3.9 kB on average, "
        f"in the page cache. **GPU rate not measured here.**\n",
        parts_section(in_parts, free),
        rate_section(free),
        cores_section(free),
        stall_section(waits, pace, epoch),
        memory_section(memory),
        start_section(cold, free),
    ]
    save("loading", "\n".join(text), figures(in_parts, free, waits, memory, epoch))


def training(path: Path) -> TrainingBatches:
    """The batches of one rank, at the paper's settings."""
    config = Config(data=DataConfig(shards=str(path)))
    reader = shards.open(path)
    return TrainingBatches(reader, training_plan(reader, config), config, rank=0, world_size=1)


# --- measuring ----------------------------------------------------------------------------------------------------


def parts(dataset: TrainingBatches) -> dict[str, float]:
    """CPU seconds a clip of each part of making a batch, in this process with one thread: medians of the rounds."""
    rounds = [one_round(dataset, range(first, first + STEPS)) for first in range(0, ROUNDS * STEPS, STEPS)]
    medians = {part: statistics.median(one[part] for one in rounds) for part in rounds[0]}
    whole = medians.pop("all of it")
    return {**medians, "read, check and all else": whole - sum(medians.values()), "all of it": whole}


def one_round(dataset: TrainingBatches, steps: range) -> dict[str, float]:
    """The batches of some steps as the loader makes them, and their parts one by one on the same clips."""
    plan, reader, config = dataset.plan, dataset.reader, dataset.config
    size, num_frames = config.model.image_size, config.clip.num_frames
    rng = np.random.default_rng(steps.start)
    encoded = []
    for step in steps:
        for tracklet in plan.batch(step).tracklets_n.tolist():
            numbers = training_frames(int(reader.num_frames[tracklet]), config.clip, rng)
            encoded.append([reader.encoded(tracklet, number) for number in numbers])
    frames = [decoded(clip, size) for clip in encoded]
    batch = [(clip, *draw_noise(rng, config.model, num_frames)) for clip in frames[: plan.size]]
    seconds = {
        "all of it": cpu(lambda: [dataset[step] for step in steps]),
        "plan": cpu(lambda: [plan.batch(step) for step in steps]),
        "decode and resize": cpu(lambda: [decoded(clip, size) for clip in encoded]),
        "augment": cpu(lambda: [augment(clip, config.clip, rng) for clip in frames]),
        "noise": cpu(lambda: [draw_noise(rng, config.model, num_frames) for _ in encoded]),
        "collate": cpu(lambda: [default_collate(batch) for _ in steps]),
    }
    return {part: taken / len(encoded) for part, taken in seconds.items()}


def decoded(encoded: list[bytes], size: tuple[int, int]) -> np.ndarray:
    """A clip of bytes in memory: what no loader of these pictures can leave out."""
    return pictures.resize(np.stack([pictures.decode(data, size) for data in encoded]), size)


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
    num_clips = FREE_STEPS * dataset.plan.size
    found = (cpu_seconds() - of_workers) / num_clips, (time.process_time() - of_trainer) / num_clips
    batches.close()
    return Free(first, steps, *found)


def paced(dataset: TrainingBatches, num_steps: int, pace: float) -> Iterator[float]:
    """A trainer that takes `pace` seconds a step, the copy of the batch included; what it waited for each batch."""
    batches: Iterator[Arrays] = iter(load(dataset, range(num_steps), WORKERS, pin_memory=False))
    copy = None
    for _ in range(num_steps):
        began = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        copy = batch["frames_BTHWC"].clone() if copy is None else copy.copy_(batch["frames_BTHWC"])
        yield ready - began
        time.sleep(max(0.0, ready + pace - time.perf_counter()))


def run_paced(dataset: TrainingBatches, pace: float) -> np.ndarray:
    """Seconds waited before each step."""
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


# --- telling ------------------------------------------------------------------------------------------------------


def parts_section(in_parts: dict[str, dict[str, float]], free: dict[str, dict[int, Free]]) -> str:
    rows = [
        [part, *(f"{1e6 * found[part]:,.0f}" for found in in_parts.values())] for part in next(iter(in_parts.values()))
    ]
    transfer = [runs[1].workers_cpu - in_parts[label]["all of it"] for label, runs in free.items()]
    rows.append(["to the trainer, worker's side", *(f"{1e6 * seconds:,.0f}" for seconds in transfer)])
    rows.append(["to the trainer, its side", *(f"{1e6 * runs[1].trainer_cpu:,.0f}" for runs in free.values())])
    return (
        "## Where the time goes\n\nCPU microseconds a clip. The parts are measured one by one on clips of the same "
        f"tracklets, in one process with one thread, median of {ROUNDS} rounds of {STEPS} batches; the way to the "
        "trainer is what one worker needs beyond them (pages of new shared memory, mostly), and the trainer itself.\n\n"
        + table(["", *in_parts], rows)
        + "\n"
    )


def rate_section(free: dict[str, dict[int, Free]]) -> str:
    rows = []
    for label, runs in free.items():
        for num_workers, found in runs.items():
            clips = 24 / found.steps.mean()
            rows.append(
                [
                    f"{label}, {num_workers} worker{'s' * (num_workers > 1)}",
                    f"{clips:,.0f}",
                    f"{8 * clips:,.0f}",
                    f"{1 / found.cpu:,.0f}",
                    f"{8 / found.cpu:,.0f}",
                ]
            )
    head = ["", "clips/s", "frames/s", "clips a CPU second", "frames a CPU second"]
    return (
        f"## Rate\n\n{FREE_STEPS} batches as fast as they come. On the left by the clock, on the right by the CPU time "
        "of workers and trainer together: what one core does in a second.\n\n" + table(head, rows) + "\n"
    )


def gpu_rate(peak: float) -> float:
    """Training clips a second."""
    return UTILISATION * peak / (3 * FORWARD_FLOP)


def cores_section(free: dict[str, dict[int, Free]]) -> str:
    rows = [
        [
            f"{gpu}, {UTILISATION:.0%} of {peak / 1e12:,.0f} TFLOP/s",
            f"{gpu_rate(peak):,.0f}",
            f"{8 * gpu_rate(peak):,.0f}",
            *(f"**{gpu_rate(peak) * runs[WORKERS].cpu:.2f}**" for runs in free.values()),
        ]
        for gpu, peak in PEAKS.items()
    ]
    rows.append(
        ["any GPU, a thousand clips/s", "1,000", "8,000", *(f"{1e3 * r[WORKERS].cpu:.2f}" for r in free.values())]
    )
    rows.append(["wanted, at most", "", "", *(f"{WANTED[label]}" for label in free)])
    return (
        "## Cores that a GPU needs\n\nGPU rate not measured here: taken as half of the published dense bf16 peak "
        f"(docs/scaling.md; H200: nvidia.com/en-us/data-center/h200) over the 3 x {FORWARD_FLOP / 1e9:.1f} GFLOP of a "
        "training clip (`python -m mstat.model`). Cores are that rate times the CPU seconds of a clip, workers and "
        "the trainer's own share; a core is one of this machine.\n\n"
        + table(["", "clips/s", "frames/s", *(f"cores, {label}" for label in free)], rows)
        + "\n"
    )


def boundaries(waits: np.ndarray, epoch: int) -> np.ndarray:
    """Which steps, of those after the first, begin an epoch."""
    return np.arange(1, len(waits)) % epoch == 0


def stall_section(waits: dict[str, np.ndarray], pace: dict[str, float], epoch: int) -> str:
    rows = []
    for label, waited in waits.items():
        later, starts = waited[1:], boundaries(waited, epoch)
        rows.append(
            [
                f"{label}, {1e3 * pace[label]:.1f} ms a step",
                f"{1e3 * waited[0]:,.0f}",
                f"{1e3 * np.median(later):.2f}",
                f"{1e3 * later.max():.2f}",
                f"{1e3 * later.sum():.0f} ({later.sum() / (len(later) * pace[label]):.1%})",
                f"{(later > STALL).sum()}",
                f"{1e3 * np.median(later[starts]):.2f}",
                f"{1e3 * later[starts].max():.2f}",
            ]
        )
    head = [
        "",
        "first",
        "median",
        "max",
        "sum (of the run)",
        f"above {1e3 * STALL:.0f} ms",
        "epoch's first step",
        "max",
    ]
    return (
        "## Stalls, and the start of an epoch\n\nA trainer that takes a fixed time a step, so that it asks for "
        f"{LOAD:.0%} of what {WORKERS} workers give; {PACED_STEPS} steps, {PACED_STEPS // epoch} epochs of {epoch}. "
        "Milliseconds that it waited for a batch; to take over one that is there costs the median. The plan is a "
        "function of the step, so that workers know of no epochs and begin none.\n\n" + table(head, rows) + "\n"
    )


def slope(memory: np.ndarray, column: int) -> tuple[float, float]:
    """Growth in bytes a step, and twice its standard error."""
    found = linregress(memory[:, 0], memory[:, column])
    return found.slope, 2 * found.stderr


def memory_section(memory: dict[str, np.ndarray]) -> str:
    rows = []
    for label, sampled in memory.items():
        for column, what in ((1, "PSS"), (2, "anonymous")):
            grows, error = slope(sampled, column)
            fifth = len(sampled) // 5
            early, late = (np.median(part[:, column]) / 1e6 for part in (sampled[:fifth], sampled[-fifth:]))
            rows.append(
                [f"{label}, {what}", f"{early:,.1f}", f"{late:,.1f}", f"{grows / 1e3:+.2f} ± {error / 1e3:.2f}"]
            )
    head = ["", "first fifth, MB", "last fifth, MB", "slope, kB a step"]
    return (
        f"## Memory of the workers\n\nAll {WORKERS} together, at the same pace, steps {WARM_UP} to {MEMORY_STEPS}, "
        f"every {SAMPLED_EVERY}: medians of a fifth of the samples, and a straight line through all. PSS counts the "
        "pages of the trainer's batches that a worker has mapped at that moment, and so leaps by a batch; anonymous "
        "memory (RSS without files and shared memory) is where a leak would show.\n\n" + table(head, rows) + "\n"
    )


def start_section(cold: float, free: dict[str, dict[int, Free]]) -> str:
    again = ", ".join(f"{runs[WORKERS].first:.2f} s {label}" for label, runs in free.items())
    return (
        f"## Start of the workers\n\nFrom `load` to the first batch with {WORKERS} workers: {cold:.2f} s the first "
        f"time in a process, when a fork server starts and imports torch; afterwards {again}. A loader made anew for "
        "each epoch would pay the latter every epoch; ours is made once a training.\n"
    )


def figures(
    in_parts: dict[str, dict[str, float]],
    free: dict[str, dict[int, Free]],
    waits: dict[str, np.ndarray],
    memory: dict[str, np.ndarray],
    epoch: int,
) -> list[Figure]:
    """Rows of the one table."""
    rows = []
    for label, runs in free.items():
        found, parts_of = runs[WORKERS], in_parts[label]
        limit = 1 / parts_of["decode and resize"]
        rows.append(
            Figure(
                what=f"loader, frames {label}: clips/s of a core",
                ours=f"{1 / found.cpu:,.0f}",
                limit=f"{limit:,.0f} (decode and resize)",
                share=1 / found.cpu / limit,
            )
        )
        for gpu, peak in PEAKS.items():
            cores = f"{gpu_rate(peak) * found.cpu:.2f}"
            what = f"cores for one {gpu} at {UTILISATION:.0%} of its peak (not measured), frames {label}"
            rows.append(Figure(what=what, ours=cores, wanted=f"< {WANTED[label]}"))
        later = waits[label][1:]
        starts = boundaries(waits[label], epoch)
        rows.append(
            Figure(
                what=f"wait for a batch at {LOAD:.0%} load, frames {label}: median, max",
                ours=f"{1e3 * np.median(later):.1f} ms, {1e3 * later.max():.1f} ms",
                wanted="0",
            )
        )
        rows.append(
            Figure(
                what=f"the same at the start of an epoch, frames {label}",
                ours=f"{1e3 * np.median(later[starts]):.1f} ms, {1e3 * later[starts].max():.1f} ms",
                wanted="0",
            )
        )
        grows, error = slope(memory[label], 2)
        rows.append(
            Figure(
                what=f"anonymous memory of {WORKERS} workers, frames {label}",
                ours=f"{grows / 1e3:+.2f} ± {error / 1e3:.2f} kB a step",
                wanted="0",
            )
        )
    return rows


if __name__ == "__main__":
    main()
