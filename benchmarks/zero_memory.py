"""Bytes that a rank holds of weights, gradients and optimiser state, ZeRO-0 to 3 on 1, 2, 4 ranks: `make bench-memory`.

Real steps of mstat.distributed.engine on drawn frames, started by `accelerate launch`. When the optimiser takes its
step, every tensor that the process can reach is told apart by what it is for, and the sums are compared with the
formula, to the byte. Writes benchmarks/zero-memory_<hardware>_<date>.md.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from communication import drawn_batch
from record import PROJECT, Figure, conditions, save
from torch.utils._pytree import tree_leaves

from mstat.config import BatchConfig, Config, changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.model import no_weight_decay
from mstat.training.task import Task

RANKS = (1, 2, 4)
STAGES = (0, 1, 2, 3)
PARTS = ("weights", "fp32 copy of its share", "gradients", "optimiser state")
FP32 = 4  # bytes
PERSISTENT = 100_000  # numbers: DeepSpeed's stage3_param_persistence_threshold; what is smaller stays whole
NUM_CLASSES = 96
STEPS = 3


def settings() -> Config:
    """configs/synthetic.yaml, wide enough that ZeRO-3 splits matrices, under SGD with momentum as the paper has it."""
    config = load_config(PROJECT / "configs" / "synthetic.yaml")
    wide = {"model.width": 384, "model.num_heads": 6, "batch": BatchConfig(4, 2), "optim.name": "sgd"}
    return changed(config, wide)


def groups(task: Task) -> list[list[int]]:
    """Numbers in each trained parameter, by group of the optimiser: with weight decay and without."""
    trained = [(name, p) for name, p in task.named_parameters() if p.requires_grad]
    return [[p.numel() for n, p in trained if no_weight_decay(n, p) is kept] for kept in (False, True)]


def formula(sizes: list[list[int]], stage: int, ranks: int, rank: int = 0) -> dict[str, int]:
    """Bytes of a rank by part, between the backward pass and the update.

    ZeRO-1 and 2 lay each group of parameters end to end, pad it to a multiple of 2 R numbers and split that; the
    gradient of a parameter that two ranks share is whole on both. ZeRO-3 splits each parameter, rounded up to a whole
    number a rank, and keeps small ones whole besides, with that padding, where there is another rank. All three step on
    a copy of their share in fp32, although the weights are fp32 already.
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
    """Numbers of all parameters, laid end to end, that reach into [start, stop)."""
    ends = list(itertools.accumulate(group))
    return sum(size for size, end in zip(group, ends, strict=True) if end > start and end - size < stop)


def storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Address -> bytes of what tensors lie in; many may share one."""
    result = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta" and tensor.untyped_storage().nbytes():
            result[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return result


def held(engine: Engine) -> dict[str, int]:
    """Bytes by part, and of all other tensors in the process."""
    parameters = [parameter for parameter in engine.task.parameters() if parameter.requires_grad]
    sharder = engine.wrapped.optimizer if engine.kind != "zero0" else None  # DeepSpeed's, around torch's
    optimizer = sharder.optimizer if sharder else engine.optimizer
    shares = [
        getattr(sharder, name, []) for name in ("single_partition_of_fp32_groups", "fp32_partitioned_groups_flat")
    ]
    parts = {
        "weights": [p.data for p in parameters] + [getattr(p, "ds_tensor", None) for p in parameters],
        "fp32 copy of its share": [share for some in shares for share in some],
        "gradients": [p.grad for p in parameters] + tree_leaves(getattr(sharder, "averaged_gradients", None)),
        "optimiser state": tree_leaves([dict(state) for state in optimizer.state.values()]),
    }
    known: set[int] = set()
    result = {}
    for name in PARTS:
        own = {address: size for address, size in storages(parts[name]).items() if address not in known}
        known |= own.keys()
        result[name] = sum(own.values())
    gc.collect()
    others = {address: size for address, size in storages(reachable()).items() if address not in known}
    return {**result, "other": sum(others.values())}


def reachable() -> list[torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # isinstance wakes objects that complain of being deprecated
        return [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]


def worker(out: Path) -> None:
    """One rank: a few steps, what it holds in the last one, and what rank 0 knows of all."""
    config = settings()
    engine = Engine(config)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = Task(config, NUM_CLASSES)
    sizes = groups(task)
    engine.prepare(task)
    seen: dict[str, int] = {}
    step = engine.wrapped.step

    def look_and_step() -> None:
        seen.update(held(engine))
        step()

    engine.wrapped.step = look_and_step
    batch = drawn_batch(config, engine)
    for _ in range(STEPS):
        losses = engine.losses(batch, 1.0)
        engine.update(losses["loss"], 1e-5)
    every = engine.gather_objects(seen)
    if engine.is_main:
        out.write_text(json.dumps({"sizes": sizes, "ranks": every}))
    engine.barrier()


def measure(stage: int, ranks: int) -> dict[str, Any]:
    """Start the ranks and read what they held."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        command += [f"configs/accelerate/zero{stage}.yaml", "--num_processes", str(ranks), "--main_process_port", "0"]
        command += [str(Path(__file__)), "--worker", str(out)]
        print(f"ZeRO-{stage}, {ranks} ranks", file=sys.stderr, flush=True)
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, check=True, cwd=PROJECT, env=environment, stdout=sys.stderr)
        return json.loads(out.read_text())


