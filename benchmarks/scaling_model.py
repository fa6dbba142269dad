"""Analytical model of training on 8, 64 and 512 GPUs, and counted bytes of gather, heads and losses; no measurement.

`python -m benchmarks.scaling_model` prints the tables of docs/scaling.md. tests/benchmarks/test_scaling_model.py
compares them with the page, and the constants with MSTAT itself. The page has the source of every hardware figure.
scaling.py measures what a CPU can.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.harness import MARS_IDENTITIES, run_main, table
from benchmarks.tracing import Trace, as_on_cuda, without_data
from mstat.config import Config, changed
from mstat.training.task import Task

# MSTAT as published, `python -m mstat.model`, with the classifiers of MARS's 625 identities.
CLIPS = 24  # a GPU's clips in a step: the paper's batch
FEATURE = 18_432 + 768 + 768  # floats of a clip that cross ranks: three stages
WEIGHTS = 165_986_332 + FEATURE * MARS_IDENTITIES + 3 * MARS_IDENTITIES
FORWARD_FLOP = 231.591e9  # a clip of 8 frames; forward and backward are three times that
FP32 = 4  # bytes
# Times that a step reads or writes a tensor of n features: the copy to stages 2; in the backward pass, the gradient of
# the chosen clips 1, of the own rows' slice 1, their sum 3, the join of the stages 2.
PASSES = 9

# Hardware. URLs in docs/scaling.md, under "Assumptions".
BF16_PEAK = 312e12  # A100 datasheet
UTILISATION = 0.5  # assumed, high on purpose: the faster the computation, the more the rest weighs
FP32_PEAK = 19.5e12  # A100 datasheet; PyTorch's fp32 products do not use TF32 unless told to
MEMORY = {"A100 40 GB": 1.555e12, "A100 80 GB": 2.039e12}  # bytes/s, A100 datasheet
NODE = 8  # GPUs
NVLINK_BUS = 232.5e9  # bytes/s, all_reduce_perf on one node of 8 A100, NVIDIA/nccl issue 1048
NETWORK_BUS = 8 * 25e9 * 0.86  # 8 HDR links a node; 0.86 of 4 links is what two nodes reach in that same issue
BUCKET = 25 * 2**20  # bytes: DDP's default bucket; the last one has no backward pass left to hide behind

REPLICATED, OWN_ROWS, TILED = "replicated", "own rows (as it is)", "own rows, tiled distances"
MANY = (8, 64, 512)  # GPUs
SETTINGS: dict[str, dict[str, Any]] = {
    "as published": {},
    "BNNeck": {"model.bnneck": True},
    "mined behind it, cosine": {"model.bnneck": True, "loss.metric_on": "neck", "loss.distance": "cosine"},
}
PURPOSES = (
    "classifiers and BNNecks",
    "their gradients",
    "own features",
    "gathered features",
    "features behind BNNecks",
    "logits, distances, chosen clips",
    "gradients of features",
)
IDENTITIES = (MARS_IDENTITIES, 10_000, 100_000, 400_000)


@dataclass(frozen=True)
class Step:
    """Seconds of a training step on one of R GPUs, and the bytes that it sends."""

    gpus: int
    clips: int  # of this GPU
    design: str = OWN_ROWS
    memory: float = MEMORY["A100 40 GB"]
    utilisation: float = UTILISATION

    @property
    def batch(self) -> int:
        return self.gpus * self.clips

    @property
    def bus(self) -> float:
        return NVLINK_BUS if self.gpus <= NODE else NETWORK_BUS

    @property
    def share(self) -> float:
        """Share of a buffer that a GPU sends in a ring's all-gather or reduce-scatter; an all-reduce does both."""
        return (self.gpus - 1) / self.gpus

    @property
    def backbone(self) -> float:
        return 3 * FORWARD_FLOP * self.clips / (BF16_PEAK * self.utilisation)

    @property
    def rows(self) -> int:
        """Number of clips whose logits and distances this GPU computes."""
        return self.batch if self.design == REPLICATED else self.clips

    @property
    def head(self) -> float:
        """Seconds of the classifiers in fp32; the backward pass takes twice the forward pass."""
        return 3 * 2 * self.rows * FEATURE * MARS_IDENTITIES / FP32_PEAK

    @property
    def distances(self) -> float:
        """Seconds of the distances: cdist reads a row for each pair; a tiled kernel does 3 operations per element."""
        elements = self.rows * self.batch * FEATURE
        return 3 * elements / FP32_PEAK if self.design == TILED else FP32 * elements / self.memory

    @property
    def gather_bytes(self) -> float:
        """Bytes of the gather: an all-gather, then a reduce-scatter (replicated: an all-reduce)."""
        return (3 if self.design == REPLICATED else 2) * self.share * self.batch * FEATURE * FP32

    @property
    def gather(self) -> float:
        return self.gather_bytes / self.bus

    @property
    def gradient_bytes(self) -> float:
        return 2 * self.share * WEIGHTS * FP32

    @property
    def gradients(self) -> float:
        return self.gradient_bytes / self.bus

    @property
    def exposed_gradients(self) -> float:
        """Seconds of gradients that the backward pass (2/3 of the backbone) cannot hide: at least the last bucket."""
        last = min(1.0, BUCKET / (WEIGHTS * FP32)) * self.gradients
        return max(last, self.gradients - 2 / 3 * self.backbone)

    @property
    def passes(self) -> float:
        """Seconds of copies, zeros and sums of tensors as large as the gathered features."""
        return PASSES * self.batch * FEATURE * FP32 / self.memory

    @property
    def losses(self) -> float:
        return self.head + self.distances + self.passes

    def seconds(self, overlap: bool) -> float:
        reduction = self.exposed_gradients if overlap else self.gradients
        return self.backbone + self.losses + self.gather + reduction


