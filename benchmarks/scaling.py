"""Cost of gather, heads and losses of a rank's own rows, against the replicated computation: `make bench-scaling`.

Replicated is what MSTAT did earlier: every rank computes all rows, and the gather's backward pass is an all-reduce.
Both give the same gradient, which is checked before anything is timed. On several processes, the small model's sizes
are measured; the paper's sizes on 64 and 512 ranks are measured as the share of one rank, in one process without a
group. There is no backbone. scaling_model.py has the model of GPUs.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.growth import power_law
from benchmarks.harness import (
    MARS_IDENTITIES,
    PROJECT,
    Figure,
    call_elsewhere,
    forget_peak,
    in_turn,
    launch,
    medians,
    resident,
    run_main,
    save,
    table,
)
from benchmarks.scaling_model import CLIPS, FEATURE, FP32, IDENTITIES, LossPart
from mstat.config import Config, changed
from mstat.config.cli import load_config
from mstat.losses.metric import OIM
from mstat.model import feature_dims
from mstat.training import task as task_module

RANKS, RANK_ROUNDS, SMALL_IDENTITIES = (1, 2, 4, 8), 20, 100
TRUE_RANKS, ROUNDS = (64, 512), 2
SIZES: Sequence[int] = (96, 384, 1536, 6144, 12_288)  # clips of the global batch, of which a rank has CLIPS
FITTED: slice = slice(2, None)  # at fewer clips, the classifiers' fixed cost counts
BATCHES = (1536, 12_288)  # clips, for OIM
REPLICATED_LIMIT = 1536  # clips: more would take hours
OWN, REPLICATED = "own rows", "replicated"


class ReplicatedGather(torch.autograd.Function):
    """Equal slices of all ranks, joined; exact if every rank computes the whole loss."""

    @staticmethod
    def forward(ctx: Any, local_BD: Tensor) -> Tensor:
        parts = [torch.empty_like(local_BD) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local_BD)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad_nD = grads[0].contiguous()
        dist.all_reduce(grad_nD)
        return grad_nD.chunk(dist.get_world_size())[dist.get_rank()]


@contextlib.contextmanager
def rows_of(
    rows: slice, gather: Callable[[Tensor, int], Tensor] = lambda features_nD, _: features_nD
) -> Iterator[None]:
    """Compute these rows of the losses; by default, features are gathered already."""
    with patch.object(task_module, "own_rows", lambda _: rows), patch.object(task_module, "gather", gather):
        yield


def make_part(config: Config, num_classes: int) -> LossPart:
    """Make heads, BNNecks and losses with weights; the backbone stays without data."""
    with torch.device("meta"):
        task = LossPart(config, num_classes)
    for module in (task.heads, task.model.necks):
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=1e-3, generator=torch.Generator().manual_seed(0))
    for name, buffer in task.model.necks.named_buffers():
        buffer.fill_(float("var" in name))
    return task


def draw(clips: int, dims: int, seed: int = 0) -> Tensor:
    return torch.randn(clips, dims, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def labels(clips: int, identities: int) -> Tensor:
    """Four clips of each identity, as often as the batch needs."""
    return torch.arange(clips) // 4 % identities


def take(task: LossPart, features: Tensor, labels_n: Tensor, factor: float = 1.0) -> list[Tensor]:
    """Compute the losses, forward and backward; return the gradients of features and classifiers."""
    task.zero_grad()
    features.grad = None
    loss = task(features, None, None, labels_n, 1.0)["loss"]
    (factor * loss).backward()
    gradients = [part.grad for part in (features, *task.heads.parameters())]
    return [gradient for gradient in gradients if gradient is not None]


def close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm(), float((one - other).norm() / other.norm())


# --- processes ----------------------------------------------------------------------------------------------------


def steps_of_rank() -> dict[str, list[float]]:
    """Return wall-clock and CPU seconds of each way: the slowest rank's, and the mean of ranks."""
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    config = load_config(PROJECT / "configs" / "synthetic.yaml")
    task = make_part(config, SMALL_IDENTITIES)
    labels_n = labels(ranks * CLIPS, SMALL_IDENTITIES)
    if ranks > 1:
        dist.init_process_group("gloo")
    own_BD = draw(CLIPS, sum(feature_dims(config.model)), seed=dist.get_rank() if ranks > 1 else 0)

    def own_rows() -> list[Tensor]:
        return take(task, own_BD, labels_n, factor=ranks)

    def replicated() -> list[Tensor]:
        with rows_of(slice(None), lambda own_BD, _: ReplicatedGather.apply(own_BD) if ranks > 1 else own_BD):
            return take(task, own_BD, labels_n)

    def barrier() -> None:
        if ranks > 1:
            dist.barrier()

    ours, theirs = own_rows(), replicated()
    for gradient in ours[1:] if ranks > 1 else []:  # DDP averages them
        dist.all_reduce(gradient)
        gradient /= ranks
    close(ours, theirs)
    ways = {OWN: own_rows, REPLICATED: replicated}
    clocks = (time.perf_counter, time.process_time)
    wall, cpu = (medians(in_turn(ways, RANK_ROUNDS, 3, clock, barrier)) for clock in clocks)
    of_ranks = [(wall, cpu)]
    if ranks > 1:
        of_ranks *= ranks
        dist.all_gather_object(of_ranks, (wall, cpu))
        dist.destroy_process_group()
    return {
        way: [max(one[way] for one, _ in of_ranks), statistics.mean(one[way] for _, one in of_ranks)] for way in ways
    }


