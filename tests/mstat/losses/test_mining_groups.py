"""`loss.mining_groups`: mining in parts of the batch, which is what ranks that mine alone would do."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from mstat.config import Config, LossConfig, ModelConfig
from mstat.config.cli import parse
from mstat.distributed.gather import slice_bounds
from mstat.losses import batch_hard
from mstat.training.task import Task
from tests.helpers.distributed import run_distributed

SMALL = ModelConfig(
    image_size=(32, 16), patch_size=8, width=16, num_heads=2, depths=(1, 1, 1), num_attributes=2,
    num_temporal_attributes=2, num_prototypes=3,
)  # fmt: skip
LABELS = torch.arange(8).repeat_interleave(2)  # 8 identities x 2 clips: 2, 4 and 8 parts hold whole identities


def task_and_frames(**loss: float) -> tuple[Task, torch.Tensor]:
    """A small fp64 task and its batch, the same on every rank."""
    torch.manual_seed(0)
    task = Task(Config(model=SMALL, loss=LossConfig(**loss)), 8).double()  # type: ignore[arg-type]
    assert task.model.stage3 is not None
    for block in task.model.stage3.blocks:
        # 0 at the start of training: no gradient would reach its proxies.
        torch.nn.init.constant_(block.get_parameter("alpha"), 0.5)
    return task, torch.randint(0, 256, (len(LABELS), 2, 32, 16, 3), dtype=torch.uint8)


def gradients(task: Task) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


def mined_in_parts(groups: int) -> dict[str, torch.Tensor]:
    """Gradients of the triplet losses alone, through the task."""
    task, frames = task_and_frames(mining_groups=groups, cross_entropy_weight=0.0)
    start, stop = slice_bounds(len(LABELS), *world())
    share = task(frames[start:stop], None, None, LABELS, 1.0)["loss"]
    (world()[0] * share).backward()
    return averaged(gradients(task))


def mined_alone(margin: float) -> dict[str, torch.Tensor]:
    """The same of a rank that mines in its own slice and gathers nothing, averaged over ranks as DDP does."""
    task, frames = task_and_frames()
    start, stop = slice_bounds(len(LABELS), *world())
    stages = task.model(frames[start:stop], None, None)
    torch.stack([batch_hard(features_BD, LABELS[start:stop], margin) for features_BD in stages]).sum().backward()
    return averaged(gradients(task))


def world() -> tuple[int, int]:
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


def averaged(gradients_of: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if dist.is_initialized():
        for gradient in gradients_of.values():
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
    return gradients_of


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_parts_are_ranks_that_mine_alone(ranks: int) -> None:
    """fp64: R gloo ranks, BatchHard in the own slice only, gradients averaged = R parts on one process, to 1e-12.

    And on two ranks behind the gather the parts are those of one process, though 4 parts are not 2 slices.
    """
    expected = mined_in_parts(ranks)
    whole = mined_in_parts(1)
    assert max((expected[name] - whole[name]).abs().max() for name in whole) > 1e-4
    for of_rank in run_distributed(mined_alone, ranks, LossConfig().margin):
        torch.testing.assert_close(of_rank, expected, rtol=1e-12, atol=1e-12)
    for of_rank in run_distributed(mined_in_parts, 2, ranks):
        torch.testing.assert_close(of_rank, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("unit_length", [False, True])
def test_the_loss_is_the_mean_over_the_parts(unit_length: bool) -> None:
    """Each stage's triplet loss: the mean of batch_hard over the parts, less than mining the whole batch finds."""
    task, frames = task_and_frames(mining_groups=4, unit_length=unit_length)
    whole, _ = task_and_frames(unit_length=unit_length)
    losses, whole_losses = (one(frames, None, None, LABELS, 1.0) for one in (task, whole))
    for stage, features_nD in zip(task.heads, task.model(frames, None, None), strict=True):
        compared_nD = F.normalize(features_nD) if unit_length else features_nD
        parts = [batch_hard(compared_nD[i : i + 4], LABELS[i : i + 4]) for i in range(0, len(LABELS), 4)]
        torch.testing.assert_close(losses[f"loss/{stage}/triplet"], sum(parts) / 4)
        assert losses[f"loss/{stage}/triplet"] < whole_losses[f"loss/{stage}/triplet"] - 1e-3


def test_parts_of_halved_identities_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """5 parts of 12 identities: exit status 2, and the message says which setting must divide which."""
    with pytest.raises(SystemExit):
        parse(["--loss.mining_groups", "5"])
    assert "loss.mining_groups is 5; it must divide batch.num_identities (12)" in capsys.readouterr().err
    assert parse(["--loss.mining_groups", "6"]).loss.mining_groups == 6