def weak_efficiency(step: Step, overlap: bool) -> float:
    """Return the clips per second of a GPU, relative to a single GPU with the same number of clips."""
    return replace(step, gpus=1).seconds(overlap) / step.seconds(overlap)


def crossing(share: float, design: str, memory: float) -> int:
    """Return the fewest GPUs on which heads and losses exceed this share of the step."""
    gpus = 1
    while (step := Step(gpus, CLIPS, design, memory)).losses <= share * step.seconds(overlap=True):
        gpus += 1
    return gpus


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"


def mb(count: float) -> str:
    return f"{count / 1e6:,.0f}"


def gb(count: float) -> str:
    return f"{count / 1e9:,.2f}"


def step_table(steps: list[Step], rows: dict[str, Callable[[Step], str]]) -> str:
    head = ["GPUs, R", *(f"{step.gpus}" for step in steps)]
    return table(head, [[name, *(cell(step) for step in steps)] for name, cell in rows.items()])


def weak_table() -> str:
    rows: dict[str, Callable[[Step], str]] = {
        "clips in a step, n": lambda step: f"{step.batch:,}",
        "sent by a GPU: gradients, MB": lambda step: mb(step.gradient_bytes),
        "sent by a GPU: gather, MB": lambda step: mb(step.gather_bytes),
        "backbone, ms": lambda step: ms(step.backbone),
        "classifiers, ms": lambda step: ms(step.head),
        "distances, ms": lambda step: ms(step.distances),
        "copies and sums of n features, ms": lambda step: ms(step.passes),
        "gather, both ways, ms": lambda step: ms(step.gather),
        "gradients, ms": lambda step: ms(step.gradients),
        "gradients not hidden by the backward pass, ms": lambda step: ms(step.exposed_gradients),
        "**step without overlap, ms**": lambda step: ms(step.seconds(False)),
        "**step with overlap, ms**": lambda step: ms(step.seconds(True)),
        "**efficiency without overlap**": lambda step: f"{weak_efficiency(step, False):.0%}",
        "**efficiency with overlap**": lambda step: f"{weak_efficiency(step, True):.0%}",
    }
    return step_table([Step(gpus, CLIPS) for gpus in (1, 8, 64, 512)], rows)


def design_table() -> str:
    rows = []
    for design in (REPLICATED, OWN_ROWS, TILED):
        steps = [Step(gpus, CLIPS, design) for gpus in MANY]
        rows.append([design, *(f"{ms(step.losses)} ms, {weak_efficiency(step, True):.0%}" for step in steps)])
    return table(["heads and losses, efficiency with overlap", *(f"{gpus} GPUs" for gpus in MANY)], rows)


def crossing_table() -> str:
    rows = [
        [design, name, *(f"{crossing(share, design, memory):,}" for share in (0.05, 0.5))]
        for design, (name, memory) in itertools.product((REPLICATED, OWN_ROWS), MEMORY.items())
    ]
    return table(["design", "GPU", "5 % of the step", "50 % of the step"], rows)


def utilisation_table() -> str:
    rows = []
    for utilisation, design in itertools.product((0.5, 0.25), (REPLICATED, OWN_ROWS)):
        steps = [Step(gpus, CLIPS, design, utilisation=utilisation) for gpus in MANY]
        rows.append([f"{utilisation:.0%}, {design}", *(f"{weak_efficiency(step, True):.0%}" for step in steps)])
    return table(["backbone's share of the peak, design", *(f"{gpus} GPUs" for gpus in MANY)], rows)


