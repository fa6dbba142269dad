"""Memory of the paper's training step and evaluation against what must be held; batches that fit: `make bench-memory`.

Counted on tensors without data (benchmarks/tracing.py); the counter is compared with a real step of a smaller model on
this machine. Where there is a GPU, the paper's step is measured on it, too. Writes
benchmarks/memory_<hardware>_<date>.md.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from communication import drawn_batch
from evaluation_memory import forget_peak, memory
from record import PROJECT, Figure, conditions, save
from torch import nn
from tracing import MARS_IDENTITIES, Trace, evaluation, training_step

from mstat.config import BatchConfig, ClipConfig, Config, ModelConfig, changed
from mstat.distributed.engine import Engine
from mstat.model import feature_dims
from mstat.model.cpu import FASTER
from mstat.model.randomness import block_counts
from mstat.model.stem import patch_grid
from mstat.training.task import Task

CARDS = {"40 GB": 40e9, "80 GB": 80e9, "141 GB": 141e9}
FIXED = 1.5e9  # bytes: CUDA's context, workspaces of cuBLAS, buffers of NCCL. Assumed.
SPLIT = 0.10  # of the peak, lost between blocks of the allocator. Assumed.
GRID = 65_535  # sequences: CUDA's limit for the dimension of a grid on which flash attention lays them
SMALLER = ModelConfig(image_size=(112, 64), width=384, num_heads=6, depths=(3, 2, 2))


class Item(NamedTuple):
    """What must be held, with its formula and its bytes."""

    what: str
    formula: str
    bytes: int


class Sizes:
    """The letters of the formulas. B clips, T frames, N patches a frame, D width, A proxies, M prototypes, h heads."""

    def __init__(self, model: ModelConfig, clips: int, frames: int) -> None:
        rows, columns = patch_grid(model)
        self.model, self.D, self.h, self.M = model, model.width, model.num_heads, model.num_prototypes
        self.n = clips * frames * rows * columns  # tokens
        self.m = self.n + clips * frames  # and a class token a frame
        self.s = self.n + clips  # and a class token a clip
        self.a = clips * frames * model.num_temporal_attributes
        self.features = clips * sum(feature_dims(model))
        self.first, self.second, self.third = block_counts(model)

    @property
    def sta(self) -> int:
        """An STA: temporal 16 n D, spatial 14 m D, MLP 22 n D, and a sum a row of attention in fp32."""
        return 38 * self.n * self.D + 14 * self.m * self.D + 4 * self.h * (self.n + self.m)

    @property
    def attribute_sta(self) -> int:
        """An A-STA: 14 n D and 26 a D for two AAPs and the attention between them, then as an STA."""
        temporal = 14 * self.n * self.D + 26 * self.a * self.D + 4 * self.h * (2 * self.a + self.n)
        return temporal + 22 * self.n * self.D + 14 * self.m * self.D + 4 * self.h * self.m


def fixed(config: Config, momentum: bool) -> Iterator[Item]:
    """What does not depend on the batch."""
    with torch.device("meta"):
        task = Task(config, MARS_IDENTITIES)
    weights = sum(p.numel() for p in (task if momentum else task.model).parameters())
    linear = [module for module in task.model.modules() if isinstance(module, nn.Linear)]
    yield Item("weights, fp32", "4 W", 4 * weights)
    if momentum:
        yield Item("momentum, fp32", "4 W", 4 * weights)
    if not config.train.activation_checkpointing:
        half = sum(module.weight.numel() for module in linear)
        yield Item("matrices in bf16, which the products read", "2 W'", 2 * half)


def read_outs(z: Sizes) -> Iterator[Item]:
    """What stem, AAP, IAPs and losses keep. Tokens that they normalise are fp32, what a product reads is bf16."""
    yield Item("stem: pixels", "2 · 3P² n", 2 * 3 * z.model.patch_size**2 * z.n)
    yield Item("AAP of Stage I: LayerNorm's input and output, keys, values", "10 s D", 10 * z.s * z.D)
    iap = 8 * z.s * z.D + 4 * z.M * z.h * z.s
    yield Item("2 IAPs: LayerNorm's input and output, queries; logits in fp32", "2 (8 s D + 4 M h s)", 2 * iap)
    yield Item("features and their distances", "8 · B · 19,968", 8 * z.features)


def training(config: Config) -> list[Item]:
    """What must be held as the backward pass begins: no gradient is there yet; each is made as activations go."""
    z = Sizes(config.model, config.batch.num_identities * config.batch.num_tracklets, config.clip.num_frames)
    items = [*fixed(config, momentum=True), *read_outs(z)]
    if config.train.activation_checkpointing:
        blocks = z.first + z.second + z.third
        items.append(
            Item(f"input of {blocks} blocks, Stages II and III sharing one", "4 n D each", 4 * (blocks - 1) * z.n * z.D)
        )
        items.append(Item("the block that is computed again", "52 n D …", max(z.sta, z.attribute_sta)))
        return items
    plain = z.first + z.second
    items.append(Item(f"{plain} STA blocks", f"{plain} (38 n D + 14 m D + 4 h (n + m))", plain * z.sta))
    formula = f"{z.third} (36 n D + 14 m D + 26 a D + 4 h (n + m + 2 a))"
    items.append(Item(f"{z.third} A-STA blocks", formula, z.third * z.attribute_sta))
    items.append(Item("less the input that Stages II and III share", "- 4 n D", -4 * z.n * z.D))
    return items


def evaluating(config: Config) -> list[Item]:
    """What must be held in an MLP of Stage II, the widest place: Stage III still needs what Stage I gave."""
    z = Sizes(config.model, config.eval.batch_size, config.eval.num_frames)
    return [
        *fixed(config, momentum=False),
        Item("tokens of Stage I and of this block, fp32", "8 n D", 8 * z.n * z.D),
        Item("hidden layer before and after the GELU, bf16", "16 n D", 16 * z.n * z.D),
    ]


def total(items: list[Item]) -> int:
    return sum(item.bytes for item in items)


def settings(identities: int = 12, recompute: bool = False) -> Config:
    """The paper's, with another number of identities in the batch, 2 clips of each."""
    return changed(Config(), {"batch.num_identities": identities, "train.activation_checkpointing": recompute})


