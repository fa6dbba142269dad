"""How cost grows: a training step, an evaluation and a build against their sizes: `make bench-growth`.

Each size of a series is measured, and a power law fitted in logarithms (least squares) over the sizes at which what
grows is most of the cost. Writes benchmarks/growth_<hardware>_<date>.md and, beside it, one picture of all (.svg).
Needs the video of ../shared/data (MSTAT_SHARED).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import realistic
import torch
from communication import drawn_batch
from evaluation_memory import Search, labels
from growth_figure import draw
from record import PROJECT, Figure, conditions, save, stem
from scaling import table
from scipy.stats import linregress, t

from mstat.config import BatchConfig, ClipConfig, Config, ModelConfig, changed
from mstat.distributed.engine import Engine
from mstat.evaluation.ranking import rank_positives
from mstat.training.task import Task
from shards.write import building, write

ROUNDS = 3  # of each size, after one to warm up; the fastest counts, since other work on the machine only adds
MIDDLE = ModelConfig(image_size=(128, 64), width=192, num_heads=3, depths=(4, 2, 2))
SMALL = ModelConfig(image_size=(64, 32), patch_size=8, width=128, num_heads=4, depths=(2, 1, 1), num_attributes=8)
CLASSES = 625  # of MARS
CLIPS, FRAMES = (4, 8, 16, 32, 64), (1, 2, 4, 8, 16, 32, 64)
IDENTITIES = (128, 512, 2048, 8192, 32_768, 46_336, 65_536, 92_672, 131_072)
RANKS, RANK_CLIPS, RANK_STEPS = (1, 2, 4), 24, 5
GALLERY, QUERIES, DIMS = (8192, 16_384, 32_768, 65_536, 131_072), (1024, 2048, 4096, 8192, 16_384), 128
BUILD_TRACKLETS = tuple(216 * 2**n for n in range(5))  # of 58 frames: 12,528 to 200,448


class Fit(NamedTuple):
    """cost = factor * size ** exponent; `error` is half the 95 % interval of the exponent, nan of two points."""

    exponent: float
    error: float
    factor: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f}" + ("" if np.isnan(self.error) else f" ± {self.error:.2f}")


class Series(NamedTuple):
    """What was measured, and what is expected of it.

    Attributes:
        title, axis: What costs, and what of it grows.
        sizes, seconds: The points.
        fitted: Those from here on and up to there are fitted.
        expected: The exponent.
        why: It is expected.
    """

    title: str
    axis: str
    sizes: Sequence[int]
    seconds: Sequence[float]
    expected: float
    why: str
    fitted: slice = slice(None)

    @property
    def fit(self) -> Fit:
        return power_law(self.sizes[self.fitted], self.seconds[self.fitted])


def power_law(sizes: Sequence[int], seconds: Sequence[float]) -> Fit:
    """The straight line through the logarithms."""
    result = linregress(np.log(sizes), np.log(seconds))
    freedom = len(sizes) - 2
    error = t.ppf(0.975, freedom) * result.stderr if freedom else np.nan
    return Fit(float(result.slope), float(error), float(np.exp(result.intercept)))


# --- measuring ----------------------------------------------------------------------------------------------------


def fastest(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of the fastest of ROUNDS, after one that does not count."""
    taken = []
    for _ in range(ROUNDS + 1):
        began = clock()
        work()
        taken.append(clock() - began)
    return min(taken[1:])


