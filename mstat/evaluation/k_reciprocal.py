"""k-reciprocal encoding of items by their nearest neighbours (Zhong et al., CVPR 2017), in sparse matrices.

An item's code weighs the items of its expanded k-reciprocal set; the Jaccard distance of two codes replaces the
distance of two features. Codes are rows of a sparse matrix (N, N) with at most (k1 + 1) (k1 / 2 + 2) entries, and k2
times as many after the local query expansion; in practice some dozens. All sums run in a fixed order on one thread.

Shape suffixes: N items, K neighbours of an item, M entries of all sets, B queries of a block, S gallery items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

ROWS = 4096  # items whose sets are expanded at a time

Sparse = csr_array[Any, tuple[int, int]]


def num_neighbours(k1: int, k2: int) -> int:
    """Return the number K of neighbours that an item's list must have; a list includes the item itself."""
    return max(k1 + 1, k2)


def expanded_sets(item_NK: np.ndarray, k1: int) -> Sparse:
    """Return the set R*(i, k1) of each item (Eq. 5) as the pattern of a matrix (N, N), sorted by column.

    R(i, k) has the k nearest items that have i among their k nearest, and i itself (Eq. 3). R* adds R(c, k1 / 2) for
    each c in R(i, k1) if more than two thirds of it are in R(i, k1). As in the published code, k1 / 2 is rounded to
    the nearest, if halfway to the even, number.

    Args:
        item_NK: Items in ascending order of distance, K >= k1 + 1 or K = N.
    """
    whole, half = (_reciprocal(item_NK[:, : k + 1]) for k in (k1, round(k1 / 2)))
    size_N = np.diff(half.indptr)
    parts = []
    for first in range(0, len(item_NK), ROWS):
        sets = whole[first : first + ROWS]
        shared = csr_array((sets @ half).multiply(sets))  # items of R(c, k1 / 2) in R(i, k1); `half` is symmetric
        shared.data = (3 * shared.data > 2 * size_N[shared.indices]).astype(np.int32)
        shared.eliminate_zeros()
        parts.append(csr_array(sets + shared @ half))
    result = csr_array(vstack(parts, format="csr"))
    result.sort_indices()
    return result


def encode(sets: Sparse, distance_M: np.ndarray, item_NK: np.ndarray, k2: int) -> Sparse:
    """Return the codes (N, N) fp32: the weights exp(-distance) of a set, divided by their sum (Eq. 7).

    Each code is then replaced by the mean of those of the item's k2 nearest, itself included (Eq. 11); k2 = 1 omits
    this. The code of an item whose set is empty, because it has more than k1 copies, is zero.

    Args:
        sets: Result of `expanded_sets`.
        distance_M: Distance of each entry of `sets`, in their order; 1 is an item's farthest.
    """
    weight_M = np.exp(-distance_M.astype(np.float32))
    row_M = rows_of(sets)
    sum_N = np.bincount(row_M, weights=weight_M, minlength=len(item_NK))
    codes = csr_array(((weight_M / sum_N[row_M]).astype(np.float32), sets.indices, sets.indptr), shape=sets.shape)
    if k2 == 1:
        return codes
    nearest = _incidence(item_NK[:, :k2], np.float32)
    codes = csr_array(nearest @ codes)
    codes.data /= np.float32(min(k2, item_NK.shape[1]))
    codes.sort_indices()
    return codes


def jaccard_distances(query_codes: Sparse, by_item: Sparse) -> np.ndarray:
    """Return the Jaccard distances (B, S) fp64 of codes (Eq. 10).

    Args:
        query_codes: Codes (B, N) of some queries.
        by_item: Transposed codes (N, S) of gallery items, in rows. A distance does not depend on the other items.
    """
    shared_BS = np.zeros((query_codes.shape[0], by_item.shape[1]))
    for row, (first, end) in enumerate(zip(query_codes.indptr[:-1], query_codes.indptr[1:], strict=True)):
        columns = csr_array(by_item[query_codes.indices[first:end]])
        weights = np.repeat(query_codes.data[first:end], np.diff(columns.indptr))
        smaller = np.minimum(weights, columns.data)
        shared_BS[row] = np.bincount(columns.indices, weights=smaller, minlength=shared_BS.shape[1])
    return 1 - shared_BS / (2 - shared_BS)


def rows_of(matrix: Sparse) -> np.ndarray:
    """Return the row of each entry, in their order."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _reciprocal(item_NK: np.ndarray) -> Sparse:
    """Return the pairs of items that are in each other's lists."""
    near = _incidence(item_NK, np.int32)
    return csr_array(near.multiply(near.T))


def _incidence(item_NK: np.ndarray, dtype: type[np.generic]) -> Sparse:
    num_items, k = item_NK.shape
    ends = np.arange(num_items + 1) * k
    return csr_array((np.ones(item_NK.size, dtype), item_NK.ravel(), ends), shape=(num_items, num_items))
