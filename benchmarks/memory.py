"""Memory of the paper's training step and evaluation, the lower bound, and the largest batches: `make bench-memory`.

Memory is counted on tensors without data (benchmarks/tracing.py), which tests compare with torch's tracker.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from benchmarks.harness import MARS_IDENTITIES, Figure, run_main, save, table
from benchmarks.tracing import Trace, evaluation, training_step
from mstat.config import Config, ModelConfig, changed
from mstat.model import feature_dims
from mstat.model.randomness import block_counts
from mstat.model.stem import patch_grid
from mstat.training.task import Task

CARDS = {"40 GB": 40e9, "80 GB": 80e9, "141 GB": 141e9}
FIXED = 1.5e9  # bytes: CUDA's context, workspaces of cuBLAS, buffers of NCCL. Assumed.
SPLIT = 0.10  # of the peak, lost between blocks of the allocator. Assumed.
GRID = 65_535  # sequences: CUDA's limit for the dimension of a grid on which flash attention lays them
STEP, RECOMPUTING = "Training step, 24 clips of 8 frames", "The same with activation checkpointing"


class Sizes:
    """Sizes in the formulas: B clips, T frames, N patches a frame, D width, A proxies, M prototypes, h heads."""

    def __init__(self, model: ModelConfig, clips: int, frames: int) -> None:
        rows, columns = patch_grid(model)
        self.D, self.h, self.M = model.width, model.num_heads, model.num_prototypes
        self.n = clips * frames * rows * columns  # tokens
        self.m = self.n + clips * frames  # and a class token a frame
        self.s = self.n + clips  # and a class token a clip
        self.a = clips * frames * model.num_temporal_attributes
        self.features = clips * sum(feature_dims(model))

    @property
    def sta(self) -> int:
        """Bytes of an STA: temporal 16 n D, spatial 14 m D, MLP 22 n D, and an fp32 sum per row of attention."""
        return 38 * self.n * self.D + 14 * self.m * self.D + 4 * self.h * (self.n + self.m)

    @property
    def attribute_sta(self) -> int:
        """Bytes of an A-STA: 14 n D and 26 a D for two AAPs and the attention between them, then as an STA."""
        temporal = 14 * self.n * self.D + 26 * self.a * self.D + 4 * self.h * (2 * self.a + self.n)
        return temporal + 22 * self.n * self.D + 14 * self.m * self.D + 4 * self.h * self.m


def fixed(config: Config) -> dict[str, int]:
    """Return the bytes that do not depend on the batch, by purpose."""
    with torch.device("meta"):
        task = Task(config, MARS_IDENTITIES)
    weights = sum(p.numel() for p in task.parameters())
    half = sum(module.weight.numel() for module in task.model.modules() if isinstance(module, nn.Linear))
    items = {"weights, fp32: 4 W": 4 * weights, "momentum, fp32: 4 W": 4 * weights}
    if not config.train.activation_checkpointing:
        items["matrices in bf16, which the products read: 2 W'"] = 2 * half
    return items


def must_be_held(config: Config) -> dict[str, int]:
    """Return the bytes at the start of the backward pass, without gradients, by purpose.

    Tokens that stem, AAP and IAPs normalise are fp32; the inputs of products are bf16.
    """
    z = Sizes(config.model, config.batch.num_identities * config.batch.num_tracklets, config.clip.num_frames)
    first, second, third = block_counts(config.model)
    items = {
        **fixed(config),
        "stem, pixels: 2 · 3P² n": 2 * 3 * config.model.patch_size**2 * z.n,
        "AAP of Stage I, LayerNorm's input and output, keys, values: 10 s D": 10 * z.s * z.D,
        "2 IAPs, LayerNorm's input and output, queries; logits in fp32: 2 (8 s D + 4 M h s)": 2
        * (8 * z.s * z.D + 4 * z.M * z.h * z.s),
        "features and their distances: 8 · B · 19,968": 8 * z.features,
    }
    if config.train.activation_checkpointing:
        inputs = first + second + third - 1  # Stages II and III share one
        items[f"input of {inputs + 1} blocks, Stages II and III sharing one: 4 n D each"] = inputs * 4 * z.n * z.D
        items["the block that is computed again: 52 n D …"] = max(z.sta, z.attribute_sta)
    else:
        plain = first + second
        items[f"{plain} STA blocks: {plain} (38 n D + 14 m D + 4 h (n + m))"] = plain * z.sta
        formula = f"{third} (36 n D + 14 m D + 26 a D + 4 h (n + m + 2 a))"
        items[f"{third} A-STA blocks: {formula}"] = third * z.attribute_sta
        items["less the input that Stages II and III share: - 4 n D"] = -4 * z.n * z.D
    return items


def settings(identities: int = 12, recompute: bool = False) -> Config:
    """Return the paper's settings with another number of identities in the batch, 2 clips of each."""
    return changed(Config(), {"batch.num_identities": identities, "train.activation_checkpointing": recompute})