def needed(peak: int) -> float:
    """Bytes of a card that hold a counted peak, reserve included."""
    return FIXED + (1 + SPLIT) * peak


@functools.cache
def peak(identities: int, recompute: bool) -> int:
    return training_step(settings(identities, recompute)).peak


def largest(recompute: bool) -> dict[str, int]:
    """Most identities that fit each card: where a line through two traces meets it, then traced to the very number."""
    low, high = 12, 48
    slope = (peak(high, recompute) - peak(low, recompute)) / (high - low)
    rows, columns = patch_grid(ModelConfig())
    limit = GRID // (rows * columns) // 2  # each patch of each of 2 clips is a sequence of temporal attention
    result = {}
    for card, size in CARDS.items():
        count = min(limit, low + int((size - needed(peak(low, recompute))) / (1 + SPLIT) / slope))
        while needed(peak(count, recompute)) > size:
            count -= 1
        while count < limit and needed(peak(count + 1, recompute)) <= size:
            count += 1
        result[card] = count
    return result


def smaller(precision: str, recompute: bool) -> Config:
    """A model whose step a CPU takes in seconds, and whose memory is activations for the most part, as the paper's."""
    config = Config(model=SMALLER, batch=BatchConfig(8, 2), clip=ClipConfig(num_frames=8))
    return changed(config, {"train.precision": precision, "train.activation_checkpointing": recompute})


