"""Exact search of features on disk: the nearest tracklets of each query, in flat memory.

Similarities are cosines, computed by the engine that ranks an evaluation (`mstat.evaluation.ranking`), so both find the
same order. Memory holds one block of similarities, at most 256 MiB unless 16 queries need more; the gallery's features
stay mapped from their file.

Shape suffixes: Q queries, G gallery items, D feature dimensions, K nearest items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.matches import Pairs
from mstat.evaluation.ranking import BLOCK, Progress, silent, top_ranks
from mstat.evaluation.saved_features import SavedFeatures


@dataclass(frozen=True)
class Hit:
    """A gallery tracklet that a search found.

    Attributes:
        rank: 1 is the nearest.
        row: Row in the features.
        index: Index in the data set.
        key, pid, camid: Labels of the tracklet.
        similarity: Cosine similarity to the query.
    """

    rank: int
    row: int
    index: int
    key: str
    pid: int
    camid: int
    similarity: float


@dataclass(frozen=True)
class Gallery:
    """Features that are searched.

    Attributes:
        saved: Result of `mstat.metrics.load_features`.
    """

    saved: SavedFeatures

    @cached_property
    def camids_G(self) -> np.ndarray:
        """Camera of each row."""
        camids: np.ndarray = self.saved.table["camid"].to_numpy()
        return camids

    def rows_of(self, keys: Sequence[str]) -> list[int]:
        """Return the rows of tracklets.

        Raises:
            UserError: If a key is not among the features.
        """
        column = self.saved.table["key"]
        rows = [pc.index(column, key).as_py() for key in keys]
        for key, row in zip(keys, rows, strict=True):
            if row < 0:
                raise UserError(f"{key}: no tracklet of the features has this key; the first is {column[0].as_py()}")
        return rows

    def search(
        self,
        query_QD: Tensor,
        top: int,
        *,
        cameras: Sequence[int] | None = None,
        threshold: float | None = None,
        itself: Sequence[int | None] = (),
        progress: Progress = silent,
    ) -> list[list[Hit]]:
        """Return the nearest tracklets of each query, nearest first.

        Args:
            query_QD: Comparable with the stored features, as `SavedFeatures.project` returns them.
            top: Most hits of a query.
            cameras: Cameras to search; None for all.
            threshold: Least cosine similarity of a hit; None for no limit. A query without a hit has an empty list.
            itself: Row of each query in the features, which is left out of its hits, or None if it is not among them;
                empty if no query is.
            progress: Called with numbers of queries that are done.

        Raises:
            UserError: If dimensions do not match, features are not finite, or a camera has no tracklet.
        """
        top = min(top, len(self.camids_G))  # `nearest` pads its lists
        similarity_QK, row_QK = self.nearest(query_QD, top, cameras=cameras, itself=itself, progress=progress)
        return [self._hits(*lists, threshold) for lists in zip(similarity_QK.tolist(), row_QK.tolist(), strict=True)]

    def nearest(
        self,
        query_QD: Tensor,
        k: int,
        *,
        cameras: Sequence[int] | None = None,
        itself: Sequence[int | None] = (),
        progress: Progress = silent,
    ) -> tuple[Tensor, Tensor]:
        """Return cosine similarities (Q, K) fp64 and rows (Q, K) int64, nearest first, padded with -inf and -1.

        Arguments and errors are those of `search`.
        """
        ignored_G = self.ignored(cameras)
        lists = []
        for first in range(0, len(query_QD), BLOCK):
            query_BD = query_QD[first : first + BLOCK]
            rows = itself[first : first + BLOCK]
            copies = [(place, row) for place, row in enumerate(rows) if row is not None]
            pairs = Pairs(
                num_query=len(query_BD),
                num_gallery=len(ignored_G),
                junk_G=ignored_G,
                positives_2P=torch.zeros(2, 0, dtype=torch.long),
                ignored_2I=torch.tensor(copies, dtype=torch.long).reshape(-1, 2).T,
            )
            lists.append(top_ranks(query_BD, range(len(query_BD)), self.saved.features_ND, 0, pairs, k))
            progress(len(query_BD))
        similarity_QK, row_QK = (torch.cat(parts) for parts in zip(*lists, strict=True))
        return similarity_QK, torch.where(similarity_QK > -torch.inf, row_QK, -1)

    def ignored(self, cameras: Sequence[int] | None) -> Tensor:
        """Return which rows (G,) are not of these cameras; none if `cameras` is None.

        Raises:
            UserError: If a camera has no tracklet.
        """
        if cameras is None:
            return torch.zeros(len(self.camids_G), dtype=torch.bool)
        if missing := [str(camera) for camera in cameras if not (self.camids_G == camera).any()]:
            known = ", ".join(map(str, np.unique(self.camids_G)[:20]))
            raise UserError(f"no tracklet is of camera {', '.join(missing)}; the features have {known}")
        return torch.from_numpy(~np.isin(self.camids_G, cameras))

    def _hits(self, similarities: Sequence[float], rows: Sequence[int], threshold: float | None) -> list[Hit]:
        least = -np.inf if threshold is None else threshold
        kept = [(value, row) for value, row in zip(similarities, rows, strict=True) if row >= 0 and value >= least]
        return [self.hit(rank, row, value) for rank, (value, row) in enumerate(kept, start=1)]

    def hit(self, rank: int, row: int, similarity: float) -> Hit:
        """Return a row of the features as a hit."""
        labels = self.saved.table.slice(row, 1).select(["index", "key", "pid", "camid"]).to_pylist()[0]
        return Hit(rank, row, **labels, similarity=similarity)
