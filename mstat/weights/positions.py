"""Position embeddings of patches: find the grid of a file's positions, and resize them to another grid.

Shapes: N patches, D width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # rows, columns
WAY_OUT = "no file beside the weights gives the grid; a config.json with image_size and patch_size would"


class SourceGrid(NamedTuple):
    """The grid of a file's positions.

    Attributes:
        grid: Rows and columns; None if no grid fits.
        guess: A note for the user if several grids have that many positions; None if only one does.
    """

    grid: Grid | None
    guess: str | None = None


def source_grid(places: int, known: Grid | None, ours: Grid, squares_first: bool) -> SourceGrid:
    """Return the grid of a number of positions.

    Args:
        places: Number of positions.
        known: The grid according to a description beside the weights.
        ours: The grid of the model to fill.
        squares_first: Whether the weights are of a model for square images, such as the published ViTs.
    """
    if known is not None:
        return SourceGrid(known if known[0] * known[1] == places else None)
    if places < 1:
        return SourceGrid(None)
    side = math.isqrt(places)
    is_square = side * side == places
    if places == ours[0] * ours[1] and not (is_square and squares_first):
        return SourceGrid(ours)
    grids = [(rows, places // rows) for rows in range(1, places + 1) if places % rows == 0]
    if is_square and squares_first:
        others = [grid for grid in grids if grid == ours and grid != (side, side)]
        return SourceGrid((side, side), _guess(places, (side, side)) if others else None)
    aspect = math.log(ours[0] / ours[1])
    apart = {grid: abs(math.log(grid[0] / grid[1]) - aspect) for grid in grids}
    nearest = [grid for grid in grids if apart[grid] < min(apart.values()) + 1e-9]
    # If the nearest aspect is off by more than a factor of 2, the number of positions belongs to no plausible image.
    if apart[nearest[0]] > math.log(2) + 1e-9:
        return SourceGrid(None)
    if len(nearest) > 1:
        return SourceGrid(None, f"which may be a grid of {' or '.join(f'{r} x {c}' for r, c in nearest)}: {WAY_OUT}")
    return SourceGrid(nearest[0], _guess(places, nearest[0]))


def _guess(places: int, grid: Grid) -> str:
    return f"{places} positions are read as a grid of {grid[0]} x {grid[1]}: {WAY_OUT}"


def resize_position(values_ND: Tensor, target: Grid, source: Grid | None = None) -> Tensor:
    """Resize the values of patches to another grid by 2-D bicubic interpolation: (N', D) -> (N, D).

    Args:
        source: Rows and columns of `values_ND`; None is a square.
    """
    side = math.isqrt(len(values_ND))
    source = source or (side, side)
    if source == target:
        return values_ND
    plane = values_ND.float().unflatten(0, source).permute(2, 0, 1)[None]
    return F.interpolate(plane, size=target, mode="bicubic", align_corners=False)[0].flatten(1).T


def action(source: Grid, target: Grid) -> str:
    """Return a description of how positions were resized."""
    before, after = source[0] * source[1], target[0] * target[1]
    if source == target:
        return f"{before} positions, unchanged"
    return f"2-D bicubic, {source[0]} x {source[1]} -> {target[0]} x {target[1]} ({before} -> {after} positions)"
