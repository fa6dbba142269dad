"""Re-ranking by k-reciprocal encoding (Zhong et al., CVPR 2017), from distances or features, in bounded memory.

Items are all queries, followed by all gallery items. The distance of item j from item i is squared and divided by the
largest of i; the result is (1 - lambda) Jaccard + lambda distance (Eq. 12), equal to `re_ranking` of torchreid on the
same distances. Of two equally near items, the one with the lower index is nearer; torchreid leaves that open.

No matrix (N, N) is held: neighbour lists are made from blocks of at most STRIP bytes, and codes are sparse
(`mstat.evaluation.k_reciprocal`).

Shape suffixes: Q queries, G gallery items, S gallery items of this rank, N = Q + G items, B items of a block, K nearest
neighbours, M entries of all sets, P positive pairs, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation import ranking
from mstat.evaluation.k_reciprocal import Sparse, encode, expanded_sets, jaccard_distances, num_neighbours, rows_of
from mstat.evaluation.matches import Pairs
from mstat.evaluation.metric_inputs import numbers
from mstat.evaluation.metrics import Matrix
from mstat.evaluation.neighbours import Items, squared
from mstat.evaluation.rank_counts import Block
from mstat.evaluation.ranking import Search
from mstat.evaluation.selection import greatest
from mstat.numerics import spreading

T = TypeVar("T", np.ndarray, Tensor)

TEMPORARIES = 8  # arrays of a block's rows that are held at a time, counted as fp32


class Reranking(NamedTuple):
    """Parameters of the re-ranking.

    Attributes:
        k1: Number of neighbours of the k-reciprocal sets.
        k2: Number of neighbours of the local query expansion; 1 omits it.
        lambda_value: Weight of the original distance; 1 keeps the original order.
    """

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3

    def check(self) -> None:
        """Raise UserError if a parameter is out of range."""
        for name, value in (("k1", self.k1), ("k2", self.k2)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise UserError(f"{name}={value!r}: give a whole number of at least 1")
        if not 0 <= self.lambda_value <= 1:
            raise UserError(f"lambda_value={self.lambda_value!r}: give a number from 0 to 1")

    def mix(self, jaccard: T, distance: T) -> T:
        """Return the distances after re-ranking (Eq. 12)."""
        return jaccard * (1 - self.lambda_value) + distance * self.lambda_value


def rerank_distances(
    query_gallery: Matrix,
    query_query: Matrix,
    gallery_gallery: Matrix,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """Re-rank given distances: `re_ranking` of torchreid, with the same arguments and the same result.

    Memory beside the arguments and the result: blocks of rows of 256 MiB in all, and the sparse codes.

    Args:
        query_gallery, query_query, gallery_gallery: Distances (Q, G), (Q, Q) and (G, G), arrays or tensors, such as
            Euclidean ones. They are squared.
        k1, k2, lambda_value: As `Reranking`.

    Returns:
        (Q, G) fp32, smaller is nearer; for `cmc_map_from_distances`.

    Raises:
        UserError: If shapes do not fit, distances are not finite, or a parameter is out of range.
    """
    settings = Reranking(k1, k2, lambda_value)
    settings.check()
    distances = _Distances.of(query_gallery, query_query, gallery_gallery)
    num_query, num_gallery = distances.query_gallery.shape
    if not num_query or not num_gallery:
        return np.zeros((num_query, num_gallery), np.float32)
    item_NK = distances.nearest(num_neighbours(k1, k2))
    sets = expanded_sets(item_NK, k1)
    codes = encode(sets, distances.look_up(sets), item_NK, k2)
    by_item = _by_item(codes, num_query, num_query + num_gallery)
    result_QG = np.empty((num_query, num_gallery), np.float32)
    for first, end in distances.blocks(num_query):
        jaccard_BG = jaccard_distances(codes[first:end], by_item)
        result_QG[first:end] = settings.mix(jaccard_BG, distances.rows(first, end)[:, num_query:])
    return result_QG


def rerank(
    query_features: Matrix,
    gallery_features: Matrix,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> np.ndarray:
    """Re-rank by features; the original distances are Euclidean ones of unit-length features.

    Memory beside the arguments and the result: blocks of at most 256 MiB, one block of features, and the sparse codes.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), arrays or tensors; need not be normalised. Leave junk out.
        k1, k2, lambda_value: As `Reranking`.

    Returns:
        (Q, G) fp32, smaller is nearer; for `cmc_map_from_distances`.

    Raises:
        UserError: If shapes do not fit, features are not finite, or a parameter is out of range.
    """
    settings = Reranking(k1, k2, lambda_value)
    settings.check()
    query_QD, gallery_GD = numbers("query features", query_features), numbers("gallery features", gallery_features)
    result_QG = np.empty((len(query_QD), len(gallery_GD)), np.float32)
    if result_QG.size:
        junk_G = torch.zeros(len(gallery_GD), dtype=torch.bool)
        items = Items(query_QD, gallery_GD, 0, len(gallery_GD), (0, len(query_QD)))
        for first, distance_BG in _strips(items, gallery_GD, 0, junk_G, settings):
            result_QG[first : first + len(distance_BG)] = distance_BG.clamp(min=0).cpu()
    return result_QG


def rank_reranked(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    settings: Reranking,
    share: tuple[int, int],
    *,
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    progress: ranking.Progress = ranking.silent,
) -> Tensor:
    """Rank each true match in its query's gallery after re-ranking, as `rank_positives` does by cosine similarity.

    Junk is no item of the re-ranking. Other items that a query ignores are, because the neighbour lists are those of
    all items; they do not count in the ranks. With lambda 1, the ranks are those of `rank_positives`.

    Args:
        query_QD, gallery_SD, start, pairs, reduce: As for `rank_positives`.
        share, gather: As for `Items`.
        progress: Called with a number of items while neighbours are searched, and of queries while they are ranked.

    Returns:
        (P,) int64 on the CPU, in the order of `pairs.positives_2P`; equal on every rank.

    Raises:
        UserError: As `rank_positives`, or if a parameter is out of range.
    """
    settings.check()
    kept_S = ~pairs.junk_G[start : start + len(gallery_SD)]
    searched_SD = gallery_SD if kept_S.all() else gallery_SD[kept_S.to(gallery_SD.device)]
    num_before, num_gallery = int((~pairs.junk_G[:start]).sum()), int((~pairs.junk_G).sum())
    items = Items(query_QD, searched_SD, num_before, num_gallery, share, reduce, gather, progress)
    ranks = [torch.zeros(0, dtype=torch.long)]
    for first, distance_BS in _strips(items, gallery_SD, start, pairs.junk_G, settings):
        block = Block.of(pairs, first, distance_BS.neg_(), start)
        nearness_P = reduce(block.look_up())
        ranks.append(reduce(block.count_nearer(nearness_P)).cpu() + 1)
    return torch.cat(ranks)


def _strips(
    items: Items, gallery_SD: Tensor, start: int, junk_G: Tensor, settings: Reranking
) -> Iterator[tuple[int, Tensor]]:
    """Yield the index of the first query and the distances (B, S) fp64 after re-ranking of each block.

    In fp64 no two similarities of `rank_positives` become one distance.
    """
    codes, largest_Q = _codes_of_features(items, settings)
    num_query = len(items.query_QD)
    first_item = num_query + items.start
    by_item = _by_item(codes, first_item, first_item + len(items.gallery_SD))
    kept_S = ~junk_G[start : start + len(gallery_SD)].numpy()
    step = max(1, ranking.STRIP // (4 * TEMPORARIES * max(1, len(junk_G))))
    with spreading(items.query_QD.device) as spread:
        search = Search(items.query_QD, gallery_SD, start, len(junk_G), ranking.TILE, spread, items.progress)
        for block, nearness_BS in search.strips():
            for first in range(block, block + len(nearness_BS), step):
                rows_BS = nearness_BS[first - block :][:step]
                end = first + len(rows_BS)
                square_BS = squared(rows_BS, search.offset_Q[first:end, None])
                jaccard_BS = np.ones(square_BS.shape)
                jaccard_BS[:, kept_S] = jaccard_distances(codes[first:end], by_item)
                share_BS = square_BS.div_(largest_Q[first:end, None].to(square_BS))
                yield first, settings.mix(torch.from_numpy(jaccard_BS).to(share_BS.device), share_BS)


def _codes_of_features(items: Items, settings: Reranking) -> tuple[Sparse, Tensor]:
    """Return the codes (N, N) and the squared distance (Q,) fp64 of each query's farthest item, on every rank."""
    lists = items.nearest(num_neighbours(settings.k1, settings.k2))
    sets = expanded_sets(lists.item_NK, settings.k1)
    row_M, column_M = rows_of(sets), sets.indices.astype(np.int64)
    order_NK = lists.item_NK.argsort(axis=1)
    first_N1 = np.arange(items.num_items)[:, None] * items.num_items  # a pair of items as one number
    listed = (first_N1 + np.take_along_axis(lists.item_NK, order_NK, axis=1)).ravel()
    wanted_M = first_N1[row_M, 0] + column_M
    place_M = np.searchsorted(listed, wanted_M).clip(max=len(listed) - 1)
    square_M = np.take_along_axis(lists.square_NK, order_NK, axis=1).ravel()[place_M]
    absent_M = listed[place_M] != wanted_M
    square_M[absent_M] = items.squares(row_M[absent_M], column_M[absent_M])
    codes = encode(sets, square_M / lists.largest_N[row_M], lists.item_NK, settings.k2)
    return codes, torch.from_numpy(lists.largest_N[: len(items.query_QD)]).double()


