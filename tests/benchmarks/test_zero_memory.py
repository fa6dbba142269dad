"""The formula of what ZeRO leaves on a rank, on a handful of parameters whose split can be followed by hand."""

from __future__ import annotations

from benchmarks import zero_memory

SIZES = [[200_000, 6], [1, 1, 1]]  # a matrix and a small one with weight decay, three scalars without


def formula(stage: int, ranks: int, rank: int = 0) -> list[int]:
    """In numbers, by part."""
    return [size // 4 for size in zero_memory.formula(SIZES, stage, ranks, rank).values()]


def test_zero_0_keeps_everything() -> None:
    assert formula(0, 4) == [200_009, 0, 200_009, 200_009]


def test_zero_1_and_2_split_padded_groups() -> None:
    """On 2 ranks the groups have 200,008 and 4 numbers. Both ranks hold the gradient of the matrix across the border,
    rank 1 the small one too; of the scalars, rank 0 the first two, rank 1 the third."""
    share = 100_004 + 2
    assert formula(1, 2, 0) == [200_012, share, 200_000 + 2, share]
    assert formula(1, 2, 1) == formula(2, 2, 1) == [200_012, share, 200_006 + 1, share]


def test_zero_3_splits_each_parameter_and_keeps_small_ones() -> None:
    """On 4 ranks: 50,000 of the matrix, 2 of the small one, 1 of each scalar; besides, padded to 4, 8 and 3 times 4.
    On one rank there is nothing to keep whole."""
    share = 50_000 + 2 + 3
    assert formula(3, 4) == [share + 8 + 12, share, share, share]
    assert formula(3, 1) == [200_009] * 4
