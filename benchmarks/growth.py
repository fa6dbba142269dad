"""Growth of the cost of a training step and an evaluation with their sizes (`make bench-growth`).

Each size of a series is measured. A power law is fitted by least squares of logarithms, over the sizes at which the
growing part dominates the cost.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import linregress, t

from benchmarks.harness import MARS_IDENTITIES, Figure, call_elsewhere, in_turn, launch, run_main, save, table
from benchmarks.steps import prepare
from mstat.config import BatchConfig, ClipConfig, Config, ModelConfig, changed
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.ranking import rank_positives

ROUNDS = 3  # of each size, after one to warm up; the fastest counts, since other work on the machine only adds
MIDDLE = ModelConfig(image_size=(128, 64), width=192, num_heads=3, depths=(4, 2, 2))
SMALL = ModelConfig(image_size=(64, 32), patch_size=8, width=128, num_heads=4, depths=(2, 1, 1), num_attributes=8)
CLIPS, FRAMES = (4, 8, 16, 32, 64), (1, 2, 4, 8, 16, 32, 64)
IDENTITIES = (128, 512, 2048, 8192, 32_768, 46_336, 65_536, 92_672, 131_072)
RANKS, RANK_CLIPS, RANK_STEPS = (1, 2, 4), 24, 5
GALLERY, QUERIES, DIMS = (8192, 16_384, 32_768, 65_536, 131_072), (1024, 2048, 4096, 8192, 16_384), 128
CAMERAS, POSITIVES = 6, 11  # of MARS: cameras, and true matches of a query in the mean


class Fit(NamedTuple):
    """cost ~ size ** exponent; `error` is half the 95 % interval of the exponent, nan of two points."""

    exponent: float
    error: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f}" + ("" if np.isnan(self.error) else f" ± {self.error:.2f}")


class Series(NamedTuple):
    """Seconds for each size, the expected exponent, and the points to fit."""

    title: str
    axis: str
    sizes: Sequence[int]
    seconds: Sequence[float]
    expected: float
    fitted: slice = slice(None)

    @property
    def fit(self) -> Fit:
        return power_law(self.sizes[self.fitted], self.seconds[self.fitted])


def power_law(sizes: Sequence[int], seconds: Sequence[float] | np.ndarray) -> Fit:
    """Fit a straight line to the logarithms."""
    result = linregress(np.log(sizes), np.log(seconds))
    freedom = len(sizes) - 2
    return Fit(float(result.slope), float(t.ppf(0.975, freedom) * result.stderr) if freedom else np.nan)


def fastest(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the fastest round."""
    return min(in_turn({"": work}, ROUNDS, warm_up=1, clock=time.process_time)[""])


