"""Ranks of the true matches over a gallery that is sliced over ranks and never gathered.

CMC and mAP need only one number for each (query, positive) pair: how many gallery items are nearer. Every rank has all
labels and all query features, holds the features of one slice of the gallery, and counts in that slice; the counts are
summed over ranks. All similarities come from one global grid of tiles of constant shape, each multiplied by one thread.
Therefore every similarity and every score has the same bits on any number of ranks and CPU threads of one kind of
machine.

Items are ordered by cosine similarity in fp32; of two equally similar items, the one with the lower gallery index is
nearer. In a narrow cone the order is by distance, which keeps the digits that a similarity close to 1 loses
(`mstat.evaluation.narrow_cone`).

Shape suffixes: Q queries, B queries of one block, G gallery items, S items of this rank's slice, T items of a tile,
D feature dimensions, P positive pairs, K nearest items.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.matches import Pairs, check_length
from mstat.evaluation.narrow_cone import common_vector, differences, half_square, measure, norm, precise_norm
from mstat.evaluation.rank_counts import Block, groups
from mstat.evaluation.selection import greatest
from mstat.numerics import Spread, spreading

TILE = 256  # gallery items of one matrix product
BLOCK = 1024  # most queries of one matrix product
STRIP = 2**28  # most bytes of similarities of one block of queries and the whole gallery
FEWEST = 16  # fewest queries of a block, for galleries of any size
RUN = 4  # tiles that a thread processes at a time
ALIGNMENT = 64  # bytes; the alignment of its factors may affect how a product rounds

Progress = Callable[[int], object]  # called after each block, with its number of queries


def silent(num_queries: int) -> None:
    """Show no progress."""


def gallery_slices(total: int, world_size: int, tile: int = TILE) -> list[tuple[int, int]]:
    """Return (start, stop) of each rank's slice of `total` gallery items, in whole tiles; a slice may be empty."""
    num_tiles = -(-total // tile)
    bounds = [min(total, tile * (num_tiles * rank // world_size)) for rank in range(world_size + 1)]
    return list(pairwise(bounds))


def rank_positives(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    *,
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    progress: Progress = silent,
    tile: int = TILE,
) -> Tensor:
    """Rank each true match in its query's gallery; 1 is the nearest, and ignored items do not count.

    The similarities of one block of queries are in memory at a time. The similarity of a positive is computed by the
    rank that holds its gallery item, and shared by a sum (the other ranks add zeros, which is exact). Then each rank
    counts its items that are nearer.

    Args:
        query_QD: All queries, equal on every rank. Their device does the work, in fp32.
        gallery_SD: Gallery items [start, start + S), on any device; S may be 0.
        start: First item of the slice; any is valid, but slices from `gallery_slices` cut few tiles.
        pairs: Result of `make_pairs`, equal on every rank.
        reduce: Sums a tensor over ranks and returns the sum on each. Every rank calls it equally often.
        progress: Called after each block, with its number of queries.
        tile: Gallery items of one matrix product, constant on any number of ranks.

    Returns:
        (P,) int64 on the CPU, in the order of `pairs.positives_2P`; equal on every rank.

    Raises:
        UserError: If shapes do not fit, the slice lies outside the gallery, or features are not finite.
    """
    check_length("query features", query_QD, pairs.num_query)
    ranks = [torch.zeros(0, dtype=torch.long)]
    with spreading(query_QD.device) as spread:
        search = Search(query_QD, gallery_SD, start, pairs.num_gallery, tile, spread, progress)
        for query, nearness_BS in search.strips():
            block = Block.of(pairs, query, nearness_BS, start)
            nearness_P = reduce(block.look_up())
            ranks.append(reduce(block.count_nearer(nearness_P, spread)).cpu() + 1)
    return torch.cat(ranks)


def rank_distances(distance_QG: Tensor, pairs: Pairs) -> Tensor:
    """Rank the true matches by a whole matrix of distances (smaller is nearer), on its device.

    Raises:
        UserError: If its shape does not fit `pairs`, or a distance is not finite.
    """
    if distance_QG.shape != (pairs.num_query, pairs.num_gallery):
        raise UserError(
            f"distances are {tuple(distance_QG.shape)}, but there are {pairs.num_query} queries and "
            f"{pairs.num_gallery} gallery items"
        )

    def count(rows: tuple[int, int]) -> Tensor:
        distance_BG = distance_QG[slice(*rows)]
        similarity_BG = -distance_BG.to(torch.promote_types(distance_BG.dtype, torch.float32))
        if similarity_BG.numel() and not torch.stack(similarity_BG.aminmax()).isfinite().all():
            raise UserError("distances are not finite: check the features for inf or NaN")
        block = Block.of(pairs, rows[0], similarity_BG, 0)
        return block.count_nearer(block.look_up()).cpu() + 1

    if distance_QG.numel() > 1 and _are_equal(distance_QG):
        warnings.warn("all distances are equal, so ranks are the order of the gallery", stacklevel=3)
    with spreading(distance_QG.device) as spread:
        return torch.cat([torch.zeros(0, dtype=torch.long), *spread(count, groups(*distance_QG.shape))])


def top_ranks(
    query_BD: Tensor, rows: Sequence[int], gallery_SD: Tensor, start: int, pairs: Pairs, k: int, *, tile: int = TILE
) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest items of this rank's slice for a few queries; `merge_top` joins the results of all slices.

    Args:
        query_BD: Features of the chosen queries.
        rows: Query indices of these queries.
        gallery_SD, start, pairs, tile: As for `rank_positives`.

    Returns:
        Cosine similarity (B, k) fp64 and gallery index (B, k) int64, nearest first, without ignored items, on the CPU;
        padded with -inf and -1 if the slice has fewer than `k` items.

    Raises:
        UserError: As `rank_positives`.
    """
    check_length("query features", query_BD, len(rows))
    similarity_BK = torch.full((len(rows), k), -torch.inf, dtype=torch.float64)
    item_BK = torch.full((len(rows), k), -1)
    row_B = torch.as_tensor(rows)
    of_rows_2I = pairs.ignored_2I[:, torch.isin(pairs.ignored_2I[0], row_B)]
    row_I, which_I = (row_B[:, None] == of_rows_2I[0]).nonzero(as_tuple=True)
    ignored_2I = torch.stack([row_I, of_rows_2I[1, which_I]])
    requested = replace(pairs, num_query=len(rows), positives_2P=ignored_2I[:, :0], ignored_2I=ignored_2I)
    with spreading(query_BD.device) as spread:
        search = Search(query_BD, gallery_SD, start, pairs.num_gallery, tile, spread)
        for first, nearness_BS in search.strips():
            end = first + len(nearness_BS)
            value_BK, place_BK = greatest(Block.of(requested, first, nearness_BS, start).similarity_BX, k, spread)
            similarity_BK[first:end] = value_BK.double() + search.offset_Q[first:end, None]
            item_BK[first:end] = torch.where(place_BK < 0, -1, place_BK + start)
    return similarity_BK, item_BK


def extreme_similarities(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    *,
    progress: Progress = silent,
    tile: int = TILE,
) -> tuple[Tensor, Tensor]:
    """Compute the cosine similarity of each true match, and of each query's nearest item of another identity.

    It searches this rank's slice. Arguments and errors are those of `rank_positives`.

    Returns:
        (P,) and (Q,) fp64 on the CPU, -inf if the slice has no such item. The maximum over all slices is the result for
        the whole gallery.
    """
    check_length("query features", query_QD, pairs.num_query)
    matches, others = [torch.zeros(0)], [torch.zeros(0)]
    with spreading(query_QD.device) as spread:
        search = Search(query_QD, gallery_SD, start, pairs.num_gallery, tile, spread, progress)
        for query, nearness_BS in search.strips():
            block = Block.of(pairs, query, nearness_BS, start)
            matches.append(block.look_up(absent=-torch.inf).cpu())
            here = block.here_P()
            nearness_BS[block.row_P[here], block.item_P[here] - start] = -torch.inf
            others.append(_greatest(nearness_BS).cpu())
    return torch.cat(matches) + search.offset_Q[pairs.positives_2P[0]], torch.cat(others) + search.offset_Q


def count_similarities(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    num_bins: int,
    *,
    progress: Progress = silent,
    tile: int = TILE,
) -> tuple[Tensor, Tensor]:
    """Count the pairs of a query and an item of this rank's slice by their cosine similarity.

    Arguments and errors are those of `rank_positives`. Memory holds one block of similarities and the counts.

    Returns:
        Counts of the true matches and of pairs of two identities, each (num_bins,) int64 on the CPU. Bins of equal
        width cover similarities from -1 to 1. The sum over all slices is the result for the whole gallery.
    """
    check_length("query features", query_QD, pairs.num_query)
    counts_2N = torch.zeros(2, num_bins, dtype=torch.long, device=query_QD.device)
    adding = threading.Lock()

    def count(nearness: Tensor, offset: Tensor) -> Tensor:
        shifted = nearness.double().add_(offset).add_(1).mul_(num_bins / 2).clamp_(0, num_bins - 1)
        return torch.bincount(shifted.flatten().long(), minlength=num_bins)

    with spreading(query_QD.device) as spread:
        search = Search(query_QD, gallery_SD, start, pairs.num_gallery, tile, spread, progress)
        for query, nearness_BS in search.strips():
            block = Block.of(pairs, query, nearness_BS, start)
            offset_B = search.offset_Q[query : query + len(nearness_BS)].to(nearness_BS.device)
            here = block.here_P()
            row, item = block.row_P[here], block.item_P[here] - start
            counts_2N[0] += count(nearness_BS[row, item], offset_B[row])
            nearness_BS[row, item] = -torch.inf

            def add_rows(rows: tuple[int, int], nearness_BS: Tensor = nearness_BS, offset_B: Tensor = offset_B) -> None:
                others_BS = nearness_BS[slice(*rows)]
                counts_N = count(others_BS, offset_B[slice(*rows), None])
                counts_N[0] -= (others_BS == -torch.inf).sum()  # ignored items, and true matches
                with adding:  # whole numbers: the order does not matter
                    counts_2N[1].add_(counts_N)

            spread(add_rows, groups(*nearness_BS.shape))
    genuine_N, impostor_N = counts_2N.cpu()
    return genuine_N, impostor_N


def merge_top(tops: Sequence[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """Merge lists of (similarity (B, n), gallery index (B, n)) into the `k` nearest; their order does not matter."""
    similarity, item = (torch.cat(parts, dim=1) for parts in zip(*tops, strict=True))
    by_item = item.argsort(dim=1, stable=True)
    similarity, item = similarity.gather(1, by_item), item.gather(1, by_item)
    nearest_BK = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.gather(1, nearest_BK), item.gather(1, nearest_BK)


class Search:
    """Search of this rank's slice of the gallery for all queries, one block of queries at a time.

    Similarities are normalised instead of gallery features, which would be normalised anew for each block.

    Attributes:
        offset_Q: Cosine similarity minus nearness of each query, fp64; complete when `strips` has ended.
    """

    def __init__(
        self,
        query_QD: Tensor,
        gallery_SD: Tensor,
        start: int,
        num_gallery: int,
        tile: int,
        spread: Spread,
        progress: Progress = silent,
    ) -> None:
        _check_slice(query_QD, gallery_SD, start, num_gallery)
        self.query_QD, self.gallery_SD, self.start, self.tile = query_QD, gallery_SD, start, tile
        self.stop, self.spread, self.progress = start + len(gallery_SD), spread, progress
        # The whole gallery decides, not the slice, so that products have the same shape on any number of ranks.
        fitting = STRIP // (4 * max(1, num_gallery)) // FEWEST * FEWEST
        self.block = min(BLOCK, max(FEWEST, fitting))
        self.common_D = common_vector(query_QD)
        self.offset_Q = torch.zeros(len(query_QD), dtype=torch.float64)
        self.norm_S = query_QD.new_zeros(len(gallery_SD), dtype=torch.float32)
        self.half_square_S = self.norm_S.clone()
        self._for_tiles(self._measure)
        self.scale_S = 1 / self.norm_S

    def strips(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of the first query and the nearness (B, S) of each block.

        Nearness is the cosine similarity, or in a narrow cone its difference from a constant of the query. The caller
        may change the tensor; the next block overwrites it.
        """
        most = min(self.block, len(self.query_QD))
        held_BS = self.scale_S.new_empty(most, len(self.gallery_SD))
        for first in range(0, len(self.query_QD), self.block):
            query_BD = self._prepare(first)
            strip_BS = held_BS[: len(query_BD)]
            self._for_tiles(partial(self._fill, strip_BS, query_BD))
            yield first, strip_BS
            self.progress(len(strip_BS))

    def _prepare(self, first: int) -> Tensor:
        """Return a block of unit-length queries, or in a narrow cone their differences from the common vector."""
        rows_BD = self.query_QD[first : first + self.block]
        query_BD = torch.empty_like(rows_BD, dtype=torch.float32)
        # Groups of constant size, so that the bits do not depend on the number of threads.
        self.spread(partial(self._prepare_rows, query_BD, rows_BD, first), range(0, len(rows_BD), self.tile))
        return query_BD

    def _prepare_rows(self, query_BD: Tensor, rows_BD: Tensor, first: int, row: int) -> None:
        rows_ND, query_ND = rows_BD[row : row + self.tile], query_BD[row : row + self.tile]
        if self.common_D is None:
            torch.div(rows_ND.float(), norm(rows_ND.float()), out=query_ND)
            return
        norm_N1 = precise_norm(rows_ND.to(torch.promote_types(rows_ND.dtype, torch.float32)))
        differences(rows_ND, norm_N1, self.common_D, query_ND)
        half_square_N = half_square(query_ND, norm_N1)
        self.offset_Q[first + row : first + row + len(rows_ND)] = 1 - half_square_N.double().cpu()
        query_ND.div_(norm_N1)

    def _for_tiles(self, function: Callable[[Sequence[int]], None]) -> None:
        """Call `function` with a few tiles at a time, each given by the gallery index of its first item."""
        tiles = range(self.start // self.tile * self.tile, self.stop, self.tile) if len(self.gallery_SD) else range(0)
        self.spread(function, [tiles[n : n + RUN] for n in range(0, len(tiles), RUN)])

    def _measure(self, tiles: Sequence[int]) -> None:
        for first in tiles:
            here, columns = self._places(first)
            features_TD = self._features(first)
            if self.common_D is None:
                self.norm_S[here] = norm(features_TD).squeeze(1)[columns]
                continue
            norm_T1, half_square_T = measure(features_TD, self.common_D)
            self.norm_S[here] = norm_T1.squeeze(1)[columns]
            self.half_square_S[here] = half_square_T[columns]

    def _fill(self, strip_BS: Tensor, query_BD: Tensor, tiles: Sequence[int]) -> None:
        product_BT = query_BD.new_empty(len(query_BD), self.tile)
        difference_TD = None if self.common_D is None else query_BD.new_empty(self.tile, query_BD.shape[1])
        for first in tiles:
            here, columns = self._places(first)
            factor_TD = self._features(first)
            if self.common_D is not None:
                norm_T1 = factor_TD.new_ones(self.tile, 1)
                norm_T1[columns] = self.norm_S[here, None].to(factor_TD.dtype)
                factor_TD = differences(factor_TD, norm_T1, self.common_D, difference_TD)
            torch.mm(query_BD, factor_TD.T, out=product_BT)
            torch.mul(product_BT[:, columns], self.scale_S[here], out=strip_BS[:, here])
            if self.common_D is not None:
                strip_BS[:, here] -= self.half_square_S[here]

    def _places(self, first: int) -> tuple[slice, slice]:
        """Return the positions of the items that tile and slice share: in the slice, and in the tile."""
        low, high = max(first, self.start), min(first + self.tile, self.stop)
        return slice(low - self.start, high - self.start), slice(low - first, high - first)

    def _features(self, first: int) -> Tensor:
        """Return the features (T, D) of a tile in fp32, zero-padded so that every matrix product has the same shape.

        In a narrow cone, fp64 features stay fp64, because their further digits matter there.
        """
        here, columns = self._places(first)
        rows = self.gallery_SD[here]
        keeps = self.common_D is not None and rows.dtype == torch.float64
        dtype = torch.float64 if keeps else torch.float32
        alike = rows.device == self.query_QD.device and rows.dtype == dtype and rows.is_contiguous()
        if alike and len(rows) == self.tile and rows.data_ptr() % ALIGNMENT == 0:
            return rows
        tile_TD = self.query_QD.new_zeros(self.tile, rows.shape[1], dtype=dtype)
        tile_TD[columns] = rows
        return tile_TD


def _are_equal(matrix: Tensor) -> bool:
    """Return whether all values are equal; for most matrices, a look at the first row suffices."""
    first = matrix[0, 0]
    return bool((matrix[0] == first).all()) and bool((matrix == first).all())


def _greatest(matrix: Tensor) -> Tensor:
    return matrix.amax(dim=1) if matrix.shape[1] else matrix.new_full((len(matrix),), -torch.inf)


def _check_slice(query_BD: Tensor, gallery_SD: Tensor, start: int, total: int) -> None:
    if query_BD.ndim != 2 or gallery_SD.ndim != 2 or not query_BD.shape[1] == gallery_SD.shape[1] > 0:
        raise UserError(
            "features must be (items, dimensions) with equal dimensions, not "
            f"{tuple(query_BD.shape)} for queries and {tuple(gallery_SD.shape)} for the gallery"
        )
    stop = start + len(gallery_SD)
    if len(gallery_SD) and not 0 <= start < stop <= total:
        raise UserError(f"gallery slice [{start}, {stop}) lies outside a gallery of {total} items")
