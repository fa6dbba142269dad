"""The training step of the paper's model compared with a conventional implementation: `make bench-step`.

It runs on a GPU if there is one, otherwise on CPUs. Each round has a step (forward, backward, update) of the rival
(rival.py in a plain PyTorch loop), of ours, and of ours with compiled blocks (`train.compile`). gpu.py has the
measurements that need a GPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import MARS_IDENTITIES, Figure, call_elsewhere, in_turn, ratio, save, table
from benchmarks.rival import EagerMSTAT
from mstat.config import Config, TrainConfig
from mstat.distributed.engine import Engine
from mstat.training.task import Task

Precision = Literal["no", "bf16"]
NAMES: dict[Precision, str] = {"no": "fp32", "bf16": "bf16"}
DTYPES: dict[Precision, torch.dtype] = {"no": torch.float32, "bf16": torch.bfloat16}
SIDE = 4096  # side of the square products that measure the machine's limit
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
WANTED = "≥ 2" if ON_GPU else "≥ 1.3"
RIVAL, EAGER, COMPILED = "rival", "mstat", "mstat, compiled"


def paper(precision: Precision = "no") -> Config:
    return Config(train=TrainConfig(precision=precision))


def batch(clips: int) -> dict[str, torch.Tensor]:
    """Draw frames on the CPU, because the copy to the device is part of a step."""
    config = paper()
    shape = (clips, config.clip.num_frames, *config.model.image_size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    frames, labels = (part.pin_memory() if ON_GPU else part for part in (frames, torch.arange(clips) // 2))
    return {"frames_BTHWC": frames, "labels_n": labels}


def our_task() -> Task:
    """Make a task from a fixed seed, with alpha 0.5: with the initial 0, half of Stage III has no gradients."""
    torch.manual_seed(0)
    task = Task(paper(), MARS_IDENTITIES)
    assert task.model.stage3 is not None
    for block in task.model.stage3.blocks:
        nn.init.constant_(block.get_parameter("alpha"), 0.5)
    return task


def rival_task() -> Task:
    """Make a task with the rival's model, and the same weights and losses."""
    task = our_task()
    eager = copy.deepcopy(task)
    eager.model = EagerMSTAT(task.model, paper().clip.num_frames)  # type: ignore[assignment]
    return eager


class Ours:
    """Our training step, without shuffling and drop path, which the rival lacks."""

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
    """Training step as in PyTorch's tutorials."""

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


def finish() -> None:
    """Wait until the device is done."""
    if ON_GPU:
        torch.cuda.synchronize()


def finished(call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that calls `call` and waits for the device."""

    def run() -> None:
        call()
        finish()

    return run


def measure(clips: int, precision: Precision, rounds: int) -> dict[str, Any]:
    """Return the seconds of every round, the losses before the first update, and the FLOP/s of matrix products.

    It needs a new process, because the precision of an Accelerator is fixed for its process.
    """
    torch.set_num_threads(torch.get_num_threads())
    ours, rival = Ours(clips, precision), Rival(clips, precision)

    def eager(call: Callable[[], Any]) -> Any:
        with torch.compiler.set_stance("force_eager"):
            return call()

    with torch.no_grad():
        losses = {RIVAL: rival.loss().item(), EAGER: eager(ours.loss).item(), COMPILED: ours.loss().item()}
    steps = {RIVAL: rival.step, EAGER: lambda: eager(ours.step), COMPILED: ours.step}
    # Two rounds warm up compilers, caches and the allocator.
    seconds = in_turn({name: finished(step) for name, step in steps.items()}, rounds, warm_up=2, before=finish)
    return {"seconds": seconds, "losses": losses, "products": product_rate(precision)}


def product_rate(precision: Precision) -> float:
    """Return FLOP/s of square matrix products, the best of ten; fp32 without TF32, on CPUs of MKL and oneDNN."""
    a, b = (torch.randn(SIDE, SIDE, device=DEVICE, dtype=DTYPES[precision]) for _ in range(2))
    calls: dict[str, Callable[[], object]] = {"MKL": lambda: torch.mm(a, b)}
    if not ON_GPU:
        calls["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    seconds = in_turn({name: finished(call) for name, call in calls.items()}, 10, before=finish)
    return 2 * SIDE**3 / min(min(of_rounds) for of_rounds in seconds.values())


def step_flops(task: Task) -> int:
    """Return the FLOPs of matrix products in a clip's forward and backward pass, counted without data."""
    model = task.model.to("meta")
    frames = batch(1)["frames_BTHWC"].to("meta")
    with FlopCounterMode(display=False) as counter:
        torch.cat(model(frames), 1).sum().backward()
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=24 if ON_GPU else 8)
    parser.add_argument("--rounds", type=int, default=20 if ON_GPU else 3)
    parser.add_argument("--precisions", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--name", default="training-step", help="of the record")
    options = parser.parse_args()
    flops, rival_flops = step_flops(our_task()), step_flops(rival_task())
    assert abs(flops / rival_flops - 1) < 0.01, (flops, rival_flops)
    rows, figures = [], []
    for precision in options.precisions:
        result = call_elsewhere(measure, options.clips, precision, options.rounds)
        seconds, losses = result["seconds"], result["losses"]
        tolerance = 1e-5 if precision == "no" else 1e-2
        assert all(abs(loss / losses[RIVAL] - 1) < tolerance for loss in losses.values()), losses
        floor = flops * options.clips / result["products"]
        middle = {name: statistics.median(of_rounds) for name, of_rounds in seconds.items()}
        for name, of_rounds in seconds.items():
            times, share = ratio(seconds[RIVAL], of_rounds), floor / middle[name]
            spread = f"{middle[name]:.3f} ({min(of_rounds):.3f} to {max(of_rounds):.3f})"
            rows.append([NAMES[precision], name, spread, f"{times:.2f}", f"{losses[name]:.6f}", f"{share:.0%}"])
            if name != RIVAL:
                what = f"training step of {options.clips} clips, {NAMES[precision]}" + name.removeprefix(EAGER)
                ours, theirs, limit = f"{middle[name]:.2f} s", f"{middle[RIVAL]:.2f} s", f"products: {floor:.2f} s"
                rival = "TimeSformer of transformers, eager"
                figures.append(Figure(what, ours, rival, theirs, times, WANTED, limit, share))
        print(*rows[-3:], sep="\n", flush=True)
    save(
        options.name,
        "The training step against the field's",
        f"The paper's model, {options.clips} clips of 8 frames, {MARS_IDENTITIES} identities: forward pass, losses, "
        f"backward pass, update by SGD. Median of {options.rounds} rounds in turn after two to settle, in brackets the "
        "least and the most; ratios are medians over the rounds. *Rival*: benchmarks/rival.py, the layers of "
        "`transformers`' TimeSformer with eager attention and the proxies in plain PyTorch, with the same weights and "
        f"losses. FLOPs of a clip: ours {flops / 1e9:,.1f} G, the rival's {rival_flops / 1e9:,.1f} G. *Share*: of the "
        f"step in which the best rate of square matrix products ({SIDE}) in the same process would do its FLOPs.",
        table(["precision", "", "seconds", "ratio", "first loss", "share"], rows),
        target="bench-step",
        figures=figures,
    )


if __name__ == "__main__":
    main()
