"""Selection of the greatest values of each row; of two equal values, the one in the lower column is greater.

Shape suffixes: B rows, X columns, K selected values.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mstat.evaluation.rank_counts import groups
from mstat.numerics import IN_TURN, Spread


def greatest(matrix_BX: Tensor, k: int, spread: Spread = IN_TURN) -> tuple[Tensor, Tensor]:
    """Return the `k` greatest values (B, k) of each row, greatest first, and their columns (B, k), on the CPU.

    Values of -inf do not count. Rows with fewer than `k` others are padded with -inf and column -1.
    """
    num_rows, num_columns = matrix_BX.shape
    value_BK = torch.full((num_rows, k), -torch.inf, dtype=matrix_BX.dtype)
    place_BK = torch.full((num_rows, k), -1)

    def select(rows: tuple[int, int]) -> None:
        part_NX = matrix_BX[slice(*rows)]
        kth_N1 = _kth_greatest(part_NX, min(k, num_columns))
        row, place = ((part_NX >= kth_N1) & (part_NX > -torch.inf)).nonzero(as_tuple=True)  # more than k if some tie
        value = part_NX[row, place]
        order = value.argsort(descending=True, stable=True)
        order = order[row[order].argsort(stable=True)]
        row, place, value = row[order].cpu(), place[order].cpu(), value[order].cpu()
        nth = torch.arange(len(row)) - torch.searchsorted(row, row)
        kept = nth < k
        value_BK[rows[0] + row[kept], nth[kept]] = value[kept]
        place_BK[rows[0] + row[kept], nth[kept]] = place[kept]

    if num_rows and num_columns:
        spread(select, groups(num_rows, num_columns))
    return value_BK, place_BK


def _kth_greatest(matrix_NX: Tensor, k: int) -> Tensor:
    """Return the k-th greatest value (N, 1) of each row."""
    if matrix_NX.device.type == "cpu":  # NumPy's vectorised selection is many times faster than torch's
        place = matrix_NX.shape[1] - k
        return torch.from_numpy(np.partition(matrix_NX.numpy(), place, axis=1)[:, place : place + 1])
    return matrix_NX.topk(k, dim=1).values[:, -1:]