def strong_table() -> str:
    alone = Step(1, CLIPS).seconds(True)
    rows: dict[str, Callable[[Step], str]] = {
        "clips of a GPU": lambda step: f"{step.clips}",
        "backbone, ms": lambda step: ms(step.backbone),
        "gather, both ways, ms": lambda step: ms(step.gather),
        "gradients, ms": lambda step: ms(step.gradients),
        "**step with overlap, ms**": lambda step: ms(step.seconds(True)),
        "speed-up": lambda step: f"{alone / step.seconds(True):.1f}",
        "efficiency": lambda step: f"{alone / step.seconds(True) / step.gpus:.0%}",
    }
    return step_table([Step(gpus, CLIPS // gpus) for gpus in (1, 2, 4, 8, 24)], rows)


def zero_table() -> str:
    rows = []
    for name, factor in {"DDP": 2, "ZeRO-2": 2, "ZeRO-2, DeepSpeed's default": 3, "ZeRO-3": 3}.items():
        steps = [Step(gpus, CLIPS) for gpus in MANY]
        sent = [factor * step.share * WEIGHTS * FP32 for step in steps]
        cells = [f"{mb(count)} MB, {ms(count / step.bus)} ms" for count, step in zip(sent, steps, strict=True)]
        rows.append([name, f"{factor} (R-1)/R", *cells])
    return table(["", "times the weights", *(f"{gpus} GPUs" for gpus in MANY)], rows)


class LossPart(Task):
    """A task whose clips are features already: gather, heads and losses alone."""

    def embed(self, frames_BTHWC: Tensor, tps_BTN: Tensor | None, keep_BR: Tensor | None, total: int) -> Tensor:
        return frames_BTHWC


def loss_trace(gpus: int, settings: Mapping[str, Any]) -> tuple[dict[str, int], Trace]:
    """Trace gather, heads and losses of a GPU, both ways, on tensors without data.

    Returns:
        The bytes held between the passes, by purpose, and the trace, whose peak is in the backward pass.
    """
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
    try:
        with as_on_cuda():
            task = without_data(lambda: LossPart(changed(Config(), settings), MARS_IDENTITIES))
            own_BD = torch.empty(CLIPS, FEATURE, requires_grad=True)
            labels_n = torch.empty(gpus * CLIPS, dtype=torch.int64)
            trace = Trace()
            trace.phase = PURPOSES[5]
            trace.hold(PURPOSES[0], [*task.heads.parameters(), *task.model.necks.parameters()])
            trace.hold(PURPOSES[2], [own_BD])
            for part in (*task.heads.parameters(), *task.model.necks.parameters()):
                if part.requires_grad:
                    part.register_post_accumulate_grad_hook(lambda owner: trace.hold(PURPOSES[1], [owner.grad]))
            for neck in task.model.necks.values():
                neck.register_forward_hook(lambda _neck, _inputs, out: trace.hold(PURPOSES[4], [out]))
            for first in (task.model.necks or task.metrics).values():
                first.register_forward_pre_hook(lambda _first, inputs: trace.hold(PURPOSES[3], [inputs[0]]))
            with trace:
                loss = task(own_BD, None, None, labels_n, 1.0)["loss"]
                held = trace.held()
                trace.phase = PURPOSES[6]
                loss.backward()
    finally:
        dist.destroy_process_group()
    return held, trace


def bytes_table(gpus: int = MANY[-1]) -> str:
    columns: list[dict[str, int]] = []
    for settings in SETTINGS.values():
        held, trace = loss_trace(gpus, settings)
        columns += [held, trace.held_at_peak()]
    assert all(set(column) <= set(PURPOSES) for column in columns)
    rows = [[purpose, *(mb(column.get(purpose, 0)) for column in columns)] for purpose in PURPOSES]
    rows.append(["**sum**", *(f"**{mb(sum(column.values()))}**" for column in columns)])
    head = [f"{name}, {moment}" for name in SETTINGS for moment in ("between passes", "peak")]
    return table(["MB", *head], rows)


def identity_table() -> str:
    rows = []
    for count in IDENTITIES:
        weights = FEATURE * count * FP32
        logits = 3 * CLIPS * count * FP32
        sent = 2 * Step(MANY[-1], CLIPS).share * weights
        seconds = 3 * 2 * CLIPS * FEATURE * count / FP32_PEAK
        sizes = [gb(3 * weights), gb(logits), gb(MANY[-1] * logits)]
        rows.append([f"{count:,}", *sizes, ms(seconds), ms(MANY[-1] * seconds), gb(sent), ms(sent / NETWORK_BUS)])
    head = ["identities", "weights, gradients, momentum, GB", "logits of own rows, GB", "of all rows, GB"]
    head += ["products, ms", "of all rows, ms", "gradients sent, GB", "alone, ms"]
    return table(head, rows)


def main() -> None:
    tables = (weak_table, design_table, crossing_table, utilisation_table, bytes_table, identity_table, strong_table)
    for made in (*tables, zero_table):
        print(f"{made()}\n")


if __name__ == "__main__":
    run_main(main, __doc__)
