"""Who is nearer: ranks of the true matches over a gallery that is sliced over ranks and never gathered.

CMC and mAP need, for each (query, positive) pair, only how many gallery items are nearer. Every rank knows all labels
and all query features, holds the features of one slice of the gallery, and counts for that slice; sums over the ranks
give the rest. All similarities come from one global grid of tiles of constant shape, so that a similarity, and with
it every score, is bitwise the same on any number of ranks and CPU threads of one kind of machine.

Order: cosine similarity, in fp32; of two equally similar items the one with the lower gallery index is nearer.

Shape suffixes: Q queries, B queries of one block, G gallery items, S those of this rank's slice, T items of a tile,
D feature dimensions, P positive pairs, I ignored pairs, C chunks of W positives of one query, K nearest items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mstat.pairs import Pairs, check_length

TILE = 256  # gallery items that are compared at a time; slices begin at multiples of it
BLOCK = 1024  # queries that are compared at a time
CHUNK = 16  # positives of a query that are looked up at a time


def gallery_slices(total: int, world_size: int, tile: int = TILE) -> list[tuple[int, int]]:
    """(start, stop) of each rank's slice of `total` gallery items: whole tiles, as even as they go, maybe none."""
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
    tile: int = TILE,
) -> Tensor:
    """Rank of each true match among its query's gallery, 1 the nearest, ignored items not counted.

    Holds one block x tile of similarities at a time. The similarities of the positives are computed by the ranks that
    hold them and summed (the others add zeros, which is exact); then each rank counts its items nearer than them.

    Args:
        query_QD: All queries, the same on every rank; the work is done on their device, in fp32.
        gallery_SD: Gallery items [start, start + S), on any device; S may be 0.
        start: Where the slice begins, from `gallery_slices`.
        pairs: Of `make_pairs`, the same on every rank.
        reduce: Sum of a tensor over ranks, given back to all of them; called equally often on every rank.
        tile: The same constant on any number of ranks.

    Returns:
        (P,) int64 on the CPU, in the order of `pairs.positives_2P`; the same on every rank.

    Raises:
        ValueError: if shapes do not fit, the slice is off the grid, or features are not finite.
    """
    check_length("query features", query_QD, pairs.num_query)
    _check_slice(query_QD, gallery_SD, start, pairs.num_gallery, tile)
    ranks = [torch.zeros(0, dtype=torch.long)]
    with _reproducible(query_QD.device):
        for first in range(0, pairs.num_query, BLOCK):
            block_BD = _normalise(query_QD[first : first + BLOCK].float())
            ignored_2I = _select(pairs.ignored_2I, first, first + BLOCK)
            grid = _Grid(block_BD, gallery_SD, start, tile, pairs.junk_G, ignored_2I)
            row_P, item_P = _select(pairs.positives_2P, first, first + BLOCK).to(query_QD.device)
            nearness_P = reduce(grid.look_up(row_P, item_P))
            ranks.append(reduce(grid.count_nearer(row_P, item_P, nearness_P)).cpu() + 1)
    return torch.cat(ranks)


def top_ranks(
    query_BD: Tensor, rows: Sequence[int], gallery_SD: Tensor, start: int, pairs: Pairs, k: int, *, tile: int = TILE
) -> tuple[Tensor, Tensor]:
    """The `k` nearest items of this rank's slice for a few queries; `merge_top` joins the slices' answers.

    Args:
        query_BD: Features of the chosen queries; `rows` are their query indices.
        gallery_SD, start, pairs, tile: As for `rank_positives`.

    Returns:
        Cosine similarity (B, k), and gallery index (B, k) int64, nearest first and ignored items left out, on the CPU;
        -inf and -1 fill up where the slice has fewer than `k`.

    Raises:
        ValueError: as `rank_positives`.
    """
    check_length("query features", query_BD, len(rows))
    _check_slice(query_BD, gallery_SD, start, pairs.num_gallery, tile)
    best = [(torch.full((len(rows), k), -torch.inf), torch.full((len(rows), k), -1))]
    with _reproducible(query_BD.device):
        row, which = (torch.as_tensor(rows)[:, None] == pairs.ignored_2I[0]).nonzero(as_tuple=True)
        ignored_2I = torch.stack([row, pairs.ignored_2I[1, which]])
        grid = _Grid(_normalise(query_BD.float()), gallery_SD, start, tile, pairs.junk_G, ignored_2I)
        for first in grid.tiles():
            similarity_BT = grid.comparable(first).cpu()
            item_BT = torch.arange(first, first + tile).expand_as(similarity_BT)
            best = [merge_top([*best, (similarity_BT, item_BT.masked_fill(similarity_BT == -torch.inf, -1))], k)]
    return best[0]