def training_step(
    model: ModelConfig, clips: int, num_frames: int, num_classes: int
) -> tuple[Engine, Callable[[], object]]:
    """A whole step on drawn frames, in fp32 with one thread: forward, losses, backward, update."""
    config = Config(model=model, batch=BatchConfig(clips // 2, 2), clip=ClipConfig(num_frames=num_frames))
    config = changed(config, {"train.precision": "no"})
    engine = Engine(config)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    engine.prepare(Task(config, num_classes))
    batch = drawn_batch(config, engine)
    return engine, lambda: engine.update(engine.losses(batch, 1.0)["loss"], 1e-5)


def step_cost(model: ModelConfig, clips: int, num_frames: int, num_classes: int = CLASSES) -> float:
    return fastest(training_step(model, clips, num_frames, num_classes)[1])


def rank_cost(ranks: int) -> tuple[float, float]:
    """Seconds of a step by the clock and of CPU, all ranks together; the batch is the same on any number."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        config = f"configs/accelerate/{'single' if ranks == 1 else 'ddp'}.yaml"
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
        launch += ["--num_processes", str(ranks), "--main_process_port", "0"] if ranks > 1 else []
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        command = [*launch, str(Path(__file__)), "--worker", str(out)]
        subprocess.run(command, check=True, cwd=PROJECT, env=environment, stdout=sys.stderr)
        clock, cpu = json.loads(out.read_text())
    return clock, cpu


def worker(out: Path) -> None:
    """One rank."""
    engine, step = training_step(MIDDLE, RANK_CLIPS, 4, CLASSES)
    for _ in range(2):  # DDP orders its buckets anew after the first
        step()
    clock, cpu = [], []
    for _ in range(RANK_STEPS):
        engine.barrier()
        began, cpu_began = time.perf_counter(), time.process_time()
        step()
        cpu.append(time.process_time() - cpu_began)
        clock.append(time.perf_counter() - began)
    of_ranks = engine.gather_objects((min(clock), min(cpu)))
    if engine.is_main:
        out.write_text(json.dumps([max(one[0] for one in of_ranks), sum(one[1] for one in of_ranks)]))


def search_cost(gallery: int, queries: int) -> float:
    """Distances and ranking, embedding left out."""
    pairs = labels(Search(gallery, queries, DIMS, ranks=1))
    query_QD, gallery_GD = torch.randn(queries, DIMS), torch.randn(gallery, DIMS)
    return fastest(lambda: rank_positives(query_QD, gallery_GD, 0, pairs))


def build_costs(folder: Path) -> list[float]:
    """Seconds by the clock, waiting for the disk included, of builds with one worker."""
    pictures = realistic.pictures(folder)
    result = []
    for count in BUILD_TRACKLETS:
        source = realistic.source(pictures, count)

        def build(source=source) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out, building(Path(out) / "set") as place:
                write(source, place, workers=1)

        result.append(fastest(build, time.perf_counter))
    return result


def all_series() -> Iterator[Series]:
    attention = max(FRAMES) / (8.5 * MIDDLE.width)
    yield Series(
        "training step",
        "clips",
        CLIPS,
        [step_cost(MIDDLE, clips, 4) for clips in CLIPS],
        expected=1,
        why="every layer is linear in clips; BatchHard's distances, the one square, are too few to be seen, and the "
        "optimiser, which does not grow, is a small part even of the smallest batch",
    )
    yield Series(
        "training step",
        "frames of a clip",
        FRAMES,
        [step_cost(MIDDLE, 4, frames) for frames in FRAMES],
        expected=1,
        why="tokens are linear in frames; temporal attention alone grows with their square, T / (8.5 D) of a block's "
        f"products: {attention:.0%} at {max(FRAMES)} frames here, 0.1 % at the paper's 8 frames and width 768; the "
        "smallest clips pay for the optimiser and for small products, too",
        fitted=slice(2, None),
    )
    yield Series(
        "training step",
        "identities",
        IDENTITIES,
        [step_cost(SMALL, 8, 1, count) for count in IDENTITIES],
        expected=1,
        why="the classifiers alone have a row an identity: in real sets nothing is seen of it; where they are "
        "most of the model (a small one on one frame, to get there) the cost is theirs",
        fitted=slice(-5, None),
    )
    clock, cpu = zip(*[rank_cost(ranks) for ranks in RANKS], strict=True)
    cores = len(os.sched_getaffinity(0))
    yield Series(
        "step of all ranks, clock",
        "ranks",
        RANKS,
        clock,
        expected=-1,
        why=f"one thread a rank, the same {RANK_CLIPS} clips on all together; there are {cores} cores, so that more "
        "ranks than that share them and can win nothing: they are not fitted",
        fitted=slice(0, sum(ranks <= cores for ranks in RANKS)),
    )
    yield Series(
        "step of all ranks, CPU",
        "ranks",
        RANKS,
        cpu,
        expected=0,
        why="the work is divided, not repeated, so that CPU seconds of all ranks together stay; what adds to them is "
        "gloo, and that each rank has the classifiers of the whole batch and its own optimiser",
    )
    yield Series(
        "evaluation",
        "gallery",
        GALLERY,
        [search_cost(gallery, QUERIES[0]) for gallery in GALLERY],
        expected=1,
        why=f"{QUERIES[0]:,} queries, {DIMS} dimensions: each similarity is made once, and each row of them "
        "sorted: a logarithm that grows too little to be seen",
    )
    yield Series(
        "evaluation",
        "queries",
        QUERIES,
        [search_cost(GALLERY[1], queries) for queries in QUERIES],
        expected=1,
        why=f"a gallery of {GALLERY[1]:,}, {DIMS} dimensions: blocks of queries, one after the other",
    )
    with tempfile.TemporaryDirectory(prefix="bench-growth-") as name:
        seconds = build_costs(Path(name))
    yield Series(
        "build of shards",
        "frames",
        [realistic.LENGTH * count for count in BUILD_TRACKLETS],
        seconds,
        expected=1,
        why="every frame is read, checked and written once; the index is a row a tracklet",
    )


# --- telling ------------------------------------------------------------------------------------------------------


def report(series: Sequence[Series]) -> str:
    rows, points = [], []
    for one in series:
        sizes, seconds = list(one.sizes[one.fitted]), [f"{value:.3g}" for value in one.seconds]
        between = f"{sizes[0]:,} to {sizes[-1]:,}"
        rows.append([f"{one.title}, {one.axis}", between, f"{one.expected:g}", f"**{one.fit}**", one.why])
        points.append(f"- {one.title}, {one.axis} {', '.join(f'{size:,}' for size in one.sizes)}: {', '.join(seconds)}")
    return "\n".join(
        [
            f"# How cost grows\n\n{conditions('bench-growth')}\n",
            f"![All of it, size against seconds]({stem('growth')}.svg)\n",
            "Cost = size ^ exponent, fitted in logarithms by least squares over the sizes told, with the 95 % interval "
            "of the straight line; hollow points are measured, not fitted. The dashed line has the expected exponent. "
            f"Fastest of {ROUNDS} after one to warm up; CPU seconds of one process with one thread, but for ranks and "
            f"the build. Steps are of a model of width {MIDDLE.width} on {MIDDLE.image_size[0]}x{MIDDLE.image_size[1]} "
            f"(identities: width {SMALL.width}, {SMALL.image_size[0]}x{SMALL.image_size[1]}), in fp32 with SGD.\n",
            table(["", "fitted over", "expected", "found", "why"], rows),
            "\nSeconds:\n",
            *points,
            "",
        ]
    )


def main() -> None:
    torch.set_num_threads(1)
    series = []
    for one in all_series():
        print(f"{one.title}, {one.axis}: {one.fit}", file=sys.stderr, flush=True)
        series.append(one)
    (PROJECT / "benchmarks" / f"{stem('growth')}.svg").write_bytes(draw(series))
    rows = [
        Figure(what=f"{one.title} against {one.axis}: exponent", ours=str(one.fit), wanted=f"{one.expected:g}")
        for one in series
    ]
    save("growth", report(series), rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
    else:
        main()
