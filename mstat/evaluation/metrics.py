"""CMC and mAP from the ranks of the true matches.

`mstat.evaluation.matches` has the protocol's rule, `mstat.evaluation.rank_counts` the counting.

Shape suffixes: Q queries, G gallery items, D feature dimensions, P (query, positive) pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.matches import Flags, IndexPairs, Labels, Pairs, check_length, make_pairs
from mstat.evaluation.metric_inputs import numbers, rank_numbers
from mstat.evaluation.narrow_cone import collapse, spread
from mstat.evaluation.ranking import rank_distances, rank_positives

NUM_CMC = 50  # length of the CMC curve
Matrix = Sequence[Sequence[float]] | np.ndarray[Any, Any] | Tensor


@dataclass(frozen=True)
class Scores:
    """Scores of every query.

    Attributes:
        average_precision_Q: fp64, mean of the precisions at the hits; 0 for a query without a positive.
        first_hit_Q: int64, rank of the nearest true match, 1 is best; 0 for a query without a positive.
        num_gallery: Number of gallery items without junk.
        fault: Warning that all features are nearly equal, or None.
    """

    average_precision_Q: Tensor
    first_hit_Q: Tensor
    num_gallery: int
    fault: str | None = None

    def summary(
        self, ranks: Sequence[int] = (1, 5, 10, 20), no_positive: Literal["skip", "zero"] = "skip"
    ) -> dict[str, Any]:
        """Return mAP, CMC and counts as plain numbers; scores are fractions.

        Args:
            ranks: Each k adds a key `rank<k>`.
            no_positive: A query without a positive is left out (`skip`) or counts as 0 (`zero`).

        Raises:
            UserError: If no query has a positive, a rank is not valid, or `no_positive` is another word.
        """
        ranks = rank_numbers(ranks)
        if no_positive not in ("skip", "zero"):
            raise UserError(f"no_positive={no_positive!r}: choose 'skip' or 'zero'")
        valid_Q = self.first_hit_Q > 0
        counted_Q = valid_Q if no_positive == "skip" else torch.ones_like(valid_Q)
        if not counted_Q.any():
            raise UserError(
                f"none of {len(valid_Q)} queries has a match from another camera in the gallery, so nothing can be "
                "scored: check pids, camids and the protocol"
            )
        num_counted = int(counted_Q.sum())

        def cmc(k: int) -> float:
            return int((valid_Q & (self.first_hit_Q <= k)).sum()) / num_counted

        return {
            "mAP": float(self.average_precision_Q.sum()) / num_counted,
            **{f"rank{k}": cmc(k) for k in ranks},
            "num_query": len(valid_Q),
            "num_valid_query": int(valid_Q.sum()),
            "num_gallery": self.num_gallery,
            "cmc": [cmc(k) for k in range(1, NUM_CMC + 1)],
        }


def score(pairs: Pairs, ranks_P: Tensor) -> Scores:
    """Score every query by the ranks of its true matches, which `rank_positives` returns for `pairs`."""
    order_P = (pairs.positives_2P[0] * (pairs.num_gallery + 1) + ranks_P).argsort()
    query_P, ranks_P = pairs.positives_2P[0, order_P], ranks_P[order_P]
    hits_P = torch.arange(len(query_P)) - torch.searchsorted(query_P, query_P) + 1  # hits of its query up to this one
    num_positives_Q = torch.bincount(query_P, minlength=pairs.num_query)
    precision_sum_Q = torch.zeros(pairs.num_query, dtype=torch.float64).index_add_(
        0, query_P, hits_P.double() / ranks_P
    )
    first_hit_Q = torch.zeros(pairs.num_query, dtype=torch.long)
    first_hit_Q[query_P[hits_P == 1]] = ranks_P[hits_P == 1]
    return Scores(precision_sum_Q / num_positives_Q.clamp(min=1), first_hit_Q, int((~pairs.junk_G).sum()))


def cmc_map(
    query_features: Matrix,
    query_pids: Labels,
    query_camids: Labels,
    gallery_features: Matrix,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    junk: Flags | None = None,
    same: IndexPairs | None = None,
    ranks: Sequence[int] = (1, 5, 10, 20),
    no_positive: Literal["skip", "zero"] = "skip",
) -> dict[str, Any]:
    """Compute CMC and mAP in one process that holds all features, by the code that scores runs.

    A query ignores junk, its own identity from its own camera, and its copies. Items are ranked by cosine similarity in
    fp32; of two equally similar items, the one with the lower gallery index is nearer.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), arrays or tensors; need not be normalised.
        query_pids, query_camids, gallery_pids, gallery_camids: Whole numbers along one axis, Q and G of them.
        junk: G flags, or None for no junk.
        same: (query index, gallery index) pairs that are copies of one tracklet, or None.
        ranks, no_positive: As in `Scores.summary`.

    Warns:
        UserWarning: If all features are nearly equal, so that the scores reflect the gallery's order.

    Returns:
        `mAP`, `rank<k>`, `num_query`, `num_valid_query` (with a positive), `num_gallery` (without junk) and `cmc`
        (ranks 1 to 50); scores are fractions.

    Raises:
        UserError: If lengths do not match, labels are not whole numbers, features are not finite, or no query has a
            positive.
    """
    pairs = make_pairs(query_pids, query_camids, gallery_pids, gallery_camids, junk=junk, same=same)
    query_QD, gallery_GD = numbers("query features", query_features), numbers("gallery features", gallery_features)
    check_length("gallery features", gallery_GD, pairs.num_gallery)
    summary = score(pairs, rank_positives(query_QD, gallery_GD, 0, pairs)).summary(ranks, no_positive)
    if fault := collapse(max(spread(features, query_QD[0]) for features in (query_QD, gallery_GD))):
        warnings.warn(fault, stacklevel=2)
    return summary


def cmc_map_from_distances(
    distance: Matrix,
    query_pids: Labels,
    query_camids: Labels,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    junk: Flags | None = None,
    same: IndexPairs | None = None,
    ranks: Sequence[int] = (1, 5, 10, 20),
    no_positive: Literal["skip", "zero"] = "skip",
) -> dict[str, Any]:
    """Compute `cmc_map` from given distances, such as re-ranked ones.

    Args:
        distance: (Q, G), array or tensor; smaller is nearer. It is not modified.

    Raises:
        UserError: As `cmc_map`, or if distances are not finite.
    """
    pairs = make_pairs(query_pids, query_camids, gallery_pids, gallery_camids, junk=junk, same=same)
    return score(pairs, rank_distances(numbers("distances", distance), pairs)).summary(ranks, no_positive)
