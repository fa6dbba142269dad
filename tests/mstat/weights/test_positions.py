"""The grid that a file's positions are of, and their resizing to another grid."""

from __future__ import annotations

import pytest
import torch

from mstat.weights.positions import Grid, action, resize_position, source_grid

OURS = (16, 8)  # a person: twice as high as wide


@pytest.mark.parametrize(
    ("places", "known", "squares_first", "grid"),
    [
        (128, None, False, OURS),  # as many as ours
        (128, None, True, OURS),
        (196, None, True, (14, 14)),  # a published ViT
        (32, None, False, (8, 4)),  # ours at half the size
        (196, (14, 14), False, (14, 14)),  # a description beside the weights
        (196, (7, 28), True, (7, 28)),
        (128, (14, 14), False, None),  # which does not fit them
        (127, None, False, None),  # a line of patches
        (0, None, False, None),
    ],
)
def test_the_grid_of_a_file(places: int, known: Grid | None, squares_first: bool, grid: Grid | None) -> None:
    assert source_grid(places, known, OURS, squares_first).grid == grid


def test_a_guess_is_told() -> None:
    """A guess is named where another grid has as many places: read as a square model's, or not at all if in doubt."""
    assert source_grid(196, None, OURS, squares_first=True).guess is None
    result = source_grid(64, None, (16, 4), squares_first=True)
    assert result.grid == (8, 8)
    assert result.guess is not None
    assert "64 positions are read as a grid of 8 x 8" in result.guess
    result = source_grid(50, None, (10, 10), squares_first=False)
    assert result.grid is None
    assert result.guess is not None
    assert "a grid of 5 x 10 or 10 x 5: " in result.guess


def test_resizing_keeps_what_is_linear() -> None:
    """Values that rise by rows rise by rows on the other grid; the order of patches is row by row."""
    rows, columns = 8, 4
    values_ND = torch.arange(rows).repeat_interleave(columns)[:, None].float().repeat(1, 3)
    larger_ND = resize_position(values_ND, (16, 8), (8, 4))
    assert larger_ND.shape == (128, 3)
    plane = larger_ND.unflatten(0, (16, 8))
    torch.testing.assert_close(plane, plane[:, :1].expand_as(plane))  # equal along each row
    expected = (torch.arange(16) + 0.5) / 2 - 0.5  # torch's bicubic kernel is near to a line, not on it
    torch.testing.assert_close(plane[:, 0, 0], expected.clamp(0, 7), atol=0.15, rtol=0)


def test_the_same_grid_is_left_as_it_is() -> None:
    """To the bit; without a source grid, a square is meant."""
    values_ND = torch.randn(16, 3)
    assert resize_position(values_ND, (4, 4)) is values_ND
    assert resize_position(values_ND, (2, 8)).shape == (16, 3)
    assert action((4, 4), (4, 4)) == "16 positions, unchanged"
    assert action((14, 14), OURS) == "2-D bicubic, 14 x 14 -> 16 x 8 (196 -> 128 positions)"
