"""Nearest neighbours of all items among all items, and distances of chosen pairs, over a gallery sliced over ranks.

Items are all queries, followed by the gallery. The features of one block of items go to every rank at a time; each
rank searches its slice of the gallery and its share of the queries, on the grid of tiles of
`mstat.evaluation.ranking`, and the lists are merged. So memory holds one block of features and of similarities, and
lists have the same bits on any number of ranks. Distances are squared Euclidean ones of unit-length features,
2 - 2 cosine.

Shape suffixes: Q queries, S gallery items of this rank, N = Q + G items, B items of a block, D feature dimensions, K
nearest items, M pairs, T pairs of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mstat.evaluation.narrow_cone import SHORTEST, precise_norm
from mstat.evaluation.ranking import BLOCK, TILE, Progress, Search, merge_top, silent
from mstat.evaluation.selection import greatest
from mstat.numerics import Spread, at_least_fp32, spreading

PAIRS = 64  # pairs whose distances are computed at a time; constant, so that sums have the same order


class Lists(NamedTuple):
    """Nearest neighbours of all items, equal on every rank.

    Attributes:
        item_NK: int32, nearest first; of two equally near items, the one with the lower index.
        square_NK: fp32, their squared distances.
        largest_N: fp32, squared distance of each item's farthest item; 1 where all are equal.
    """

    item_NK: np.ndarray
    square_NK: np.ndarray
    largest_N: np.ndarray


@dataclass(frozen=True)
class Items:
    """Features of the items that are compared with each other.

    Attributes:
        query_QD: All queries, equal on every rank; their device does the work.
        gallery_SD: Gallery items [start, start + S), on any device; S may be 0.
        num_gallery: G.
        share: First and end of the queries that this rank searches; the shares of all ranks are all queries, in tiles.
        reduce: Sums a tensor over ranks and returns the sum on each.
        gather: Returns the value of every rank.
        progress: Called by `nearest` after each block, with its number of items.
    """

    query_QD: Tensor
    gallery_SD: Tensor
    start: int
    num_gallery: int
    share: tuple[int, int]
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor
    gather: Callable[[Any], list[Any]] = lambda value: [value]
    progress: Progress = silent

    @property
    def num_items(self) -> int:
        return len(self.query_QD) + self.num_gallery

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the index of the first item and the features (B, D), fp32 or fp64, of each block, on every rank."""
        num_query = len(self.query_QD)
        for first in range(0, num_query, BLOCK):
            yield first, at_least_fp32(self.query_QD[first : first + BLOCK])
        for first in range(0, self.num_gallery, BLOCK):
            end = min(first + BLOCK, self.num_gallery)
            low, high = (min(max(edge - self.start, 0), len(self.gallery_SD)) for edge in (first, end))
            dtype = torch.promote_types(self.gallery_SD.dtype, torch.float32)
            block_BD = torch.zeros(end - first, self.query_QD.shape[1], dtype=dtype)
            block_BD[low + self.start - first :][: high - low] = self.gallery_SD[low:high]
            yield num_query + first, self.reduce(block_BD).to(self.query_QD.device)

    def nearest(self, k: int) -> Lists:
        """Return the `k` nearest items of each item, or all N if they are fewer.

        Raises:
            UserError: If shapes do not fit or features are not finite.
        """
        k = min(k, self.num_items)
        item_NK = np.empty((self.num_items, k), np.int32)
        square_NK = np.empty((self.num_items, k), np.float32)
        largest_N = np.empty(self.num_items, np.float32)
        for first, block_BD in self.blocks():
            rows = slice(first, first + len(block_BD))
            with spreading(block_BD.device) as spread:
                parts = [self._search(block_BD, k, spread, of_gallery) for of_gallery in (False, True)]
            offset_B = parts[0][3]  # equal in all parts
            gathered = [part[:3] for of_rank in self.gather([part[:3] for part in parts]) for part in of_rank]
            nearness_BK, item_BK = merge_top([part[:2] for part in gathered], k)
            least_B = torch.stack([part[2] for part in gathered]).amin(0)
            item_NK[rows] = item_BK
            square_NK[rows] = squared(nearness_BK, offset_B[:, None]).clamp(min=0)  # rounding makes it negative
            largest_N[rows] = squared(least_B, offset_B)
            self.progress(len(block_BD))
        return Lists(item_NK, square_NK, np.where(largest_N > 0, largest_N, np.float32(1)))

    def _search(
        self, block_BD: Tensor, k: int, spread: Spread, of_gallery: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Search this rank's queries or gallery items for a block.

        Returns:
            Nearness (B, k) fp32 and index (B, k) of the nearest, least nearness (B,) fp32, and `Search.offset_Q` (B,).
        """
        num_query = len(self.query_QD)
        if of_gallery:
            search = Search(block_BD, self.gallery_SD, self.start, self.num_gallery, TILE, spread)
        else:
            first, end = self.share
            search = Search(block_BD, self.query_QD[first:end], first, num_query, TILE, spread)
        tops, least = [], []
        for _, nearness_BS in search.strips():
            tops.append(greatest(nearness_BS, k, spread))
            absent = nearness_BS.new_full((len(nearness_BS),), torch.inf)
            least.append((nearness_BS.amin(dim=1) if nearness_BS.shape[1] else absent).cpu())
        nearness_BK, place_BK = (torch.cat(parts) for parts in zip(*tops, strict=True))
        base = search.start + num_query * of_gallery
        item_BK = torch.where(place_BK < 0, -1, place_BK + base)
        return nearness_BK, item_BK, torch.cat(least), search.offset_Q

    def squares(self, row_M: np.ndarray, column_M: np.ndarray) -> np.ndarray:
        """Return the squared distance (M,) fp32 of each pair of items (row, column), on every rank.

        Args:
            row_M: In ascending order.
        """
        square_M = torch.zeros(len(row_M))
        num_query = len(self.query_QD)
        kinds = (
            (self.query_QD, 0, *self.share),
            (self.gallery_SD, num_query + self.start, 0, len(self.gallery_SD)),
        )
        for first, block_BD in self.blocks():
            low, high = np.searchsorted(row_M, [first, first + len(block_BD)])
            with spreading(block_BD.device) as spread:
                for features, base, begin, end in kinds:
                    column = column_M[low:high] - base
                    here = np.flatnonzero((column >= begin) & (column < end))
                    tiles = [here[n : n + PAIRS] for n in range(0, len(here), PAIRS)]
                    sides = (block_BD, row_M[low:high] - first, features, column)
                    spread(partial(_pair_squares, square_M[low:high], *sides), tiles)
        return self.reduce(square_M).numpy()


def squared(nearness: Tensor, offset: Tensor) -> Tensor:
    """Return the squared distance, fp64, of a nearness and the offset of its query (`Search.strips`)."""
    return 2 * (1 - offset.to(nearness.device) - nearness.double())


def _pair_squares(
    square_M: Tensor, rows_BD: Tensor, row_M: np.ndarray, columns_SD: Tensor, column_M: np.ndarray, pairs: np.ndarray
) -> None:
    """Write the squared distances of some pairs; a zero feature has cosine 0 to all, as in `Search`."""
    sides = []
    for features, index_M in ((rows_BD, row_M), (columns_SD, column_M)):
        side_TD = rows_BD.new_zeros(PAIRS, rows_BD.shape[1])
        side_TD[: len(pairs)] = features[torch.from_numpy(index_M[pairs])].to(side_TD)
        norm_T1 = precise_norm(side_TD)
        sides.append((side_TD / norm_T1, (norm_T1 <= SHORTEST).squeeze(1).float()))
    (row_TD, no_row_T), (column_TD, no_column_T) = sides
    square_T = (row_TD - column_TD).square().sum(dim=1) + no_row_T + no_column_T
    square_M[torch.from_numpy(pairs)] = square_T[: len(pairs)].float().cpu()
