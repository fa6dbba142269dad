"""The task: shares that add up to the losses of the batch, and the gradient of one process on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from mstat.config import Config, LossConfig, ModelConfig, changed
from mstat.data.sampler import PKSampler
from mstat.distributed.gather import _Gather, gather, own_rows, slice_bounds
from mstat.losses.triplet import batch_hard, batch_hard_distances
from mstat.training.task import Task
from tests.helpers.distributed import run_distributed

SMALL = ModelConfig(
    image_size=(32, 16), patch_size=8, width=16, num_heads=2, depths=(1, 1, 1), num_attributes=2,
    num_temporal_attributes=2, num_prototypes=3,
)  # fmt: skip
FRAMES, CLASSES = 2, 3
WORLD_SIZES = (1, 2, 3, 4)  # 7 and 9 clips: slices are ragged

# One camera has all of identity 2, which has fewer tracklets than K: one of them comes twice.
CAMERAS = {0: [1, 2, 3], 1: [1, 2, 2], 2: [4, 4]}
PLANNED = PKSampler(
    np.arange(8), *np.transpose([(pid, camid) for pid in CAMERAS for camid in CAMERAS[pid]]),
    num_identities=3, num_tracklets=3, seed=0,
).batch(0)  # fmt: skip


class Batch(NamedTuple):
    labels: list[int]
    frames: torch.Tensor  # uint8 (n, T, H, W, 3)


def noise(pictures: Sequence[int], range_: int = 256, add: Sequence[int] | int = 0) -> torch.Tensor:
    """A clip for each number, equal ones for equal numbers, of random values below `range_` plus a clip's own `add`."""
    clips = [
        torch.randint(0, range_, (FRAMES, 32, 16, 3), generator=torch.Generator().manual_seed(picture))
        for picture in pictures
    ]
    return (torch.stack(clips) + torch.as_tensor(add).view(-1, 1, 1, 1, 1)).to(torch.uint8)


def points(*coordinates: tuple[int, int]) -> torch.Tensor:
    """Clips of one pixel, for `Linear`."""
    pixels = [[100 + x, 100 + y, 7] for x, y in coordinates]
    return torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 1, 1, 3)


