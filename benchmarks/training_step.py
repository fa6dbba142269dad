"""The training step of the paper's model against the same mathematics as the field writes it: `make bench-step`.

On a GPU where there is one, else on CPUs. Step by step in turn: the rival (rival.py, in a plain loop of PyTorch), ours,
and ours with compiled blocks (`train.compile`), each through forward, backward and update. Writes
benchmarks/training-step_<hardware>_<date>.md. What only a GPU can tell is in gpu.py.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Literal, NamedTuple

import torch
from record import Figure, conditions, save
from rival import EagerMSTAT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mstat.config import Config, TrainConfig
from mstat.distributed.engine import Engine
from mstat.training.task import Task

Precision = Literal["no", "bf16"]
NAMES: dict[Precision, str] = {"no": "fp32", "bf16": "bf16"}
DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16}
WANTED = 1.3
CLASSES = 625  # identities of MARS
SIDE = 4096  # of the square products that tell what the machine can do
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")


class Found(NamedTuple):
    """Of one precision: seconds of every round, losses before the first update, FLOP/s of matrix products."""

    rival: list[float]
    eager: list[float]
    compiled: list[float]
    rival_loss: float
    loss: float
    compiled_loss: float
    product_rate: float


def paper(precision: Precision = "no") -> Config:
    return Config(train=TrainConfig(precision=precision))


def batch(clips: int) -> dict[str, torch.Tensor]:
    """Random frames, on the CPU: their way to the device is part of a step."""
    config = paper()
    shape = (clips, config.clip.num_frames, *config.model.image_size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    frames, labels = (part.pin_memory() if ON_GPU else part for part in (frames, torch.arange(clips) // 2))
    return {"frames_BTHWC": frames, "labels_n": labels}


def our_task() -> Task:
    """From a fixed seed. The attributes have a voice: alpha starts at 0, and keeps half of Stage III from learning."""
    torch.manual_seed(0)
    task = Task(paper(), CLASSES)
    assert task.model.stage3 is not None
    for block in task.model.stage3.blocks:
        nn.init.constant_(block.alpha, 0.5)
    return task


def rival_task() -> Task:
    """The same weights and losses around the rival's model."""
    task = our_task()
    eager = copy.deepcopy(task)
    eager.model = EagerMSTAT(task.model, paper().clip.num_frames)  # type: ignore[assignment]
    return eager


class Ours:
    """The trainer's own forward, backward and update, less shuffling and drop path, which the rival lacks."""

    def __init__(self, clips: int, precision: Precision) -> None:
        self.engine = Engine(paper(precision))
        task = our_task()
        task.model.compile_blocks()
        self.engine.prepare(task)
        self.inputs = batch(clips)

    def loss(self) -> torch.Tensor:
        inputs = {name: part.to(DEVICE, non_blocking=True) for name, part in self.inputs.items()}
        losses: dict[str, torch.Tensor] = self.engine.wrapped(**inputs, tps_BTN=None, keep_BR=None, metric_weight=1.0)
        return losses["loss"]

    def step(self) -> None:
        self.engine.update(self.loss(), 1e-3)


class Rival:
    """A loop as in PyTorch's tutorials."""

    def __init__(self, clips: int, precision: Precision) -> None:
        self.precision, self.inputs = precision, batch(clips)
        self.task = rival_task().to(DEVICE)
        self.optimizer = torch.optim.SGD(
            self.task.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-5
        )

    def loss(self) -> torch.Tensor:
        inputs = {name: part.to(DEVICE, non_blocking=True) for name, part in self.inputs.items()}
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.task(**inputs, tps_BTN=None, keep_BR=None, metric_weight=1.0)["loss"]

    def step(self) -> None:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure(clips: int, precision: Precision, rounds: int) -> Found:
    """In a process of its own: an Accelerator's precision is that of its process for good."""
    torch.set_num_threads(torch.get_num_threads())
    ours, rival = Ours(clips, precision), Rival(clips, precision)

    def eager() -> None:
        with torch.compiler.set_stance("force_eager"):
            ours.step()

    with torch.no_grad():
        rival_loss, compiled_loss = rival.loss().item(), ours.loss().item()
        with torch.compiler.set_stance("force_eager"):
            loss = ours.loss().item()
    contestants = {"rival": rival.step, "eager": eager, "compiled": ours.step}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(-2, rounds):
        for name, step in contestants.items():
            took = timed(step)
            if round_number >= 0:  # compilers, caches and the allocator have settled
                seconds[name].append(took)
    return Found(
        **seconds, rival_loss=rival_loss, loss=loss, compiled_loss=compiled_loss, product_rate=product_rate(precision)
    )