def worker(config: Config) -> None:
    """Print how far memory rises in a real step above what is held before it, on a GPU by its allocator, on a CPU by
    the resident size; and how far it should, as counted."""
    engine = Engine(config)
    on_gpu = engine.device.type == "cuda"
    counted = training_step(config, inside=None if on_gpu else lambda *_: 0)
    task = Task(config, MARS_IDENTITIES)
    if config.train.activation_checkpointing:
        task.model.recompute_blocks()
    with patch.dict(FASTER, clear=True):  # on a CPU too, the kernels of a GPU
        engine.prepare(task)
    batch = drawn_batch(config, engine)

    def step() -> None:
        engine.update(engine.losses(batch, 1.0)["loss"], 1e-5)

    for _ in range(2):  # then momentum is there, and whatever else is made once
        step()
    forget_peak()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else memory("VmRSS")
    step()
    highest = torch.cuda.max_memory_allocated() if on_gpu else memory("VmHWM")
    held = counted.held(counted.peak_at)
    standing = sum(held[name] for name in ("weights", "optimiser state", "batch"))
    print(json.dumps({"measured": highest - before, "counted": counted.peak - standing}))


def compare(name: str, precision: str, recompute: bool) -> dict[str, int]:
    """What `worker` finds in a process of its own, in which freed memory goes back to the system at once."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "MALLOC_MMAP_THRESHOLD_": "65536"}
    if name == "smaller":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(Path(__file__)), "--worker", name, precision, str(int(recompute))]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def comparisons() -> dict[str, dict[str, int]]:
    """Counted and measured rise of memory in a step: of the smaller model on the CPU, of the paper's on a GPU."""
    result = {}
    names = {"smaller": ("no", "bf16"), **({"paper": ("bf16",)} if torch.cuda.is_available() else {})}
    for name, precisions in names.items():
        for precision in precisions:
            for recompute in (False, True):
                title = f"{name}, {'fp32' if precision == 'no' else precision}{', recomputed' if recompute else ''}"
                result[title] = compare(name, precision, recompute)
                print(title, result[title], file=sys.stderr, flush=True)
    return result


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f}"


def item_table(items: list[Item], trace: Trace) -> list[str]:
    """What must be held, item by item, and below what is counted at the peak, by what it is for."""
    lines = ["| must be held | formula, bytes | GB |", "|---|---|---:|"]
    lines += [f"| {item.what} | {item.formula} | {gigabytes(item.bytes)} |" for item in items]
    lines.append(f"| **all of that** | | **{gigabytes(total(items))}** |")
    held = sorted(trace.held(trace.peak_at).items(), key=lambda pair: -pair[1])
    counted = "; ".join(f"{LABELS.get(name, name)} {gigabytes(size)}" for name, size in held)
    lines.append(f"| **counted at the peak** | {counted} | **{gigabytes(trace.peak)}** |")
    makers: Counter[str] = Counter()
    for one in trace.alive(trace.peak_at):
        if one.label is None:
            makers[one.op] += one.bytes
    message = ", ".join(f"`{op}` {gigabytes(size)}" for op, size in makers.most_common(8))
    return [*lines, "", f"Activations at the peak, by the operation that made them: {message}."]


LABELS = {
    "forward": "kept by the forward pass",
    "backward": "made in the backward pass",
    "evaluation": "activations",
}


def batch_table(most: dict[bool, dict[str, int]]) -> list[str]:
    lines = ["| card | largest batch | counted peak, GB | recomputing: largest batch | counted peak, GB |"]
    lines.append("|---|" + "---:|" * 4)
    for card in CARDS:
        cells = [f"{most[r][card]} × 2 = {2 * most[r][card]} | {gigabytes(peak(most[r][card], r))}" for r in most]
        lines.append(f"| {card} | {' | '.join(cells)} |")
    return lines


