"""Query expansion: replace a query by the weighted mean of itself and its nearest gallery features.

AQE (Chum et al., ICCV 2007) weighs all alike; alpha-QE (Radenovic et al., TPAMI 2019) weighs a gallery feature by its
cosine similarity to the query, to the power of alpha. Features have unit length, and so has the result. Items that the
protocol ignores for a query are not averaged: what the scores ignore must not help.

Shape suffixes: Q queries, B queries of a block, S gallery items of this rank, G gallery items, K averaged items, D
feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.matches import Flags, IndexPairs, Pairs, make_pairs
from mstat.evaluation.metric_inputs import numbers
from mstat.evaluation.metrics import Matrix
from mstat.evaluation.narrow_cone import norm
from mstat.evaluation.ranking import Progress, merge_top, silent, top_ranks

BYTES = 2**26  # most bytes of the gallery features of one block of queries


def expand_queries(
    query_features: Matrix,
    gallery_features: Matrix,
    num_nearest: int,
    alpha: float = 0.0,
    *,
    junk: Flags | None = None,
    ignored: IndexPairs | None = None,
) -> np.ndarray:
    """Expand queries by their nearest gallery features.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), arrays or tensors; need not be normalised.
        num_nearest: Number of gallery features that are averaged with a query, or all if the gallery has fewer.
        alpha: Exponent of the similarity that weighs them; 0 is AQE. A negative similarity counts as 0.
        junk: G flags of items that are not averaged, or None.
        ignored: (query index, gallery index) pairs that are not averaged, or None.

    Returns:
        (Q, D) fp32 of unit length, to be ranked in place of the queries.

    Raises:
        UserError: If shapes do not fit, features are not finite, or a parameter is out of range.
    """
    if isinstance(num_nearest, bool) or not isinstance(num_nearest, int | np.integer) or num_nearest < 1:
        raise UserError(f"num_nearest={num_nearest!r}: give a whole number of at least 1")
    if not 0 <= alpha < float("inf"):
        raise UserError(f"alpha={alpha!r}: give a number of at least 0")
    query_QD, gallery_GD = numbers("query features", query_features), numbers("gallery features", gallery_features)
    nobody = np.zeros(len(query_QD), np.int64), np.ones(len(gallery_GD), np.int64)
    pairs = make_pairs(nobody[0], nobody[0], nobody[1], nobody[1], junk=junk, same=ignored)
    return expanded(query_QD, gallery_GD, 0, pairs, int(num_nearest), alpha).cpu().numpy()


def expanded(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    num_nearest: int,
    alpha: float,
    *,
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    progress: Progress = silent,
) -> Tensor:
    """Return the expanded queries (Q, D), fp32 of unit length on their device, equal on every rank.

    Args:
        query_QD, gallery_SD, start, pairs, reduce, progress: As for `mstat.evaluation.ranking.rank_positives`.
        num_nearest, alpha: As for `expand_queries`.
        gather: Returns the value of every rank.
    """
    result_QD = torch.empty_like(query_QD, dtype=torch.float32)
    step = max(1, min(256, BYTES // (8 * max(1, num_nearest * query_QD.shape[1]))))
    for first in range(0, len(query_QD), step):
        query_BD = query_QD[first : first + step]
        rows = range(first, first + len(query_BD))
        tops = top_ranks(query_BD, rows, gallery_SD, start, pairs, num_nearest)
        similarity_BK, item_BK = merge_top(gather(tops), num_nearest)
        weight_BK = torch.where(item_BK < 0, 0, similarity_BK.clamp(min=0) ** alpha)
        total_BD = query_BD.double().cpu()
        total_BD = total_BD / norm(total_BD)
        for weight_B1, item_B in zip(weight_BK.T[..., None], item_BK.T, strict=True):
            here_B = (item_B >= start) & (item_B < start + len(gallery_SD))
            nearest_BD = torch.zeros_like(total_BD)
            nearest_BD[here_B] = gallery_SD[(item_B[here_B] - start).to(gallery_SD.device)].to(nearest_BD)
            nearest_BD = reduce(nearest_BD)
            total_BD += weight_B1 * (nearest_BD / norm(nearest_BD))
        result_QD[first : first + step] = total_BD / norm(total_BD)
        progress(len(query_BD))
    return result_QD