def table(results: dict[tuple[int, int], dict[str, Any]]) -> list[str]:
    """A row for each kind of run, of the rank that holds most, and whether all ranks hold what the formula says."""
    lines = [f"| | ranks | {' | '.join(PARTS)} | sum | formula | other |", "|---|---" + "|---:" * 7 + "|"]
    for (stage, ranks), result in results.items():
        fullest = max(range(ranks), key=lambda rank: sum(result["ranks"][rank][part] for part in PARTS))
        one = result["ranks"][fullest]
        expected = sum(formula(result["sizes"], stage, ranks, fullest).values())
        cells = [one[part] for part in PARTS] + [sum(one[part] for part in PARTS), expected, one["other"]]
        lines.append(f"| ZeRO-{stage} | {ranks} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    return lines


def paper_table(sizes: list[list[int]]) -> list[str]:
    """By the formula alone: GB of a rank for the paper's model."""
    lines = [f"| ranks | {' | '.join(f'ZeRO-{stage}' for stage in STAGES)} |", "|---:" * 5 + "|"]
    for ranks in (1, 2, 4, 8, 64):
        cells = [f"{sum(formula(sizes, stage, ranks).values()) / 1e9:.2f}" for stage in STAGES]
        lines.append(f"| {ranks} | {' | '.join(cells)} |")
    return lines


def check(results: dict[tuple[int, int], dict[str, Any]]) -> None:
    """Every part of every rank of every run is what the formula says, to the byte."""
    for (stage, ranks), result in results.items():
        for rank, one in enumerate(result["ranks"]):
            expected = formula(result["sizes"], stage, ranks, rank)
            assert {part: one[part] for part in PARTS} == expected, (stage, ranks, rank, one, expected)


def record(results: dict[tuple[int, int], dict[str, Any]], paper: list[list[int]]) -> str:
    """The record as Markdown."""
    weights = sum(map(sum, results[0, 1]["sizes"]))
    return "\n".join(
        [
            "# What a rank holds under ZeRO",
            "",
            conditions("bench-memory"),
            "",
            f"Measured on gloo processes: {weights:,} trained numbers (configs/synthetic.yaml at width 384), fp32, SGD "
            "with momentum. Between the backward pass and the update of the third step every tensor that Python can "
            "reach in a rank is told apart by what it is for. Bytes, of the rank that holds most.",
            "",
            *table(results),
            "",
            "**Every part of every rank was that of the formula, to the byte**, padding included; the run fails "
            "otherwise. *Other* is the batch and small buffers, and under ZeRO-3 the bucket in which gradients are "
            f"reduced, {bucket(results) / 1e6:,.0f} MB, which stays for good. ZeRO-1 and 2 have that bucket, too, "
            "during the backward pass.",
            "",
            "The formula, for W numbers, R ranks, 4 bytes each:",
            "",
            "- ZeRO-0, like DDP: weights W, gradients W, momentum W.",
            "- ZeRO-1 and 2 alike: weights W, and W/R each of a copy of its share, gradients and momentum. A group of "
            "parameters is padded to a multiple of 2 R numbers; a gradient that lies across a border is whole on both "
            "sides. What sets ZeRO-2 apart in DeepSpeed is *when* gradients go, not what is left of them here.",
            f"- ZeRO-3: W/R of each of the four. A parameter is rounded up to a multiple of R, and those of up to "
            f"{PERSISTENT:,} numbers are kept whole besides.",
            "",
            "The copy of its share is DeepSpeed's master copy; in fp32 it holds the same numbers as the weights. On "
            "one rank ZeRO costs more than it saves.",
            "",
            "## The paper's model, by the formula",
            "",
            f"{sum(map(sum, paper)):,} trained numbers, GB (10⁹ bytes) a rank. Not measured. Activations come on top, "
            "which ZeRO does not split: they are those of a rank's share of the clips, see the record of `memory`.",
            "",
            *paper_table(paper),
            "",
        ]
    )


def bucket(results: dict[tuple[int, int], dict[str, Any]]) -> int:
    return max(one["other"] for one in results[3, 2]["ranks"])


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]))
        return
    results = {(stage, ranks): measure(stage, ranks) for stage in STAGES for ranks in RANKS}
    check(results)
    with torch.device("meta"):
        paper = groups(Task(Config(), 625))
    kept = {stage: sum(results[stage, 4]["ranks"][0][part] for part in PARTS) for stage in STAGES}
    figures = [
        Figure(
            f"weights, gradients, optimiser state of a rank, ZeRO-{stage}, 4 ranks",
            f"{kept[stage] / 1e6:.1f} MB",
            rival="ZeRO-0",
            theirs=f"{kept[0] / 1e6:.1f} MB",
            ratio=kept[0] / kept[stage],
            wanted="the formula's",
            limit=f"{sum(formula(results[stage, 4]['sizes'], stage, 4).values()) / 1e6:.1f} MB",
            share=sum(formula(results[stage, 4]["sizes"], stage, 4).values()) / kept[stage],
        )
        for stage in STAGES[1:]
    ]
    save("zero-memory", record(results, paper), figures)


if __name__ == "__main__":
    main()
