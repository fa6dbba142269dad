"""The task: losses of the whole batch on every rank, and the gradient of one process for any number of ranks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mstat.config import Config, ModelConfig
from mstat.data.plan import slice_bounds
from mstat.task import Task
from tests.distributed import run_distributed

SMALL = ModelConfig(
    image_size=(32, 16), patch_size=8, width=16, num_heads=2, depths=(1, 1, 1), num_attributes=2,
    num_temporal_attributes=2, num_prototypes=3,
)  # fmt: skip
CLIPS, FRAMES, CLASSES = 7, 2, 3
# Identity 2 has one clip, so its anchor has no positive; clips 0 and 1 are the same picture.
LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2])


def losses_and_gradients(bnneck: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses, and gradients averaged over ranks, of one fp64 step on this rank's slice of a fixed batch."""
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    torch.manual_seed(0)
    config = Config(model=SMALL)
    config.model.bnneck = bnneck
    task = Task(config, CLASSES).double()
    for block in task.model.stage3.blocks:
        torch.nn.init.constant_(block.alpha, 0.5)  # 0 at the start of training: no gradient would reach its proxies
    frames = torch.randint(0, 256, (CLIPS, FRAMES, 32, 16, 3), dtype=torch.uint8)
    frames[1] = frames[0]
    start, stop = slice_bounds(CLIPS, world_size, rank)
    losses = task(frames[start:stop], None, None, LABELS, 1.0)
    losses["loss"].backward()
    gradients = {}
    for name, parameter in task.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            if world_size > 1:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world_size
            gradients[name] = parameter.grad
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("bnneck", [False, True])
def test_any_number_of_ranks_is_one_process(bnneck: bool) -> None:
    """fp64, 7 clips on 2 and 3 ranks, a duplicate clip, a lone identity: losses to 1e-12, every gradient to 1e-10."""
    losses, gradients = losses_and_gradients(bnneck)
    for world_size in (2, 3):
        for rank_losses, rank_gradients in run_distributed(losses_and_gradients, world_size, bnneck):
            torch.testing.assert_close(rank_losses, losses, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(rank_gradients, gradients, rtol=1e-10, atol=1e-12)


def test_every_stage_has_its_losses_and_their_sum_is_the_loss() -> None:
    """Three stages, two terms each, weighted as the settings say; every term is positive here."""
    torch.manual_seed(0)
    config = Config(model=SMALL)
    frames = torch.randint(0, 256, (CLIPS, FRAMES, 32, 16, 3), dtype=torch.uint8)
    losses = Task(config, CLASSES)(frames, None, None, LABELS, 0.5)
    terms = {name: loss.item() for name, loss in losses.items() if name != "loss"}
    assert set(terms) == {f"loss/{s}/{t}" for s in ("I", "II", "III") for t in ("cross_entropy", "triplet")}
    expected = sum(value * (0.5 if "triplet" in name else 1) for name, value in terms.items())
    assert losses["loss"].item() == pytest.approx(expected)


def test_losses_are_fp32_under_bf16() -> None:
    """Autocast reaches the blocks; features, logits and losses are fp32."""
    torch.manual_seed(0)
    task = Task(Config(model=SMALL), CLASSES)
    seen = {}
    task.model.stage1.blocks[0].mlp.register_forward_hook(lambda _, __, out: seen.update(block=out.dtype))
    task.heads["I"].register_forward_hook(lambda _, inputs, out: seen.update(feature=inputs[0].dtype, logits=out.dtype))
    frames = torch.randint(0, 256, (CLIPS, FRAMES, 32, 16, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        losses = task(frames, None, None, LABELS, 1.0)
    assert seen == {"block": torch.bfloat16, "feature": torch.float32, "logits": torch.float32}
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
