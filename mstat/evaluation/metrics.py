"""CMC and mAP from the ranks of the true matches: `matches` has the protocol's rule, `rank_counts` the counting.

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
        average_precision_Q: fp64, plain mean of the precisions at the hits; 0 for a query without a positive.
        first_hit_Q: int64, rank of the nearest true match, 1 the best; 0 for a query without a positive.
        num_gallery: Items searched, junk not counted.
        fault: What is wrong with the features, where they are all alike.
    """

    average_precision_Q: Tensor
    first_hit_Q: Tensor
    num_gallery: int
    fault: str | None = None

    def summary(
        self, ranks: Sequence[int] = (1, 5, 10, 20), no_positive: Literal["skip", "zero"] = "skip"
    ) -> dict[str, Any]:
        """mAP, CMC and counts in plain numbers, scores as fractions.

        Args:
            ranks: Each k gives a key `rank<k>`.
            no_positive: A query without a positive is left out (`skip`) or counts 0 (`zero`).

        Raises:
            UserError: If no query counts, a rank is none, or `no_positive` is another word.
        """
        ranks = rank_numbers(ranks)
        if no_positive not in ("skip", "zero"):
            raise UserError(f"no_positive={no_positive!r}: choose 'skip' or 'zero'")
        valid_Q = self.first_hit_Q > 0
        counted_Q = valid_Q if no_positive == "skip" else torch.ones_like(valid_Q)
        if not counted_Q.any():
            raise UserError(
                f"none of {len(valid_Q)} queries has a match of its identity by another camera in the gallery: "
                "nothing can be scored; look at pids, camids and the protocol"
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
    """Scores of every query from its true matches' ranks, as `rank_positives` gives them for `pairs`."""
    order_P = (pairs.positives_2P[0] * (pairs.num_gallery + 1) + ranks_P).argsort()
    query_P, ranks_P = pairs.positives_2P[0, order_P], ranks_P[order_P]
    hits_P = torch.arange(len(query_P)) - torch.searchsorted(query_P, query_P) + 1  # of its query, up to this one
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
    """CMC and mAP of one process that holds all features; the same path as on many ranks.

    Ignored for a query: junk, its own identity in its own camera, its copies. Nearness is cosine similarity in fp32;
    of two equally similar items the one with the lower gallery index is nearer.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), arrays or tensors; normalised inside.
        query_pids, query_camids, gallery_pids, gallery_camids: Whole numbers along one axis, Q and G of them.
        junk: G flags, or None for no junk.
        same: (query index, gallery index) pairs that are copies of one tracklet, or None.
        ranks, no_positive: As in `Scores.summary`.

    Warns where all features are alike: the scores are then those of the gallery's order.

    Returns:
        `mAP`, `rank<k>`, `num_query`, `num_valid_query` (with a positive), `num_gallery` (junk not counted) and `cmc`,
        ranks 1 to 50; scores as fractions.

    Raises:
        UserError: If lengths that must match do not, labels are no whole numbers, features are not finite, or no query
            has a positive.
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
    """`cmc_map` by distances that somebody else has computed, re-ranked ones for instance.

    Args:
        distance: (Q, G), array or tensor; less is nearer. It is not changed.

    Raises:
        UserError: As `cmc_map`, or if distances are not finite.
    """
    pairs = make_pairs(query_pids, query_camids, gallery_pids, gallery_camids, junk=junk, same=same)
    return score(pairs, rank_distances(numbers("distances", distance), pairs)).summary(ranks, no_positive)
