"""The one differentiable collective of a step: gather the features of all ranks, with an exact gradient.

A rank computes the losses of its own rows, from the features of all rows. Forward: all_gather in rank order. Backward:
reduce_scatter, which gives a rank the sum over ranks of its own rows' gradient. docs/exactness.md has the derivation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F


def slice_bounds(total: int, world_size: int, rank: int) -> tuple[int, int]:
    """Return the first and last position (exclusive) of a rank's slice; slices differ by one clip at most."""
    return total * rank // world_size, total * (rank + 1) // world_size


def own_rows(total: int) -> slice:
    """Return this rank's rows of a global batch of `total` clips."""
    return slice(*slice_bounds(total, *_world()))


def own_chunks(total: int, size: int | None) -> list[slice]:
    """Return the parts of this rank's rows, counted from its first one, that are embedded at a time.

    They have at most `size` clips; None is all. Every rank has the same number of parts, because ZeRO-3 gathers weights
    in each; only with a size of 1 may a rank of fewer clips have one part less.
    """
    world_size, rank = _world()
    start, stop = slice_bounds(total, world_size, rank)
    longest = -(-total // world_size)
    count = min(stop - start, -(-longest // (size or longest)))
    return [slice(*slice_bounds(stop - start, count, part)) for part in range(count)]


def _world() -> tuple[int, int]:
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_BD: torch.Tensor, total: int) -> torch.Tensor:
        world_size = dist.get_world_size()
        ctx.bounds = [slice_bounds(total, world_size, rank) for rank in range(world_size)]
        # Collectives need parts of one length. Slices may differ by one clip, so shorter ones are padded.
        ctx.length = max(stop - start for start, stop in ctx.bounds)
        parts = local_BD.new_empty(world_size, ctx.length, local_BD.shape[1])
        dist.all_gather(list(parts), _padded(local_BD, ctx.length))
        if total == world_size * ctx.length:
            return parts.flatten(0, 1)
        return torch.cat([part[: stop - start] for part, (start, stop) in zip(parts, ctx.bounds, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad_nD = grads[0].contiguous()
        parts = [_padded(grad_nD[start:stop], ctx.length) for start, stop in ctx.bounds]
        own_BD = torch.empty_like(parts[0])
        dist.reduce_scatter(own_BD, parts)
        start, stop = ctx.bounds[dist.get_rank()]
        return own_BD[: stop - start], None


def _padded(rows_BD: torch.Tensor, length: int) -> torch.Tensor:
    missing = length - len(rows_BD)
    return F.pad(rows_BD, (0, 0, 0, missing)) if missing else rows_BD.contiguous()


def gather(local_BD: torch.Tensor, total: int) -> torch.Tensor:
    """Return the features (total, D) of the global batch, given this rank's slice (B, D) by `own_rows`."""
    if not dist.is_initialized():
        assert len(local_BD) == total
        return local_BD
    return _Gather.apply(local_BD, total)
