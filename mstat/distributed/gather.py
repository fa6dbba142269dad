"""The one collective of a training step: gather the features of all ranks, with an exact gradient.

Forward: all_gather in rank order. Backward: sum the incoming gradients over ranks, and keep the rank's own rows. Every
rank computes the same loss, and DDP or DeepSpeed average gradients over ranks, so the result equals the gradient of one
process on the whole batch, without further factors (docs/exactness.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def slice_bounds(total: int, world_size: int, rank: int) -> tuple[int, int]:
    """Return the first and last position (exclusive) of a rank's slice; slices differ by one clip at most."""
    return total * rank // world_size, total * (rank + 1) // world_size


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_BD: torch.Tensor, total: int) -> torch.Tensor:
        world_size, rank = dist.get_world_size(), dist.get_rank()
        bounds = [slice_bounds(total, world_size, other) for other in range(world_size)]
        ctx.bounds = bounds[rank]
        # Slices may differ by one clip, so pad all to the longest, and drop the padding.
        longest = max(stop - start for start, stop in bounds)
        padded = local_BD.new_zeros(longest, local_BD.shape[1])
        padded[: len(local_BD)] = local_BD
        parts = [torch.empty_like(padded) for _ in bounds]
        dist.all_gather(parts, padded)
        return torch.cat([part[: stop - start] for part, (start, stop) in zip(parts, bounds, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        grad_nD = grads[0].contiguous()
        dist.all_reduce(grad_nD)
        start, stop = ctx.bounds
        return grad_nD[start:stop], None


def gather(local_BD: torch.Tensor, total: int) -> torch.Tensor:
    """Return the features (total, D) of the global batch, given this rank's slice (B, D) by `slice_bounds`."""
    if not dist.is_initialized():
        assert len(local_BD) == total
        return local_BD
    return _Gather.apply(local_BD, total)
