"""The gather: any number of ranks, ragged slices too, gives the batch and the gradient of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mstat.data.plan import slice_bounds
from mstat.gather import gather
from tests.distributed import run_distributed

TOTAL, DIM = 7, 5


def features_and_loss() -> tuple[torch.Tensor, torch.Tensor]:
    """Gathered features and the averaged gradient of a shared weight, as DDP would average it, on this rank."""
    inputs = torch.randn(TOTAL, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = torch.eye(DIM, dtype=torch.float64).requires_grad_()
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    start, stop = slice_bounds(TOTAL, world_size, rank)
    gathered = gather(inputs[start:stop] @ weight, TOTAL)
    # Every pair of clips takes part, as in mining: the gradient of a clip depends on the clips of other ranks.
    torch.cdist(gathered + 1e-3 * torch.arange(TOTAL)[:, None], gathered).pow(2).sin().sum().backward()
    grad = weight.grad
    assert grad is not None
    if dist.is_initialized():
        dist.all_reduce(grad)
        grad /= world_size
    return gathered.detach(), grad


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_gradient_equals_one_process(world_size: int) -> None:
    """Features bitwise in rank order; the averaged gradient to 1e-12, with no factor anywhere (7 clips: ragged)."""
    features, grad = features_and_loss()
    for rank_features, rank_grad in run_distributed(features_and_loss, world_size):
        torch.testing.assert_close(rank_features, features, rtol=0, atol=1e-15)
        torch.testing.assert_close(rank_grad, grad, rtol=1e-12, atol=1e-12)
