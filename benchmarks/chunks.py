"""Cost of a training step in chunks (`batch.chunk_size`), compared with the whole batch at once: `make bench-chunks`.

The paper's model on CPUs, in fp32 and bf16. All chunks but the last are embedded twice: with k chunks a step has
(k - 1) / k of a forward pass more, at most a third of its products.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from typing import Any

import torch

from benchmarks.harness import MARS_IDENTITIES, Figure, call_elsewhere, in_turn, ratio, save, table
from benchmarks.steps import drawn_batch
from benchmarks.training_step import NAMES, Precision, our_task, paper
from mstat.config import changed
from mstat.distributed.engine import Engine

WANTED = 1.40
TOLERANCES: dict[Precision, float] = {"no": 1e-5, "bf16": 1e-2}  # of the loss and of the gradient's norm


def measure(clips: int, chunk_sizes: list[int], precision: Precision, rounds: int) -> dict[str, Any]:
    """Return losses, gradient norms and the seconds of every round for each size, the whole batch first.

    It needs a new process, because the precision of an Accelerator is fixed for its process.
    """
    config = changed(paper(precision), {"batch.num_identities": clips // 2})
    engine = Engine(config)
    torch.manual_seed(0)
    batch = drawn_batch(config, engine)
    task = our_task()
    engine.prepare(task)

    def step(size: int, lr: float) -> tuple[float, float]:
        task.chunk_size = size
        loss = engine.losses(batch, 1.0)["loss"]
        return loss.item(), engine.update(loss, lr).item()

    sizes = [clips, *chunk_sizes]
    at_rest = [step(size, lr=0.0) for size in sizes]  # of the same weights; it also warms up
    calls = {str(size): functools.partial(step, size, lr=1e-5) for size in sizes}
    return {"losses": [x for x, _ in at_rest], "norms": [x for _, x in at_rest], "seconds": in_turn(calls, rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--chunk-sizes", nargs="+", type=int, default=[4, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", choices=list(NAMES), default=list(NAMES))
    parser.add_argument("--name", default="chunks", help="of the record")
    options = parser.parse_args()
    sizes = [options.clips, *options.chunk_sizes]
    rows, figures = [], []
    for precision in options.precisions:
        result = call_elsewhere(measure, options.clips, options.chunk_sizes, precision, options.rounds)
        for values in (result["losses"], result["norms"]):
            assert all(abs(value / values[0] - 1) < TOLERANCES[precision] for value in values), (precision, result)
        seconds = [result["seconds"][str(size)] for size in sizes]
        for size, of_rounds, loss, norm in zip(sizes, seconds, result["losses"], result["norms"], strict=True):
            count, middle = -(-options.clips // size), statistics.median(of_rounds)
            times = ratio(of_rounds, seconds[0])
            spread = f"{middle:.2f} ({min(of_rounds):.2f} to {max(of_rounds):.2f})"
            more = f"{1 + (1 - 1 / count) / 3:.2f}"
            rows.append([NAMES[precision], size, count, spread, f"{times:.2f}", more, f"{loss:.6f}", f"{norm:.5f}"])
            if count > 1:
                what = f"training step of {options.clips} clips in chunks of {size}, {NAMES[precision]}: time"
                whole = f"{statistics.median(seconds[0]):.2f} s"
                wanted, limit = f"≥ {1 / WANTED:.2f}", f"{more} of the products"
                figures.append(Figure(what, f"{middle:.2f} s", "all at once", whole, 1 / times, wanted, limit))
        print(*rows[-len(sizes) :], sep="\n", flush=True)
    save(
        options.name,
        "A training step in chunks",
        f"The paper's model, {options.clips} clips of 8 frames, {MARS_IDENTITIES} identities: forward pass, losses, "
        f"backward pass, update by SGD. Median of {options.rounds} rounds in turn after one to settle, in brackets the "
        "least and the most; times are medians over the rounds. *Products*: one of k chunks is embedded once and the "
        "others twice, so a step has 1 + (k - 1) / 3k of the products. Losses and norms of the gradient are of the "
        "same weights; the run fails if they differ by 1e-5 in fp32 or 1e-2 in bf16. Wanted: at most "
        f"{WANTED:.2f} times.",
        table(["precision", "chunk", "chunks", "seconds", "times", "products", "first loss", "norm"], rows),
        figures=figures,
    )


if __name__ == "__main__":
    main()
