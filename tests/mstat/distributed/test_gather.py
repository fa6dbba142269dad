"""The gather: any number of ranks, ragged slices too, gives the batch and the gradient of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mstat.distributed.gather import gather, own_chunks, own_rows, slice_bounds
from tests.helpers.distributed import run_distributed

TOTALS, DIM = (4, 7), 5  # on 4 ranks: one clip each, and ragged slices


def features_and_gradients() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each total: gathered features, and the gradient of a shared weight, summed over ranks.

    The loss is a sum over pairs of clips, of which a rank takes those of its own rows.
    """
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    results = []
    for total in TOTALS:
        inputs = torch.randn(total, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        weight = torch.eye(DIM, dtype=torch.float64).requires_grad_()
        start, stop = slice_bounds(total, world_size, rank)
        gathered = gather(inputs[start:stop] @ weight, total)
        # Every pair of clips takes part, as in mining: the gradient of a clip depends on the clips of other ranks.
        moved = gathered + 1e-3 * torch.arange(total)[:, None]
        torch.cdist(moved[own_rows(total)], gathered).pow(2).sin().sum().backward()
        gradient = weight.grad
        assert gradient is not None
        if dist.is_initialized():
            dist.all_reduce(gradient)
        results.append((gathered.detach(), gradient))
    return results


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_gradient_equals_one_process(world_size: int) -> None:
    """Features bitwise in rank order; the summed gradient to 1e-12 of its norm, with no factor anywhere."""
    for of_rank in run_distributed(features_and_gradients, world_size):
        for (features, gradient), (one_features, one_gradient) in zip(of_rank, features_and_gradients(), strict=True):
            assert torch.equal(features, one_features)
            assert (gradient - one_gradient).norm() < 1e-12 * one_gradient.norm()


@pytest.mark.parametrize(("total", "size"), [(7, 1), (7, 2), (7, 3), (8, 4), (24, 24), (5, 9), (9, None)])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_chunks_cover_the_rows(total: int, size: int | None, world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, none larger than the size, as many on every rank; with a size of 1, as many as the rank has rows."""
    counts = set()
    for rank in range(world_size):
        monkeypatch.setattr("mstat.distributed.gather._world", lambda rank=rank: (world_size, rank))
        rows, chunks = own_rows(total), own_chunks(total, size)
        positions = [i for chunk in chunks for i in range(chunk.start, chunk.stop)]
        assert positions == list(range(rows.stop - rows.start))
        assert all(0 < chunk.stop - chunk.start <= (size or total) for chunk in chunks)
        counts.add(len(chunks) - (rows.stop - rows.start if size == 1 else 0))
    assert len(counts) == 1