def extreme_similarities(
    query_QD: Tensor, gallery_SD: Tensor, start: int, pairs: Pairs, *, tile: int = TILE
) -> tuple[Tensor, Tensor]:
    """Cosine similarity of each true match, and of each query to the nearest item of another identity, in this slice.

    Arguments and errors are those of `rank_positives`.

    Returns:
        (P,) and (Q,) fp32 on the CPU, -inf where the slice has none: their maximum over the slices is the whole's.
    """
    check_length("query features", query_QD, pairs.num_query)
    _check_slice(query_QD, gallery_SD, start, pairs.num_gallery, tile)
    matches, others = [torch.zeros(0)], [torch.zeros(0)]
    with _reproducible(query_QD.device):
        for first in range(0, pairs.num_query, BLOCK):
            block_BD = _normalise(query_QD[first : first + BLOCK].float())
            ignored_2I = _select(pairs.ignored_2I, first, first + BLOCK)
            grid = _Grid(block_BD, gallery_SD, start, tile, pairs.junk_G, ignored_2I)
            row_P, item_P = _select(pairs.positives_2P, first, first + BLOCK).to(query_QD.device)
            match_P = block_BD.new_full((len(row_P),), -torch.inf)
            other_B = block_BD.new_full((len(block_BD),), -torch.inf)
            for place in grid.tiles():
                similarity_BT = grid.comparable(place)
                here = _between(item_P, place, place + tile)
                match_P[here] = similarity_BT[row_P[here], item_P[here] - place]
                similarity_BT[row_P[here], item_P[here] - place] = -torch.inf
                other_B = other_B.maximum(similarity_BT.amax(dim=1))
            matches.append(match_P.cpu())
            others.append(other_B.cpu())
    return torch.cat(matches), torch.cat(others)