class Linear(nn.Module):
    """A backbone for `points` that computes in whole numbers: equal distances stay equal in any slice of a batch."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.weight = nn.Parameter(torch.randint(-3, 4, (3, sum(dims))).double())

    def forward(self, frames: torch.Tensor, tps: None, keep: None) -> tuple[torch.Tensor, ...]:
        return (frames.flatten(1).double() @ self.weight).split(self.dims, dim=1)


LINEAR = "equal distances"  # the batch that `Linear` embeds, the others are for a small MSTAT
BATCHES = {
    "duplicates and a lone identity": Batch([0, 0, 0, 1, 1, 1, 2], noise([0, 0, 1, 2, 3, 4, 5])),
    LINEAR: Batch([0, 0, 0, 1, 1, 2, 2], points((0, 0), (6, 2), (-6, -2), (2, 1), (9, 9), (-2, -1), (9, 9))),
    "some anchors inactive": Batch([0, 0, 0, 1, 1, 2, 2], noise(range(7), 32, [0, 0, 0, 200, 200, 200, 200])),
    "all anchors inactive": Batch([0, 0, 0, 1, 1, 2, 2], noise(range(7), 8, [0, 0, 0, 120, 120, 240, 240])),
    "an identity of one camera": Batch(PLANNED.labels_n.tolist(), noise(PLANNED.tracklets_n.tolist())),
}


class OwnSliceOnly(_Gather):
    """A gather whose backward pass ignores what other ranks' losses say of this rank's clips."""

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0][own_rows(len(grads[0]))], None


def scaled(factor: Callable[[], float]) -> Callable[..., torch.Tensor]:
    def broken(local_BD: torch.Tensor, total: int) -> torch.Tensor:
        local_BD = local_BD.clone()
        local_BD.register_hook(lambda gradient: gradient * factor())
        return gather(local_BD, total)

    return broken


def filled_back_in(local_BD: torch.Tensor, total: int) -> torch.Tensor:
    """A plain all_gather, which cuts the graph, with the own rows put back."""
    start, stop = slice_bounds(total, *world())
    with torch.no_grad():
        gathered = gather(local_BD, total)
    return torch.cat([gathered[:start], local_BD, gathered[stop:]])


def mean_of_own_clips(logits: torch.Tensor, labels: torch.Tensor, smoothing: float, rows: slice) -> torch.Tensor:
    return F.cross_entropy(logits, labels[rows], label_smoothing=smoothing) / dist.get_world_size()


def mean_of_own_anchors(
    features: torch.Tensor, labels: torch.Tensor, margin: float, distance: Any, rows: slice
) -> torch.Tensor:
    share = batch_hard(features, labels, margin, distance, rows)
    valid = batch_hard_distances(features, labels)[2]
    return share * (valid.sum() / valid[rows].sum() / dist.get_world_size())


# What is put in the place of what. The gradient of a share is also multiplied by FACTORS, once if not named.
BROKEN: dict[str, tuple[str, Any]] = {
    "own slice only": ("mstat.training.task.gather", OwnSliceOnly.apply),
    "times R": ("mstat.training.task.gather", scaled(lambda: dist.get_world_size())),
    "divided by R": ("mstat.training.task.gather", scaled(lambda: 1 / dist.get_world_size())),
    "filled back in": ("mstat.training.task.gather", filled_back_in),
    "mean of own clips": ("mstat.training.task.cross_entropy", mean_of_own_clips),
    "mean of own anchors": ("mstat.losses.metric.batch_hard", mean_of_own_anchors),
}
FACTORS = {"factor left out": 0, "factor twice": 2}  # powers of R
COUNTS = ("mean of own clips", "mean of own anchors")  # the losses of these are wrong, too


class Job(NamedTuple):
    """One backward pass."""

    batch: str
    bnneck: bool = False
    broken: str | None = None
    chunk_size: int | None = None
    cross_entropy_weight: float = 1.0
    metric: Literal["batch_hard", "arcface", "sphereface", "oim"] = "batch_hard"
    metric_on: Literal["feature", "neck"] = "feature"
    distance: Literal["euclidean", "cosine"] = "euclidean"
    stage_weights: tuple[float, ...] | None = None


class Result(NamedTuple):
    losses: dict[str, torch.Tensor]
    backbone: dict[str, torch.Tensor]  # gradient of each parameter, flattened
    heads: dict[str, torch.Tensor]  # and of the metric loss's own weights; what it remembers is in here, too


EXACT = [Job(*job) for job in product(BATCHES, (False, True))]
EXACT += [Job("duplicates and a lone identity", metric=metric) for metric in ("arcface", "sphereface", "oim")]
EXACT += [
    Job("duplicates and a lone identity", True, metric_on="neck"),
    Job("duplicates and a lone identity", True, metric_on="neck", distance="cosine"),
    Job("duplicates and a lone identity", True, metric_on="neck", metric="oim"),
    Job("duplicates and a lone identity", stage_weights=(0.5, 2.0, 1.0)),
    *(Job("duplicates and a lone identity", bnneck, chunk_size=size) for bnneck in (False, True) for size in (1, 2, 7)),
    Job("duplicates and a lone identity", metric="oim", chunk_size=1),
]
TRIPLET_ONLY = [Job(f"{which} anchors inactive", cross_entropy_weight=0.0) for which in ("some", "all")]
WRONG = [Job("duplicates and a lone identity", broken=name) for name in (*BROKEN, *FACTORS) if name not in COUNTS]
WRONG += [Job("some anchors inactive", broken=name) for name in COUNTS]


def world() -> tuple[int, int]:
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


def small_task(job: Job) -> Task:
    torch.manual_seed(0)
    loss = LossConfig(
        metric=job.metric,
        cross_entropy_weight=job.cross_entropy_weight,
        metric_on=job.metric_on,
        distance=job.distance,
        stage_weights=job.stage_weights,
    )
    config = Config(model=SMALL, loss=loss)
    config = changed(config, {"model.bnneck": job.bnneck, "batch.chunk_size": job.chunk_size})
    task = Task(config, CLASSES).double()
    if job.batch == LINEAR:
        necks = task.model.necks
        task.model = Linear(task.dims)  # type: ignore[assignment] # any backbone of these features will do
        task.model.necks = necks
        return task
    assert task.model.stage3 is not None
    for block in task.model.stage3.blocks:
        # 0 at the start of training: no gradient would reach its proxies.
        nn.init.constant_(block.get_parameter("alpha"), 0.5)
    for memory in task.metrics.buffers():
        nn.init.normal_(memory)  # 0 at the start, too
    return task


def run_jobs(jobs: list[Job]) -> dict[Job, Result]:
    """fp64 losses summed over ranks, and gradients averaged over ranks as DDP does, of one step on each batch."""
    return {job: run_job(job) for job in jobs}


def grad_of(parameter: nn.Parameter) -> torch.Tensor:
    assert parameter.grad is not None
    return parameter.grad


def run_job(job: Job) -> Result:
    world_size, rank = world()
    batch, task = BATCHES[job.batch], small_task(job)
    labels = torch.tensor(batch.labels)
    start, stop = slice_bounds(len(labels), world_size, rank)
    with pytest.MonkeyPatch.context() as patch:
        if job.broken in BROKEN:
            patch.setattr(*BROKEN[job.broken])
        shares = task(batch.frames[start:stop], None, None, labels, 1.0)
        (world_size ** FACTORS.get(job.broken or "", 1) * shares["loss"]).backward()

    parameters = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    joined = torch.cat([grad_of(parameter).flatten() for parameter in parameters.values()])
    losses = torch.stack([share.detach() for share in shares.values()])
    if dist.is_initialized():
        dist.all_reduce(joined)
        dist.all_reduce(losses)
    joined /= world_size
    gradients = dict(zip(parameters, joined.split([p.numel() for p in parameters.values()]), strict=True))
    backbone, heads = (
        {name: gradient for name, gradient in gradients.items() if name.startswith(module)}
        for module in ("model.", ("heads.", "metrics."))
    )
    heads |= {name: memory.flatten().clone() for name, memory in task.metrics.named_buffers()}
    return Result(dict(zip(shares, losses, strict=True)), backbone, heads)


@cache
def on_ranks(world_size: int) -> list[dict[Job, Result]]:
    """Every job on each of so many gloo ranks: started once for all tests."""
    return run_distributed(run_jobs, world_size, [*EXACT, *TRIPLET_ONLY, *WRONG])


@cache
def on_one_process(job: Job) -> Result:
    """The reference: no process group, so no gather."""
    return run_job(job)


def difference(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest over parameters of |found - expected| / |expected|, norms of a parameter's whole gradient.

    Two kinds of parameters have a larger divisor. Those whose gradient a softmax or BNNeck cancels, so that it is
    nothing but rounding (below 1e-12 of the norm G over all parameters): G. Those below 1e-3 G: 1e-3 G, for they are
    the small rest of sums that nearly cancel.
    """
    assert gradients.keys() == expected.keys()
    whole = torch.cat(list(expected.values())).norm()

    def divisor(gradient: torch.Tensor) -> torch.Tensor:
        norm = gradient.norm()
        return whole if norm < 1e-12 * whole else norm.clamp(min=1e-3 * whole)

    return max(float((gradients[name] - gradient).norm() / divisor(gradient)) for name, gradient in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("job", EXACT, ids=lambda job: "-".join(map(str, job)))
def test_any_number_of_ranks_is_one_process(job: Job, world_size: int) -> None:
    """fp64, on every rank: all losses and the gradient of every parameter, in backbone and heads, to 1e-12."""
    one = on_one_process(job)
    for results in on_ranks(world_size):
        torch.testing.assert_close(results[job].losses, one.losses, rtol=1e-12, atol=1e-12)
        assert difference(results[job].backbone, one.backbone) < 1e-12
        assert difference(results[job].heads, one.heads) < 1e-12


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_no_active_triplet_is_no_gradient(world_size: int) -> None:
    """Without cross-entropy: exactly 0, loss and every gradient, where all anchors are inactive; not where some are."""
    for results in on_ranks(world_size):
        for job in TRIPLET_ONLY:
            silent = all(bool((gradient == 0).all()) for gradient in results[job].backbone.values())
            assert silent == (job.batch == "all anchors inactive")
            assert (results[job].losses["loss"] == 0) == silent


@pytest.mark.parametrize("world_size", WORLD_SIZES[1:])
@pytest.mark.parametrize("job", WRONG, ids=lambda job: job.broken)
def test_a_broken_step_is_noticed(job: Job, world_size: int) -> None:
    """The comparison of gradients above detects a wrong backward pass, factor or count."""
    one = on_one_process(job._replace(broken=None))
    for results in on_ranks(world_size):
        if job.broken not in COUNTS:
            torch.testing.assert_close(results[job].losses, one.losses, rtol=1e-12, atol=1e-12)
        assert difference(results[job].backbone, one.backbone) > 1e-3


def mined(name: str) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of each stage: distances (n, n) of a batch's features; which anchors have a triplet, and which are active."""
    labels, margin = torch.tensor(BATCHES[name].labels), LossConfig().margin
    assert margin is not None
    stages = []
    with torch.no_grad():
        for features_nD in small_task(Job(name)).model(BATCHES[name].frames, None, None):
            positive_n, negative_n, valid_n = batch_hard_distances(features_nD, labels)
            active_n = valid_n & (positive_n - negative_n + margin > 0)
            distance_nn = torch.cdist(features_nD, features_nD, compute_mode="donot_use_mm_for_euclid_dist")
            stages.append((distance_nn, valid_n, active_n))
    assert len(stages) == 3
    return stages


def test_duplicates_and_a_lone_identity() -> None:
    """Two clips of one picture lie on each other, to rounding; the anchor without a positive has no triplet."""
    for distance_nn, valid_n, _ in mined("duplicates and a lone identity"):
        assert distance_nn[0, 1] < 1e-12
        assert valid_n.tolist() == [True] * 6 + [False]


def test_equal_distances() -> None:
    """Clip 0 has two farthest positives and two nearest negatives, other pictures, and chooses: equal to the last bit.

    Clips 4 and 6 are one picture of two identities.
    """
    for distance_nn, _, active_n in mined("equal distances"):
        assert distance_nn[0, 1] == distance_nn[0, 2] > distance_nn[0, 3] == distance_nn[0, 5]
        assert distance_nn[0, 3] < distance_nn[0, 4]
        assert distance_nn[1, 2] > 0 < distance_nn[3, 5]
        assert distance_nn[4, 6] == 0
        assert active_n[0]


def test_some_anchors_inactive() -> None:
    """Every anchor has a triplet; the three of the dark identity are past the margin, the others are not."""
    for _, valid_n, active_n in mined("some anchors inactive"):
        assert valid_n.all()
        assert active_n.tolist() == [False] * 3 + [True] * 4


def test_all_anchors_inactive() -> None:
    """Every anchor has a triplet, and all are past the margin."""
    for _, valid_n, active_n in mined("all anchors inactive"):
        assert valid_n.all()
        assert not active_n.any()


def test_an_identity_of_one_camera() -> None:
    """As the plan makes it: cameras differ within the others, and one of its two tracklets comes twice."""
    cameras = np.concatenate(list(CAMERAS.values()))[PLANNED.tracklets_n]
    assert [len(set(cameras[PLANNED.labels_n == pid])) for pid in CAMERAS] == [3, 2, 1]
    own = PLANNED.labels_n == 2
    for distance_nn, valid_n, active_n in mined("an identity of one camera"):
        assert (distance_nn[own][:, own] < 1e-12).sum() == 5  # each with itself, and a pair both ways
        assert valid_n.all()
        assert active_n.any()


def test_every_stage_has_its_losses_and_their_sum_is_the_loss() -> None:
    """Three stages, two terms each, weighted as the settings say; every term is positive here."""
    torch.manual_seed(0)
    config = Config(model=SMALL)
    batch = BATCHES["duplicates and a lone identity"]
    losses = Task(config, CLASSES)(batch.frames, None, None, torch.tensor(batch.labels), 0.5)
    terms = {name: loss.item() for name, loss in losses.items() if name != "loss"}
    assert set(terms) == {f"loss/{s}/{t}" for s in ("I", "II", "III") for t in ("cross_entropy", "triplet")}
    expected = sum(value * (0.5 if "triplet" in name else 1) for name, value in terms.items())
    assert losses["loss"].item() == pytest.approx(expected)


def test_stages_are_weighed() -> None:
    """Both losses of a stage count by its weight, in the order of model.stages; a weight of 0 silences its head."""
    torch.manual_seed(0)
    config = changed(Config(model=SMALL), {"model.stages": ("I", "III"), "loss.stage_weights": (0.0, 3.0)})
    batch = BATCHES["duplicates and a lone identity"]
    task = Task(config, CLASSES)
    losses = task(batch.frames, None, None, torch.tensor(batch.labels), 0.5)
    expected = 3 * (losses["loss/III/cross_entropy"] + 0.5 * losses["loss/III/triplet"])
    torch.testing.assert_close(losses["loss"], expected)
    losses["loss"].backward()
    norms = [grad_of(task.get_parameter(f"heads.{stage}.classifier.weight")).norm() for stage in ("I", "III")]
    assert norms[0] == 0 < norms[1]


def test_losses_are_fp32_under_bf16() -> None:
    """Autocast reaches the blocks; features, logits and losses are fp32."""
    torch.manual_seed(0)
    task = Task(Config(model=SMALL), CLASSES)
    seen: dict[str, torch.dtype] = {}
    mlp = task.model.get_submodule("stage1.blocks.0.mlp")
    mlp.register_forward_hook(lambda _, __, out: seen.update(block=out.dtype))
    task.heads["I"].register_forward_hook(lambda _, inputs, out: seen.update(feature=inputs[0].dtype, logits=out.dtype))
    batch = BATCHES["duplicates and a lone identity"]
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(batch.frames, None, None, torch.tensor(batch.labels), 1.0)
    assert seen == {"block": torch.bfloat16, "feature": torch.float32, "logits": torch.float32}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


def test_chunks_add_gradients_in_fp32() -> None:
    """Under bf16: bitwise the fp32 sum of the gradients that two chunks have by themselves."""
    torch.manual_seed(0)
    batch = BATCHES["some anchors inactive"]
    frames, total = batch.frames[:6], 6
    task = Task(changed(Config(model=SMALL), {"batch.chunk_size": 3}), CLASSES)
    gradient = torch.randn(total, sum(task.dims))
    # Each is used once in a chunk: then there is one sum, of two terms, and its order does not matter.
    products = {name: module for name, module in task.model.named_modules() if isinstance(module, nn.Linear)}

    def gradients() -> dict[str, torch.Tensor]:
        return {name: grad_of(module.get_parameter("weight")) for name, module in products.items()}

    with torch.autocast("cpu", torch.bfloat16):
        features = task.embed(frames, None, None, total)
    features.backward(gradient)
    chunked = gradients()
    task.zero_grad()
    for rows in (slice(0, 3), slice(3, 6)):
        with torch.autocast("cpu", torch.bfloat16):
            alone = torch.cat(task.model(frames[rows], None, None), dim=1)
        assert torch.equal(alone, features[rows])
        alone.backward(gradient[rows])
    assert len(chunked) > 10
    for name, expected in gradients().items():
        assert torch.equal(chunked[name], expected), name


def test_checkpoints_of_older_versions_load() -> None:
    """Versions that kept the BNNecks in the heads: every value arrives, and a key too many is still refused."""
    job = Job("some anchors inactive", bnneck=True)
    source, task = small_task(job), small_task(job)
    for parameter in source.state_dict().values():
        nn.init.normal_(parameter)
    old = {}
    for name, value in source.state_dict().items():
        stage, _, part = name.removeprefix("model.necks.").partition(".")
        old[f"heads.{stage}.neck.{part}" if name.startswith("model.necks.") else name] = value
    old |= {f"heads.{stage}.neck.num_batches_tracked": torch.tensor(7) for stage in source.heads}
    assert "heads.II.neck.running_mean" in old
    task.load_state_dict(dict(old))
    for name, value in task.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    with pytest.raises(RuntimeError, match=r"heads\.II\.neck\.other\.part"):
        task.load_state_dict({**old, "heads.II.neck.other.part": torch.ones(1)})