def record(
    traces: dict[str, tuple[list[Item], Trace]], most: dict[bool, dict[str, int]], compared: dict[str, dict[str, int]]
) -> str:
    """The record as Markdown."""
    plain = traces["Training step, 24 clips of 8 frames"][1].peak
    a100 = CARDS["40 GB"]
    on_gpu = any(name.startswith("paper") for name in compared)
    return "\n".join(
        [
            "# Memory of a training step and of an evaluation",
            "",
            conditions("bench-memory"),
            "",
            f"**Counted, {'and compared with a GPU below' if on_gpu else 'not measured on a GPU'}.** The real step "
            "runs on tensors without data, and every storage is followed from its first tensor to its last, rounded up "
            "to 512 bytes as CUDA's allocator does. Attention is flash attention, with the memory that its backward "
            "pass takes for itself; operations are not fused (no torch.compile). MSTAT as published, bf16 autocast, "
            "SGD with momentum, classifiers of MARS's 625 identities. GB are 10⁹ bytes.",
            "",
            "Letters: B clips, T frames, N = 98 patches a frame, n = BTN tokens, m = BT (N + 1), s = B (TN + 1), "
            "a = 24 BT attributes of an A-STA, D = 768, h = 12 heads, M = 64 prototypes, P = 16, W numbers in the "
            "model, W' of them in matrices. What must be held is what the gradients' formulas read, each once, in the "
            "precision that autocast computes in.",
            "",
            *(
                line
                for title, (items, trace) in traces.items()
                for line in (f"## {title}", "", *item_table(items, trace), "")
            ),
            "Gradients (4 W) are made as activations go, so the peak, early in the backward pass, has next to none. "
            "Activation checkpointing (`train.activation_checkpointing`) changes nothing without gradients, so "
            "evaluation is the same with it.",
            "",
            "## Does it fit?",
            "",
            f"Reserve, assumed: {gigabytes(FIXED)} GB for CUDA's context, libraries' workspaces and NCCL's buffers, "
            f"and {SPLIT:.0%} of the peak lost between the allocator's blocks. With it the paper's step needs "
            f"{gigabytes(needed(plain))} GB, {needed(plain) / a100:.0%} of an A100 of 40 GB. Largest batch P × 2 of 8 "
            "frames, found by tracing that batch and the next:",
            "",
            *batch_table(most),
            "",
            f"{GRID // 98 // 2} × 2 is where CUDA's grid ends for flash attention over frames ({GRID:,} sequences), "
            "not memory. ZeRO does not split activations; what it takes off the rest: the record of `zero-memory`.",
            "",
            "## Is the counter right?",
            "",
            "How far memory rises in a step above weights, momentum and batch. *smaller*: width 384, 7 blocks, 16 "
            "clips of 8 frames of 112 × 64, on this CPU: the highest resident size of a real step (freed memory goes "
            "back to the system at once). *paper*: the allocator of a GPU, where there is one.",
            "",
            "| | counted, MB | measured, MB | measured / counted |",
            "|---|---:|---:|---:|",
            *(
                f"| {name} | {one['counted'] / 1e6:,.1f} | {one['measured'] / 1e6:,.1f} | "
                f"{one['measured'] / one['counted']:.3f} |"
                for name, one in compared.items()
            ),
            "",
        ]
    )


def figures(traces: dict[str, tuple[list[Item], Trace]]) -> list[Figure]:
    return [
        Figure(
            f"memory, counted: {title}",
            f"{gigabytes(trace.peak)} GB",
            wanted="< 40 GB with room",
            limit=f"{gigabytes(total(items))} GB must be held",
            share=total(items) / trace.peak,
        )
        for title, (items, trace) in traces.items()
    ]


def main() -> None:
    compared = comparisons()
    plain, recomputing = settings(), settings(recompute=True)
    traces = {
        "Training step, 24 clips of 8 frames": (training(plain), training_step(plain)),
        "The same with activation checkpointing": (training(recomputing), training_step(recomputing)),
        "Evaluation, 8 clips of 32 frames": (evaluating(plain), evaluation(plain)),
    }
    most = {recompute: largest(recompute) for recompute in (False, True)}
    save("memory", record(traces, most, compared), figures(traces))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        name, precision, recompute = sys.argv[2:]
        worker(smaller(precision, recompute == "1") if name == "smaller" else settings(recompute=recompute == "1"))
    else:
        main()