def process_table() -> str:
    rows = []
    for ranks in RANKS:
        launcher = launch("ddp", ranks) if ranks > 1 else ()
        result = call_elsewhere(
            steps_of_rank, launcher=launcher, OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", CUDA_VISIBLE_DEVICES=""
        )
        (wall, cpu), (their_wall, their_cpu) = result[OWN], result[REPLICATED]
        times = [cpu, their_cpu, wall, their_wall]
        rows.append([ranks, ranks * CLIPS, *(f"{1e3 * one:.1f}" for one in times), f"{their_cpu / cpu:.2f}"])
        print(rows[-1], file=sys.stderr, flush=True)
    head = [
        f"{what}, {way}" for what in ("CPU ms of a rank", "ms until the last rank is done") for way in (OWN, REPLICATED)
    ]
    return table(["ranks", "clips", *head, "ratio of CPU"], rows)


# --- a rank's share at its true size --------------------------------------------------------------------------------


def share(clips: int, way: str, bnneck: bool, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of a rank's losses, the fastest round, and the peak of the process's memory."""
    torch.set_num_threads(1)
    task = make_part(changed(Config(), {"model.bnneck": bnneck}), MARS_IDENTITIES)
    features_nD, labels_n = draw(clips, FEATURE), labels(clips, MARS_IDENTITIES)
    forget_peak()
    with rows_of(slice(CLIPS, 2 * CLIPS) if way == OWN else slice(None)):
        seconds = in_turn(
            {way: lambda: take(task, features_nD, labels_n)}, rounds, 1 if rounds > 1 else 0, time.process_time
        )
    return {"seconds": min(seconds[way]), "peak": resident("VmHWM")}


def shares_add_up(clips: int) -> None:
    """Check that the gradients of all ranks' shares add up to that of the replicated computation."""
    task = make_part(Config(), MARS_IDENTITIES)
    features_nD, labels_n = draw(clips, FEATURE), labels(clips, MARS_IDENTITIES)
    with rows_of(slice(None)):
        whole = take(task, features_nD, labels_n)
    parts = []
    for start in range(0, clips, CLIPS):
        with rows_of(slice(start, start + CLIPS)):
            parts.append(take(task, features_nD, labels_n))
    close([torch.stack(of_shares).sum(dim=0) for of_shares in zip(*parts, strict=True)], whole)


def of_size(clips: int, way: str = OWN, bnneck: bool = False, rounds: int = ROUNDS) -> dict[str, float]:
    result: dict[str, float] = call_elsewhere(share, clips, way, bnneck, rounds, OMP_NUM_THREADS="1")
    print(f"{clips:,} clips, {way}, BNNeck {bnneck}: {result}", file=sys.stderr, flush=True)
    return result


def share_table(own: Mapping[bool, Mapping[int, dict[str, float]]], replicated: dict[str, float]) -> str:
    rows = []
    for bnneck, ranks in ((bnneck, ranks) for bnneck in own for ranks in TRUE_RANKS):
        clips = ranks * CLIPS
        ours = own[bnneck][clips]
        cells = [f"{ours['seconds']:.2f}", f"{ours['peak'] / 1e9:.2f}", "", "", ""]
        if not bnneck:
            seconds = replicated["seconds"] * (clips / REPLICATED_LIMIT) ** 2
            measured = clips == REPLICATED_LIMIT
            peak = f"{replicated['peak'] / 1e9:.2f}" if measured else ""
            label = f"{seconds:,.1f}" if measured else f"{seconds:,.0f} (extrapolated by n²)"
            cells[2:] = [label, peak, f"{seconds / ours['seconds']:,.0f}"]
        rows.append([f"{ranks}{', BNNeck' * bnneck}", f"{clips:,}", *cells])
    head = [f"{what}, {way}" for way in (OWN, REPLICATED) for what in ("CPU s", "peak GB")]
    return table(["ranks", "clips", *head, "ratio"], rows)


# --- classifiers and memories of many identities --------------------------------------------------------------------


def head_seconds(identities: int) -> float:
    """Return the CPU seconds of the logits of own rows, forward and backward, with the weights' gradients."""
    torch.set_num_threads(1)
    features = [draw(CLIPS, dim) for dim in feature_dims(Config().model)]
    weights = [torch.full((identities, part.shape[1]), 1e-3, requires_grad=True) for part in features]

    def products() -> None:
        for part, weight in zip(features, weights, strict=True):
            part.grad = weight.grad = None
            nn.functional.cross_entropy(part @ weight.T, labels(CLIPS, identities)).backward()

    return min(in_turn({"": products}, 1, 1, time.process_time)[""])


def classifier_table() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rows = []
    for count in IDENTITIES:
        held = 2 * FEATURE * count * FP32 + 3 * 3 * CLIPS * count * FP32
        measured = f"{call_elsewhere(head_seconds, count):.2f}" if held < 0.8 * memory else "does not fit"
        rows.append([f"{count:,}", f"{held / 1e9:.2f}", measured])
        print(rows[-1], file=sys.stderr, flush=True)
    return table(["identities", "weights, gradients, logits, GB", "CPU s"], rows)


def memory_seconds(clips: int) -> float:
    """Return the CPU seconds of the update of OIM's memories, the three stages together."""
    torch.set_num_threads(1)
    losses = [OIM(dim, MARS_IDENTITIES) for dim in feature_dims(Config().model)]
    stages = draw(clips, FEATURE).detach().split(feature_dims(Config().model), dim=1)
    labels_n = labels(clips, MARS_IDENTITIES)
    updates = [
        lambda loss=loss, part=part: loss._remember(part, labels_n) for loss, part in zip(losses, stages, strict=True)
    ]
    return min(in_turn({"": lambda: [update() for update in updates]}, ROUNDS, 1, time.process_time)[""])


def main() -> None:
    shares_add_up(SIZES[0])
    processes = process_table()
    plain = {clips: of_size(clips) for clips in SIZES}
    behind = {ranks * CLIPS: of_size(ranks * CLIPS, bnneck=True) for ranks in TRUE_RANKS}
    replicated = of_size(REPLICATED_LIMIT, REPLICATED, rounds=1)
    seconds = [plain[clips]["seconds"] for clips in SIZES]
    fit = power_law(SIZES[FITTED], seconds[FITTED])
    ratio = replicated["seconds"] / plain[REPLICATED_LIMIT]["seconds"]
    first, *_, last = SIZES[FITTED]
    save(
        "scaling",
        "The losses of a rank's own rows, against all rows on every rank",
        "Gather, heads and losses, forward and backward, without a backbone; one thread a process. The gradients of "
        "both ways were equal to 1e-5 before anything was timed.",
        "## Processes",
        f"configs/synthetic.yaml's features and {SMALL_IDENTITIES} identities, {CLIPS} clips a rank, gloo. Median of "
        f"{RANK_ROUNDS} rounds. **The ranks share {os.cpu_count()} cores**: with more ranks than cores, the time "
        "until the last rank is done says little, and CPU time is the work of a rank, with its part of gloo's.",
        processes,
        "## A rank's share at its true size",
        f"{CLIPS} own rows against all n features of {FEATURE:,} numbers, {MARS_IDENTITIES} identities, in a process "
        f"of its own without a group. The fastest of {ROUNDS} rounds (replicated: one), and the highest resident size.",
        share_table({False: plain, True: behind}, replicated),
        f"Growth of own rows with n: exponent **{fit}**, fitted over {first:,} to {last:,} clips; expected: 1. CPU "
        "seconds: " + ", ".join(f"{clips:,}: {value:.3f}" for clips, value in zip(SIZES, seconds, strict=True)) + ".",
        "## Many identities",
        f"Logits of {CLIPS} own rows and cross-entropy of three stages, forward and backward, one round after one to "
        "warm up. Momentum is not counted.",
        classifier_table(),
        "The update of OIM's memories, three stages, clip by clip, as every rank does it for all n clips: "
        + "; ".join(f"{clips:,} clips, {call_elsewhere(memory_seconds, clips):.2f} CPU s" for clips in BATCHES)
        + ".",
        figures=[
            Figure(
                f"losses of a rank of {TRUE_RANKS[0]}",
                f"{plain[REPLICATED_LIMIT]['seconds']:.2f} s",
                REPLICATED,
                f"{replicated['seconds']:.1f} s",
                ratio,
            ),
            Figure("losses of a rank against n: exponent", str(fit), wanted="1"),
        ],
    )


if __name__ == "__main__":
    run_main(main, __doc__)