def needed(peak: int) -> float:
    """Return the memory that a card needs for a counted peak, including the reserve."""
    return FIXED + (1 + SPLIT) * peak


@functools.cache
def peak(identities: int, recompute: bool) -> int:
    return training_step(settings(identities, recompute)).peak


def largest(size: float, recompute: bool) -> int:
    """Return the most identities that fit: extrapolate from two traces, then search by tracing."""
    low, high = 12, 48
    slope = (peak(high, recompute) - peak(low, recompute)) / (high - low)
    rows, columns = patch_grid(ModelConfig())
    limit = GRID // (rows * columns) // 2  # each patch of each of 2 clips is a sequence of temporal attention
    count = min(limit, low + int((size - needed(peak(low, recompute))) / (1 + SPLIT) / slope))
    while needed(peak(count, recompute)) > size:
        count -= 1
    while count < limit and needed(peak(count + 1, recompute)) <= size:
        count += 1
    return count


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f}"


def held_table(items: dict[str, int], trace: Trace) -> str:
    """Return a table of the lower bound, item by item, and the counted peak, by purpose."""
    rows = [*items.items(), ("**all of that**", sum(items.values())), ("**counted at the peak**", trace.peak)]
    rows += [(f"of it: {label}", size) for label, size in sorted(trace.held_at_peak().items(), key=lambda x: -x[1])]
    return table(["", "GB"], [(name, gigabytes(size)) for name, size in rows])


def main() -> None:
    traces = {
        title: (must_be_held(config), training_step(config))
        for title, config in {STEP: settings(), RECOMPUTING: settings(recompute=True)}.items()
    }
    evaluating = gigabytes(evaluation(Config()).peak)
    fits = []
    for card, size in CARDS.items():
        counts = [(largest(size, recompute), recompute) for recompute in (False, True)]
        cells = [(f"{count} × 2 = {2 * count}", gigabytes(peak(count, recompute))) for count, recompute in counts]
        fits.append([card, *cells[0], *cells[1]])
    whole = needed(traces[STEP][1].peak)
    save(
        "memory",
        "Memory of a training step and of an evaluation",
        "**Counted, not measured on a GPU** (`make bench-gpu` does that). The real step runs on tensors without data, "
        "and every storage is followed from its first tensor to its last (benchmarks/tracing.py). MSTAT as published, "
        "bf16 autocast, SGD with momentum, classifiers of MARS's 625 identities, no torch.compile. GB are 10⁹ bytes.",
        "Letters: B clips, T frames, N = 98 patches a frame, n = BTN tokens, m = BT (N + 1), s = B (TN + 1), a = 24 BT "
        "attributes of an A-STA, D = 768, h = 12 heads, M = 64 prototypes, P = 16, W numbers in the model, W' of them "
        "in matrices. What must be held is what the gradients' formulas read, each once, in autocast's precision.",
        *(f"## {title}\n\n{held_table(items, trace)}" for title, (items, trace) in traces.items()),
        f"## Evaluation, 8 clips of 32 frames\n\n{evaluating} GB at the peak.",
        "## Does it fit?",
        f"Reserve, assumed: {gigabytes(FIXED)} GB for CUDA's context, libraries' workspaces and NCCL's buffers, and "
        f"{SPLIT:.0%} of the peak lost between the allocator's blocks. With it the paper's step needs "
        f"{gigabytes(whole)} GB, {whole / CARDS['40 GB']:.0%} of an A100 of 40 GB. Largest batch P × 2 of 8 frames, "
        f"found by tracing that batch and the next; {GRID // 98 // 2} × 2 is where CUDA's grid ends for flash "
        f"attention over frames ({GRID:,} sequences), not memory:",
        table(["card", "largest batch", "peak, GB", "recomputing: largest batch", "peak, GB"], fits),
        figures=[
            Figure(
                f"memory, counted: {title}",
                f"{gigabytes(trace.peak)} GB",
                wanted="< 40 GB with room",
                limit=f"{gigabytes(sum(items.values()))} GB must be held",
                share=sum(items.values()) / trace.peak,
            )
            for title, (items, trace) in traces.items()
        ],
    )


if __name__ == "__main__":
    run_main(main, __doc__)
