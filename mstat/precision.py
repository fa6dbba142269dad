"""Where autocast must not reach: features, softmaxes written by hand, and losses."""

from __future__ import annotations

from torch import Tensor, float64


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Half precision becomes fp32; fp64, in which exactness is tested, stays."""
    return tensor if tensor.dtype == float64 else tensor.float()
