"""Positions of patches from one grid to another: which grid a file's are of, and bicubic resizing.

Shapes: N patches, D width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]  # rows, columns
WAY_OUT = "nothing beside the weights says which it is; a config.json with image_size and patch_size would"


class SourceGrid(NamedTuple):
    """The grid that a file's positions are of.

    Attributes:
        grid: Rows and columns; None where none fits.
        guess: What a user must know where several grids have as many places; None where there is no choice.
    """

    grid: Grid | None
    guess: str | None = None


def source_grid(places: int, known: Grid | None, ours: Grid, squares_first: bool) -> SourceGrid:
    """Return the grid of a number of places.

    Args:
        known: From a description beside the weights.
        ours: Of the model to fill.
        squares_first: Whether they come from models that are made for square pictures, as published ViTs are.
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
    # A line of patches is no picture: so many places are of no grid at all.
    if apart[nearest[0]] > math.log(2) + 1e-9:
        return SourceGrid(None)
    if len(nearest) > 1:
        return SourceGrid(None, f"which may be a grid of {' or '.join(f'{r} x {c}' for r, c in nearest)}: {WAY_OUT}")
    return SourceGrid(nearest[0], _guess(places, nearest[0]))


def _guess(places: int, grid: Grid) -> str:
    return f"{places} positions are taken for a grid of {grid[0]} x {grid[1]}: {WAY_OUT}"


def resize_position(values_ND: Tensor, target: Grid, source: Grid | None = None) -> Tensor:
    """Values of the patches of one grid, bicubic in two dimensions to another: (N', D) -> (N, D).

    Args:
        source: Rows and columns of the values; None is a square.
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
        return f"{before} places as they are"
    return f"2-D bicubic, {source[0]} x {source[1]} -> {target[0]} x {target[1]} ({before} -> {after} places)"