class _Distances(NamedTuple):
    """Distances between all items, in three matrices."""

    query_gallery: np.ndarray
    query_query: np.ndarray
    gallery_gallery: np.ndarray

    @classmethod
    def of(cls, *matrices: Matrix) -> _Distances:
        """Check and convert the matrices.

        Raises:
            UserError: If shapes do not fit or distances are not finite.
        """
        names = ("query-gallery distances", "query-query distances", "gallery-gallery distances")
        tensors = [numbers(name, matrix).cpu() for name, matrix in zip(names, matrices, strict=True)]
        num_query, num_gallery = tensors[0].shape
        shapes = (num_query, num_gallery), (num_query, num_query), (num_gallery, num_gallery)
        for name, tensor, shape in zip(names, tensors, shapes, strict=True):
            if tensor.shape != shape:
                raise UserError(f"{name} have shape {tuple(tensor.shape)}, but there must be {shape[0]} x {shape[1]}")
            if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
                raise UserError(f"{name} are not finite: check the features for inf or NaN")
        return cls(*(tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy() for tensor in tensors))

    @property
    def num_items(self) -> int:
        return sum(self.query_gallery.shape)

    def blocks(self, stop: int) -> Iterator[tuple[int, int]]:
        """Yield (first, end) of the blocks of items [0, stop)."""
        step = max(1, ranking.STRIP // (4 * TEMPORARIES * self.num_items))
        yield from ((first, min(first + step, stop)) for first in range(0, stop, step))

    def rows(self, first: int, end: int) -> np.ndarray:
        """Return the squared distances (B, N) fp32 of all items from items [first, end), as shares of the largest."""
        num_query = len(self.query_query)
        queries, items = slice(first, min(end, num_query)), slice(max(first - num_query, 0), max(end - num_query, 0))
        of_queries = np.hstack([self.query_query[:, queries].T, self.query_gallery[queries]])
        of_gallery = np.hstack([self.query_gallery[:, items].T, self.gallery_gallery[:, items].T])
        square_BN = np.square(np.vstack([of_queries, of_gallery])).astype(np.float32, copy=False)
        largest_B1 = square_BN.max(axis=1, keepdims=True)
        return square_BN / np.where(largest_B1 > 0, largest_B1, 1)

    def nearest(self, k: int) -> np.ndarray:
        """Return the `k` nearest items of each, or all N if they are fewer, as int32 (N, K)."""
        item_NK = np.empty((self.num_items, min(k, self.num_items)), np.int32)
        with spreading(torch.device("cpu")) as spread:
            for first, end in self.blocks(self.num_items):
                nearness_BN = torch.from_numpy(-self.rows(first, end))
                item_NK[first:end] = greatest(nearness_BN, item_NK.shape[1], spread)[1]
        return item_NK

    def look_up(self, sets: Sparse) -> np.ndarray:
        """Return the share (M,) of each entry of a sparse matrix (N, N)."""
        share_M = np.empty(len(sets.indices), np.float32)
        for first, end in self.blocks(self.num_items):
            part = sets[first:end]
            share_M[sets.indptr[first] : sets.indptr[end]] = self.rows(first, end)[rows_of(part), part.indices]
        return share_M


def _by_item(codes: Sparse, first: int, end: int) -> Sparse:
    """Return the transposed codes (N, S) of items [first, end)."""
    return codes[first:end].T.tocsr()