def merge_top(tops: Sequence[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The `k` nearest of several lists of (similarity (B, n), gallery index (B, n)), in whatever order they come."""
    similarity, item = (torch.cat(parts, dim=1) for parts in zip(*tops, strict=True))
    by_item = item.argsort(dim=1, stable=True)
    similarity, item = similarity.gather(1, by_item), item.gather(1, by_item)
    nearest_BK = similarity.argsort(dim=1, descending=True, stable=True)[:, :k]
    return similarity.gather(1, nearest_BK), item.gather(1, nearest_BK)


class _Grid:
    """One block of queries, normalised, against this rank's slice of the gallery, a tile at a time.

    Tiles are named by the global index of their first item. `ignored_2I` counts queries from the block's first.
    """

    def __init__(
        self, query_BD: Tensor, gallery_SD: Tensor, start: int, tile: int, junk_G: Tensor, ignored_2I: Tensor
    ) -> None:
        self.query_BD, self.gallery_SD, self.start, self.tile = query_BD, gallery_SD, start, tile
        # Added to similarities: -inf for junk, and for what lies beyond the last item in a filled-up tile.
        skipped = F.pad(junk_G, (0, -len(junk_G) % tile), value=True)
        self.penalty = torch.zeros(len(skipped)).masked_fill_(skipped, -torch.inf).to(query_BD.device)
        self.ignored_2I = ignored_2I.to(query_BD.device)

    def tiles(self) -> range:
        return range(self.start, self.start + len(self.gallery_SD), self.tile)

    def similarity(self, first: int) -> Tensor:
        """Cosine similarities (B, T) of a tile, which is filled up with zeros: always the same matrix product."""
        rows = self.gallery_SD[first - self.start :][: self.tile]
        tile_TD = self.query_BD.new_zeros(self.tile, self.query_BD.shape[1])
        tile_TD[: len(rows)] = rows
        return self.query_BD @ _normalise(tile_TD).T

    def comparable(self, first: int) -> Tensor:
        """As `similarity`, with -inf for what is ignored."""
        similarity_BT = self.similarity(first).add_(self.penalty[first : first + self.tile])
        row, item = self.ignored_2I[:, _between(self.ignored_2I[1], first, first + self.tile)]
        similarity_BT[row, item - first] = -torch.inf
        return similarity_BT

    def look_up(self, row_P: Tensor, item_P: Tensor) -> Tensor:
        """Similarities (P,) of the pairs whose item lies in this slice; 0 for the others."""
        nearness_P = self.query_BD.new_zeros(len(row_P))
        for first in sorted({*self.tiles()} & {*(item_P // self.tile * self.tile).tolist()}):
            here = _between(item_P, first, first + self.tile)
            nearness_P[here] = self.similarity(first)[row_P[here], item_P[here] - first]
        return nearness_P

    def count_nearer(self, row_P: Tensor, item_P: Tensor, nearness_P: Tensor) -> Tensor:
        """How many items of this slice are nearer (P,) than the item of each pair, which has similarity `nearness_P`.

        A tile's rows are sorted once and every positive looked up in its row. Positives are ragged (one query of MARS
        has 207, the mean is 11), so they are laid out in chunks of W.
        """
        nth_P = torch.arange(len(row_P), device=row_P.device) - torch.searchsorted(row_P, row_P)
        opens_P, slot_P = nth_P % CHUNK == 0, nth_P % CHUNK
        row_C, chunk_P = row_P[opens_P], opens_P.cumsum(0) - 1
        below_P = nearness_P.nextafter(nearness_P.new_tensor(-torch.inf))
        edge_CW = nearness_P.new_full((len(row_C), CHUNK), torch.inf)
        nearer_P = torch.zeros_like(item_P)
        for first in self.tiles():
            end = first + self.tile
            similarity_BT = self.comparable(first)
            # An equal item of an earlier tile is nearer, one of a later tile is not; in the same tile look closely.
            edge_CW[chunk_P, slot_P] = below_P.where(item_P >= end, nearness_P)
            not_nearer_CW = torch.searchsorted(_sort_rows(similarity_BT)[row_C], edge_CW, right=True)
            nearer_P += self.tile - not_nearer_CW[chunk_P, slot_P]
            here = _between(item_P, first, end)
            equal_XT = similarity_BT[row_P[here]] == nearness_P[here, None]
            earlier_XT = torch.arange(first, end, device=item_P.device) < item_P[here, None]
            nearer_P[here] += (equal_XT & earlier_XT).sum(dim=1)
        return nearer_P


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, torch computes with one thread meanwhile.

    BLAS cuts matrix products by the number of threads, and so rounds; and how many threads a process has depends on
    how many processes there are.
    """
    num_threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(num_threads)


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """fp32, no graph, and one CPU thread."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False), one_thread(device):
        yield


def _between(index: Tensor, first: int, end: int) -> Tensor:
    return ((index >= first) & (index < end)).nonzero().squeeze(1)


def _select(pairs_2N: Tensor, first: int, end: int) -> Tensor:
    """Pairs of the queries [first, end), these counted from 0."""
    return pairs_2N[:, _between(pairs_2N[0], first, end)] - torch.tensor([[first], [0]])


def _sort_rows(matrix: Tensor) -> Tensor:
    if matrix.device.type == "cpu":  # torch sorts indices along; numpy's vectorised sort is 20 times faster
        return torch.from_numpy(np.sort(matrix.numpy(), axis=1))
    return matrix.sort(dim=1).values


def _normalise(features_ND: Tensor) -> Tensor:
    norm_N1 = torch.linalg.vector_norm(features_ND, dim=1, keepdim=True)
    if not norm_N1.isfinite().all():
        raise ValueError("features are not finite: embed these tracklets again and look for inf or NaN in the weights")
    return features_ND / norm_N1.clamp(min=1e-12)


def _check_slice(query_BD: Tensor, gallery_SD: Tensor, start: int, total: int, tile: int) -> None:
    if query_BD.ndim != 2 or gallery_SD.ndim != 2 or query_BD.shape[1] != gallery_SD.shape[1]:
        raise ValueError(
            f"features must be (items, dimensions) of one width, not {tuple(query_BD.shape)} for queries and "
            f"{tuple(gallery_SD.shape)} for the gallery"
        )
    stop = start + len(gallery_SD)
    if len(gallery_SD) and (stop > total or start % tile or (stop % tile and stop != total)):
        raise ValueError(
            f"gallery slice [{start}, {stop}) of {total} items is off the grid of {tile}: take it from gallery_slices"
        )
