"""Bytes of weights, gradients and optimiser state of a rank, ZeRO-0 to 3 on 1, 2, 4 ranks: `make bench-memory`.

At the update of a real training step, all tensors are sorted by purpose, and their bytes are compared with the formula;
they must be equal.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from benchmarks.harness import MARS_IDENTITIES, PROJECT, Figure, call_elsewhere, launch, run_main, save, table
from benchmarks.steps import prepare
from mstat.config import BatchConfig, Config, changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.model import no_weight_decay
from mstat.training.task import Task

RANKS, STAGES = (1, 2, 4), (0, 1, 2, 3)
PARTS = ("weights", "fp32 copy of its share", "gradients", "optimiser state")
FP32 = 4  # bytes
PERSISTENT = 100_000  # numbers: DeepSpeed's stage3_param_persistence_threshold; what is smaller stays whole
STEPS = 3


def groups(task: Task) -> list[list[int]]:
    """Return the sizes of the trained parameters by optimiser group: with and without weight decay."""
    trained = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    return [[p.numel() for n, p in trained if no_weight_decay(n, p) is kept] for kept in (False, True)]


def formula(sizes: list[list[int]], stage: int, ranks: int, rank: int = 0) -> dict[str, int]:
    """Return the bytes of a rank by part, between the backward pass and the update.

    ZeRO-0 keeps weights, gradients and momentum whole, like DDP. ZeRO-1 and 2 concatenate each group of parameters, pad
    it to a multiple of 2 R numbers and split it; if two ranks share a parameter, both have its whole gradient. ZeRO-3
    splits each parameter, rounded up to a whole number per rank; with several ranks, it also keeps small parameters
    whole, with that padding. All three update an fp32 copy of their share, although the weights are fp32 already.
    """
    whole = sum(map(sum, sizes))
    if stage == 0:
        counts = (whole, 0, whole, whole)
    elif stage == 3:
        rounded = [(size, -(-size // ranks)) for group in sizes for size in group]
        share = sum(part for _, part in rounded)
        small = sum(part * ranks for size, part in rounded if size <= PERSISTENT and ranks > 1)
        counts = (share + small, share, share, share)
    else:
        shares = [-(-sum(group) // (2 * ranks)) * 2 for group in sizes]
        gradients = sum(
            touched(group, share * rank, share * (rank + 1)) for group, share in zip(sizes, shares, strict=True)
        )
        counts = (sum(shares) * ranks, sum(shares), gradients, sum(shares))
    return {part: FP32 * number for part, number in zip(PARTS, counts, strict=True)}


def touched(group: list[int], start: int, stop: int) -> int:
    """Return the total size of the concatenated parameters that overlap [start, stop)."""
    ends = list(itertools.accumulate(group))
    return sum(size for size, end in zip(group, ends, strict=True) if end > start and end - size < stop)


def storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Return address -> bytes of the storages of tensors; tensors may share a storage."""
    real = [tensor for tensor in tensors if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta"]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in real}


def held(engine: Engine) -> dict[str, int]:
    """Return the bytes that a rank holds, by part."""
    parameters = [parameter for parameter in engine.task.parameters() if parameter.requires_grad]
    sharder = engine.wrapped.optimizer if engine.kind != "zero0" else None  # DeepSpeed's, around torch's
    optimizer = sharder.optimizer if sharder else engine.optimizer
    copies = ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
    parts = {
        "weights": [p.data for p in parameters] + [getattr(p, "ds_tensor", None) for p in parameters],
        "fp32 copy of its share": [share for name in copies for share in getattr(sharder, name, [])],
        "gradients": [p.grad for p in parameters] + tree_leaves(getattr(sharder, "averaged_gradients", None)),
        "optimiser state": tree_leaves([dict(state) for state in optimizer.state.values()]),
    }
    known: set[int] = set()
    result = {}
    for name in PARTS:
        own = {address: size for address, size in storages(parts[name]).items() if address not in known}
        known |= own.keys()
        result[name] = sum(own.values())
    return result


def steps_of_rank() -> dict[str, Any]:
    """Return the bytes of each rank in the last of a few steps, measured just before the update."""
    # Wide enough that ZeRO-3 splits matrices, under SGD with momentum as the paper has it.
    wide = {"model.width": 384, "model.num_heads": 6, "batch": BatchConfig(4, 2), "optim.name": "sgd"}
    config = changed(load_config(PROJECT / "configs" / "synthetic.yaml"), wide)
    engine, take_step = prepare(config, num_classes=96, threads=1)
    seen: dict[str, int] = {}
    step = engine.wrapped.step

    def look_and_step() -> None:
        seen.update(held(engine))
        step()

    engine.wrapped.step = look_and_step
    for _ in range(STEPS):
        take_step()
    with torch.device("meta"):
        sizes = groups(Task(config, 96))
    return {"sizes": sizes, "ranks": engine.gather_objects(seen)}


def measure(stage: int, ranks: int) -> dict[str, Any]:
    print(f"ZeRO-{stage}, {ranks} ranks", file=sys.stderr, flush=True)
    return call_elsewhere(
        steps_of_rank, launcher=launch(f"zero{stage}", ranks), OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo"
    )


def main() -> None:
    rows, kept = [], {}
    for stage, ranks in itertools.product(STAGES, RANKS):
        result = measure(stage, ranks)
        sizes, of_ranks = result["sizes"], result["ranks"]
        for rank, one in enumerate(of_ranks):
            assert one == formula(sizes, stage, ranks, rank), (stage, ranks, rank, one)
        most = max(of_ranks, key=lambda one: sum(one.values()))
        rows.append([f"ZeRO-{stage}", ranks, *(f"{most[part]:,}" for part in PARTS), f"{sum(most.values()):,}"])
        kept[stage] = sum(of_ranks[0].values()) / 1e6  # of 4 ranks in the end
    with torch.device("meta"):
        paper = groups(Task(Config(), MARS_IDENTITIES))
    by_formula = [
        [ranks, *(f"{sum(formula(paper, stage, ranks).values()) / 1e9:.2f}" for stage in STAGES)]
        for ranks in (1, 2, 4, 8, 64)
    ]
    what, mb = "weights, gradients, optimiser state of a rank", {stage: f"{kept[stage]:.1f} MB" for stage in STAGES}
    save(
        "zero-memory",
        "What a rank holds under ZeRO",
        f"Measured on gloo processes: {sum(map(sum, sizes)):,} trained numbers (configs/synthetic.yaml at width 384), "
        "fp32, SGD with momentum, between the backward pass and the update of the third step. Bytes, of the rank that "
        "holds most.",
        table(["", "ranks", *PARTS, "sum"], rows),
        "**Every part of every rank was that of the formula (benchmarks/zero_memory.py), to the byte**; the "
        "run fails otherwise. ZeRO-2 differs in DeepSpeed in *when* gradients go, not in what is left of them here.",
        "## The paper's model, by the formula",
        f"{sum(map(sum, paper)):,} trained numbers, GB (10⁹ bytes) a rank. Not measured. Activations, which ZeRO does "
        "not split, come on top.",
        table(["ranks", *(f"ZeRO-{stage}" for stage in STAGES)], by_formula),
        target="bench-memory",
        figures=[
            Figure(f"{what}, ZeRO-{stage}, 4 ranks", mb[stage], "ZeRO-0", mb[0], kept[0] / kept[stage], "the formula's")
            for stage in STAGES[1:]
        ],
    )


if __name__ == "__main__":
    run_main(main, __doc__)
