"""Memory of the paper's training step and evaluation, the lower bound, and the largest batches: `make bench-memory`.

Memory is counted on tensors without data (benchmarks/tracing.py), which tests compare with torch's tracker. Batches in
chunks (`batch.chunk_size`) are traced with their first and last chunk alone: the others reuse the memory of the first.
"""

from __future__ import annotations

import functools
import gc
import math

import torch
from torch import nn

from benchmarks.harness import MARS_IDENTITIES, Figure, call_elsewhere, resident, run_main, save, table
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
CHUNK, IN_CHUNKS = 24, (24, 192, 1536, 12_288)  # clips: embedded at a time, of a batch
GROWING = ("features", "losses", "features' gradient")  # labels of what grows with the batch
FEW, MANY = 8, 136  # chunks
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


def settings(identities: int = 12, recompute: bool = False, chunk_size: int | None = None) -> Config:
    """Return the paper's settings with another number of identities in the batch, 2 clips of each."""
    batch = {"batch.num_identities": identities, "batch.chunk_size": chunk_size}
    return changed(Config(), {**batch, "train.activation_checkpointing": recompute})


def needed(peak: int) -> float:
    """Return the memory that a card needs for a counted peak, including the reserve."""
    return FIXED + (1 + SPLIT) * peak


@functools.cache
def step(identities: int, recompute: bool, chunk_size: int | None = None) -> Trace:
    config = settings(identities, recompute, chunk_size)
    return training_step(config, two_chunks=chunk_size is not None and 2 * identities > chunk_size)


def largest(size: float, recompute: bool, chunk_size: int | None = None) -> int:
    """Return the most identities that fit, in whole chunks: extrapolate from two traces, then search by tracing."""

    def peak(identities: int) -> int:
        return step(identities, recompute, chunk_size).peak

    if chunk_size:
        # From here on the losses, which grow with the batch, hold more than the backward pass of a chunk.
        low, high, unit, limit = 6_000, 12_000, chunk_size // 2, None
    else:
        rows, columns = patch_grid(ModelConfig())
        # Each patch of each of 2 clips is a sequence of temporal attention.
        low, high, unit, limit = 12, 48, 1, GRID // (rows * columns) // 2
    slope = (peak(high) - peak(low)) / (high - low)
    count = low + int((size - needed(peak(low))) / (1 + SPLIT) / slope) // unit * unit
    count = min(count, limit or count)
    while needed(peak(count)) > size:
        count -= unit
    while count != limit and needed(peak(count + unit)) <= size:
        count += unit
    return count


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f}"


def held_table(items: dict[str, int], trace: Trace) -> str:
    """Return a table of the lower bound, item by item, and the counted peak, by purpose."""
    rows = [*items.items(), ("**all of that**", sum(items.values())), ("**counted at the peak**", trace.peak)]
    rows += [(f"of it: {label}", size) for label, size in sorted(trace.held_at_peak().items(), key=lambda x: -x[1])]
    return table(["", "GB"], [(name, gigabytes(size)) for name, size in rows])


def growth_table(recompute: bool) -> str:
    """Return a table of a step in chunks: its peak in the losses and in the backward pass, by what grows."""
    traces = [step(clips // 2, recompute, CHUNK) for clips in IN_CHUNKS]
    names = {
        "losses": "In the losses: weights, momentum, activations of the last chunk",
        "backward": "In the backward pass: weights, momentum, gradients, activations of a chunk",
    }
    rows: list[list[str]] = [["**counted at the peak**", *(gigabytes(trace.peak) for trace in traces)]]
    for phase, name in names.items():
        held = [trace.held_at_peak(phase) for trace in traces]
        # With the workspace of an operation, which is no tensor.
        constant = [t.peaks[phase] - sum(h.get(x, 0) for x in GROWING) for t, h in zip(traces, held, strict=True)]
        rows.append([name, *map(gigabytes, constant)])
        for label in GROWING:
            if any(label in one for one in held):
                rows.append([f"and: {label}", *(gigabytes(one.get(label, 0)) for one in held)])
    return table(["GB", *(f"{clips:,} clips" for clips in IN_CHUNKS)], rows)


def graph_of_a_chunk() -> float:
    """Return the bytes on the host of a chunk's part of the autograd graph, of the paper's depths: no tensors."""
    model = ModelConfig(image_size=(16, 16), width=8, num_heads=1, num_attributes=2, num_temporal_attributes=2)
    sizes = {}
    for chunks in (FEW, MANY):
        batch = {"batch.num_identities": chunks // 2, "batch.chunk_size": 1, "clip.num_frames": 2}
        task = Task(changed(Config(model=model), batch), num_classes=chunks // 2)
        frames = torch.zeros(chunks, 2, *model.image_size, 3, dtype=torch.uint8)
        gc.collect()
        before = resident("VmRSS")
        with torch.autocast("cpu", torch.bfloat16):
            losses = task(frames, None, None, torch.arange(chunks) // 2, metric_weight=1.0)
        sizes[chunks] = resident("VmRSS") - before
        del losses
    return (sizes[MANY] - sizes[FEW]) / (MANY - FEW)


def fits_in_chunks() -> str:
    """Return a table of the largest batches in chunks."""
    rows = []
    for card, size in CARDS.items():
        row: list[object] = [card]
        for recompute in (False, True):
            count = largest(size, recompute, CHUNK)
            row += [f"{2 * count:,}", gigabytes(step(count, recompute, CHUNK).peak)]
        rows.append(row)
    return table(["card", "largest batch, clips", "peak, GB", "recomputing: largest batch", "peak, GB"], rows)


def main() -> None:
    traces = {
        title: (must_be_held(config), training_step(config))
        for title, config in {STEP: settings(), RECOMPUTING: settings(recompute=True)}.items()
    }
    evaluating = gigabytes(evaluation(Config()).peak)
    fits = []
    for card, size in CARDS.items():
        counts = [(largest(size, recompute), recompute) for recompute in (False, True)]
        cells = [(f"{count} × 2 = {2 * count}", gigabytes(step(count, recompute).peak)) for count, recompute in counts]
        fits.append([card, *cells[0], *cells[1]])
    whole = needed(traces[STEP][1].peak)
    checked = settings(96, chunk_size=CHUNK)
    assert training_step(checked).peaks == step(96, False, CHUNK).peaks, "two chunks do not stand for all eight"
    frames = Config().clip.num_frames * 3 * math.prod(Config().model.image_size)
    graph = call_elsewhere(graph_of_a_chunk, OMP_NUM_THREADS="1")
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
        f"## In chunks of {CHUNK} clips",
        "The same step with `batch.chunk_size`. Frames stay on the host, and a chunk's are copied to the device. "
        f"Features of n clips are 4 · n · {Sizes(Config().model, 1, 1).features:,} bytes; *losses* are what the losses "
        "and their gradients hold besides. Traced with the first and the last chunk alone; with all 8 chunks of 192 "
        "clips, each phase had the same peak to the byte.",
        growth_table(recompute=False),
        "The same with activation checkpointing:",
        growth_table(recompute=True),
        "Largest batch by memory of the device, in whole chunks, with the reserve above; CUDA's grid limits the chunk, "
        "not the batch. Found by tracing that batch and one with a chunk more. No GPU has run such a batch.",
        fits_in_chunks(),
        f"Frames take {frames / 1e6:.2f} MB of the host a clip, and as much in each batch that the loader holds. "
        "Of each chunk it keeps the autograd graph without its "
        f"tensors: {graph / 1e6:.1f} MB of resident memory, measured on a model of the paper's depths and width 8 "
        f"({FEW} and {MANY} chunks).",
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
