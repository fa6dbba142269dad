"""Does the loader feed a GPU? Its rate, its parts, the cores it needs, stalls, memory, starts: `make bench-loading`.

The whole loader of a training, at the paper's batch (24 clips of 8 frames of 224x112), on real pictures as they are
stored and as shards at training size. What counts is CPU time, which other work on the machine disturbs least; wall
clock is told beside it. Writes benchmarks/loading_<hardware>_<date>.md. Needs the video of ../shared/data
(MSTAT_SHARED).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import realistic
import torch
from loading_runs import (
    FREE_STEPS,
    MEMORY_STEPS,
    PACED_STEPS,
    ROUNDS,
    SAMPLED_EVERY,
    STEPS,
    WARM_UP,
    WORKERS,
    Free,
    parts,
    run_free,
    run_paced,
    run_watched,
    take,
    training,
)
from record import Figure, conditions, save
from scaling import BF16_PEAK, FORWARD_FLOP, table
from scipy.stats import linregress

from shards.shard import Encoding
from shards.write import building, write

AS_STORED, AT_SIZE = "as stored, 256x128", "at training size, 224x112"
WANTED = {AS_STORED: 8, AT_SIZE: 4}  # cores a GPU, at most
NUM_TRACKLETS = 600  # 300 identities: 25 steps an epoch
LOADS = (0.8, 0.5)  # of the loader's own rate, at which the consumer takes
# https://www.nvidia.com/en-us/data-center/h200: 1,979 TFLOP/s "with sparsity", which is twice the dense rate.
PEAKS = {"A100": BF16_PEAK, "H200": 1979e12 / 2}
UTILISATION = 0.5
Waits = dict[tuple[str, float], np.ndarray]  # of a set and a load: rows of `paced`


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
        pace = {
            (label, share): float(runs[WORKERS].steps.mean()) / share for label, runs in free.items() for share in LOADS
        }
        waits = {(label, share): run_paced(datasets[label], seconds) for (label, share), seconds in pace.items()}
        memory = {label: run_watched(dataset, pace[label, LOADS[0]]) for label, dataset in datasets.items()}
    epoch = datasets[AS_STORED].sampler.steps_per_epoch
    text = [
        f"# The loader\n\n{conditions('bench-loading')}\n",
        f"Batches of {datasets[AS_STORED].sampler.size} clips of 8 frames, augmented, at 224x112, from a set of "
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


def parts_section(in_parts: dict[str, dict[str, float]], free: dict[str, dict[int, Free]]) -> str:
    rows = [
        [part, *(f"{1e6 * result[part]:,.0f}" for result in in_parts.values())]
        for part in next(iter(in_parts.values()))
    ]
    transfer = [runs[1].workers_cpu - in_parts[label]["all of it"] for label, runs in free.items()]
    rows.append(["to the trainer, worker's side", *(f"{1e6 * seconds:,.0f}" for seconds in transfer)])
    rows.append(["to the trainer, its side", *(f"{1e6 * runs[1].trainer_cpu:,.0f}" for runs in free.values())])
    return (
        "## Where the time goes\n\nCPU microseconds a clip. The parts are measured one by one on clips of the same "
        f"tracklets, in one process with one thread, median of {ROUNDS} rounds of {STEPS} batches; the way to the "
        "trainer is what one worker needs beyond them, and the trainer itself.\n\n"
        + table(["", *in_parts], rows)
        + "\n"
    )


def rate_section(free: dict[str, dict[int, Free]]) -> str:
    rows = []
    for label, runs in free.items():
        for num_workers, result in runs.items():
            clips = 24 / result.steps.mean()
            rows.append(
                [
                    f"{label}, {num_workers} worker{'s' * (num_workers > 1)}",
                    f"{clips:,.0f}",
                    f"{8 * clips:,.0f}",
                    f"{1 / result.cpu:,.0f}",
                    f"{8 / result.cpu:,.0f}",
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
    """Which steps, of those after each worker's first, begin an epoch."""
    return np.arange(WORKERS, len(waits)) % epoch == 0


def stall_section(waits: Waits, pace: dict[tuple[str, float], float], epoch: int) -> str:
    rows = []
    for (label, share), times in waits.items():
        later, starts = times[WORKERS:], boundaries(times, epoch)
        took, made = 1e3 * later.T
        rows.append(
            [
                f"{label}, {share:.0%}: {1e3 * pace[label, share]:.1f} ms a step",
                f"{(made > 0).sum()} of {len(later)}",
                f"{(made[starts] > 0).sum()} of {starts.sum()}",
                f"{np.median(took):.2f}",
                f"{took.max():.2f}",
                f"{np.median(took[starts]):.2f}",
                f"{took[starts].max():.2f}",
                f"{1e3 * times[0, 0]:,.0f}",
            ]
        )
    head = [
        "",
        "not made yet",
        "at the start of an epoch",
        "ms, median",
        "max",
        "start of an epoch",
        "max",
        "first step",
    ]
    return (
        "## Stalls, and the start of an epoch\n\nA trainer that takes a fixed time a step, so that it asks for so much "
        f"of what {WORKERS} workers give, and copies each batch; {PACED_STEPS} steps, {PACED_STEPS // epoch} epochs of "
        f"{epoch}; the first batch of each worker is left out. A stall is a step whose batch was not made when it was "
        "asked for. The milliseconds are those until it was in hand: where it was made long before, they are what this "
        "machine's two cores, both at work, take to let the trainer's threads run. The plan is a function of the step, "
        "so that workers know of no epochs and begin none.\n\n" + table(head, rows) + "\n"
    )


def slope(memory: np.ndarray, column: int) -> tuple[float, float]:
    """Growth in bytes a step, and twice its standard error."""
    result = linregress(memory[:, 0], memory[:, column])
    return result.slope, 2 * result.stderr


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
    waits: Waits,
    memory: dict[str, np.ndarray],
    epoch: int,
) -> list[Figure]:
    """Rows of the one table."""
    rows = []
    for label, runs in free.items():
        result, parts_of = runs[WORKERS], in_parts[label]
        limit = 1 / parts_of["decode and resize"]
        rows.append(
            Figure(
                what=f"loader, frames {label}: clips/s of a core",
                ours=f"{1 / result.cpu:,.0f}",
                limit=f"{limit:,.0f} (decode and resize)",
                share=1 / result.cpu / limit,
            )
        )
        for gpu, peak in PEAKS.items():
            cores = f"{gpu_rate(peak) * result.cpu:.2f}"
            what = f"cores for one {gpu} at {UTILISATION:.0%} of its peak (not measured), frames {label}"
            rows.append(Figure(what=what, ours=cores, wanted=f"< {WANTED[label]}"))
        for share in LOADS:
            took, made = waits[label, share][WORKERS:].T
            starts = boundaries(waits[label, share], epoch)
            what = f"steps whose batch was not made, at {share:.0%} load, frames {label}; at the start of an epoch"
            late = f"{(made > 0).sum()} of {len(made)}; {(made[starts] > 0).sum()} of {starts.sum()}"
            rows.append(Figure(what=what, ours=late, wanted="0"))
            what = f"to have it in hand at {share:.0%} load, frames {label}: median, max"
            rows.append(Figure(what=what, ours=f"{1e3 * np.median(took):.1f} ms, {1e3 * took.max():.1f} ms"))
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