def step_config(model: ModelConfig, clips: int, num_frames: int) -> Config:
    config = Config(model=model, batch=BatchConfig(clips // 2, 2), clip=ClipConfig(num_frames=num_frames))
    return changed(config, {"train.precision": "no"})


def step_cost(model: ModelConfig, clips: int, num_frames: int, num_classes: int = MARS_IDENTITIES) -> float:
    return fastest(prepare(step_config(model, clips, num_frames), num_classes, threads=1)[1])


def rank_cost(ranks: int) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of a step of all ranks; the batch does not depend on their number."""
    launcher = launch("ddp", ranks) if ranks > 1 else launch("single")
    clock, cpu = call_elsewhere(steps_of_rank, launcher=launcher, OMP_NUM_THREADS="1")
    return clock, cpu


def steps_of_rank() -> tuple[float, float]:
    """Measure this rank, and combine the measurements of all ranks."""
    engine, step = prepare(step_config(MIDDLE, RANK_CLIPS, 4), MARS_IDENTITIES, threads=1)
    clock, cpu = [], []
    for _ in range(2 + RANK_STEPS):  # DDP orders its buckets anew after the first
        engine.barrier()
        began, cpu_began = time.perf_counter(), time.process_time()
        step()
        cpu.append(time.process_time() - cpu_began)
        clock.append(time.perf_counter() - began)
    of_ranks = engine.gather_objects((min(clock[2:]), min(cpu[2:])))
    return max(one[0] for one in of_ranks), sum(one[1] for one in of_ranks)


def random_pairs(gallery: int, queries: int) -> Pairs:
    """Draw identities and cameras so that a query has 11 true matches on average."""
    rng = np.random.default_rng(0)
    highs = round(gallery * (1 - 1 / CAMERAS) / POSITIVES), CAMERAS
    return make_pairs(*(rng.integers(0, high, count) for count in (queries, gallery) for high in highs))


def search_cost(gallery: int, queries: int) -> float:
    """Return seconds of distances and ranking, without feature extraction."""
    pairs = random_pairs(gallery, queries)
    query_QD, gallery_GD = torch.randn(queries, DIMS), torch.randn(gallery, DIMS)
    return fastest(lambda: rank_positives(query_QD, gallery_GD, 0, pairs))


def all_series() -> Iterator[Series]:
    yield Series("training step", "clips", CLIPS, [step_cost(MIDDLE, clips, 4) for clips in CLIPS], 1)
    # For the smallest clips, the optimiser and small products dominate. Only temporal attention is quadratic in frames:
    # T / (8.5 D) of a block's products, 4 % at 64 frames here, 0.1 % in the paper's model.
    seconds = [step_cost(MIDDLE, 4, frames) for frames in FRAMES]
    yield Series("training step", "frames of a clip", FRAMES, seconds, 1, slice(2, None))
    # Only the classifiers grow with identities, so fit the sizes at which they dominate.
    seconds = [step_cost(SMALL, 8, 1, count) for count in IDENTITIES]
    yield Series("training step", "identities", IDENTITIES, seconds, 1, slice(-5, None))
    clock, cpu = zip(*[rank_cost(ranks) for ranks in RANKS], strict=True)
    fitted = slice(sum(ranks <= len(os.sched_getaffinity(0)) for ranks in RANKS))  # more ranks than cores are no faster
    yield Series("step of all ranks, clock", "ranks", RANKS, clock, -1, fitted)
    yield Series("step of all ranks, CPU", "ranks", RANKS, cpu, 0)
    seconds = [search_cost(gallery, QUERIES[0]) for gallery in GALLERY]
    yield Series("evaluation", "gallery", GALLERY, seconds, 1)
    seconds = [search_cost(GALLERY[1], queries) for queries in QUERIES]
    yield Series("evaluation", "queries", QUERIES, seconds, 1)


def growth_table(series: Sequence[Series]) -> str:
    rows = []
    for one in series:
        points = ", ".join(f"{size:,}: {value:.3g}" for size, value in zip(one.sizes, one.seconds, strict=True))
        first, *_, last = one.sizes[one.fitted]
        name = f"{one.title}, {one.axis}"
        rows.append([name, f"{first:,} to {last:,}", f"{one.expected:g}", f"**{one.fit}**", points])
    return table(["", "fitted over", "expected", "exponent", "size: seconds"], rows)


def main() -> None:
    torch.set_num_threads(1)
    series = []
    for one in all_series():
        print(f"{one.title}, {one.axis}: {one.fit}", file=sys.stderr, flush=True)
        series.append(one)
    figures = [
        Figure(f"{one.title} against {one.axis}: exponent", str(one.fit), wanted=f"{one.expected:g}") for one in series
    ]
    save(
        "growth",
        "How cost grows",
        "Cost = size ^ exponent, fitted in logarithms by least squares, with the 95 % interval of the straight line. "
        f"Fastest of {ROUNDS} after one to warm up; CPU seconds of one process with one thread, but for ranks. Steps "
        f"are of a model of width {MIDDLE.width} on {MIDDLE.image_size[0]}x{MIDDLE.image_size[1]} (identities: width "
        f"{SMALL.width}, {SMALL.image_size[0]}x{SMALL.image_size[1]}), in fp32 with SGD; all ranks together have "
        f"{RANK_CLIPS} clips, one thread each. Searches have {QUERIES[0]:,} queries or a gallery of {GALLERY[1]:,}, "
        f"and {DIMS} dimensions.",
        growth_table(series),
        figures=figures,
    )


if __name__ == "__main__":
    run_main(main, __doc__)