def timed(call: Callable[[], object]) -> float:
    """Seconds until the device is done."""
    if ON_GPU:
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def product_rate(precision: Precision) -> float:
    """FLOP/s of square matrix products, the best of ten; fp32 without TF32, on CPUs the better of MKL and oneDNN."""
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE, dtype=DTYPES[precision]) for _ in range(2))
    calls: list[Callable[[], object]] = [lambda: torch.mm(a, b)]
    if not ON_GPU:
        calls.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return 2 * SIDE**3 / min(timed(call) for call in calls for _ in range(10))


def step_flops(task: Task) -> int:
    """Of matrix products in a clip's forward and backward pass; counted on no data."""
    model = task.model.to("meta")
    frames = batch(1)["frames_BTHWC"].to("meta")
    with FlopCounterMode(display=False) as counter:
        torch.cat(model(frames), 1).sum().backward()
    return int(counter.get_total_flops())


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def ratio(result: Found, ours: list[float]) -> float:
    """Of medians of the pairs that stood next to each other."""
    return statistics.median(theirs / own for theirs, own in zip(result.rival, ours, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24 if ON_GPU else 8)
    parser.add_argument("--rounds", type=int, default=20 if ON_GPU else 3)
    parser.add_argument("--precisions", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--name", default="training-step", help="of the record")
    options = parser.parse_args()
    flops, rival_flops = step_flops(our_task()), step_flops(rival_task())
    assert abs(flops / rival_flops - 1) < 0.01, (flops, rival_flops)
    lines, figures = [], []
    for precision in options.precisions:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            result: Found = pool.submit(measure, options.clips, precision, options.rounds).result()
        name, tolerance = NAMES[precision], 1e-5 if precision == "no" else 1e-2
        for loss in (result.loss, result.compiled_loss):
            assert abs(loss / result.rival_loss - 1) < tolerance, result
        floor = flops * options.clips / result.product_rate
        for what, seconds in (("rival", result.rival), ("mstat", result.eager), ("mstat, compiled", result.compiled)):
            loss = {"rival": result.rival_loss, "mstat": result.loss}.get(what, result.compiled_loss)
            lines.append(
                f"| {name} | {what} | {spread(seconds)} | {ratio(result, seconds):.2f} | {loss:.6f} | "
                f"{flops * options.clips / statistics.median(seconds) / 1e9:,.0f} | {result.product_rate / 1e9:,.0f} | "
                f"{floor / statistics.median(seconds):.0%} |"
            )
            if what != "rival":
                figures.append(
                    Figure(
                        f"training step of {options.clips} clips, {name}" + ", compiled" * (seconds is result.compiled),
                        f"{statistics.median(seconds):.2f} s",
                        "TimeSformer of transformers, eager",
                        f"{statistics.median(result.rival):.2f} s",
                        ratio(result, seconds),
                        "≥ 2" if ON_GPU else f"≥ {WANTED}",
                        f"matrix products: {floor:.2f} s",
                        floor / statistics.median(seconds),
                    )
                )
        print(*lines[-3:], sep="\n", flush=True)
    save(options.name, record(options.clips, options.rounds, flops, rival_flops, lines), figures)


def record(clips: int, rounds: int, flops: int, rival_flops: int, lines: list[str]) -> str:
    return "\n".join(
        [
            "# The training step against the field's\n",
            conditions("bench-step") + "\n",
            f"The paper's model, {clips} clips of 8 frames, {CLASSES} identities: forward pass, losses, backward pass, "
            f"update by SGD. Median of {rounds} rounds in turn after two to settle, in brackets the least and the "
            "most; ratios are medians over the rounds. *Rival*: benchmarks/rival.py, the layers of `transformers`' "
            "TimeSformer with eager attention and the proxies in plain PyTorch, with the same weights and losses. "
            f"FLOPs of a clip: ours {flops / 1e9:,.1f} G, the rival's {rival_flops / 1e9:,.1f} G. *Products*: the best "
            f"rate of square matrix products ({SIDE}) in the same process; *share*: of the step in which that rate "
            "would do its FLOPs.\n",
            "| precision | | seconds | ratio | first loss | GFLOP/s | products, GFLOP/s | share |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    main()
