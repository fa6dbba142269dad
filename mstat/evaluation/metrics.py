"""CMC, mAP and the other scores of a query, from the ranks of its true matches.

`mstat.evaluation.matches` has the protocol's rule, `mstat.evaluation.rank_counts` the counting.

Shape suffixes: Q queries, G gallery items, D feature dimensions, P (query, positive) pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.matches import Flags, IndexPairs, Labels, Pairs, check_length, make_pairs
from mstat.evaluation.metric_inputs import numbers, rank_numbers
from mstat.evaluation.narrow_cone import collapse, spread
from mstat.evaluation.ranking import rank_distances, rank_positives

NUM_CMC = 50  # length of the CMC curve
RANKS = (1, 5, 10, 20)
NoPositive = Literal["skip", "zero"]
Matrix = Sequence[Sequence[float]] | np.ndarray[Any, Any] | Tensor


@dataclass(frozen=True)
class Scores:
    """Scores of every query.

    Attributes:
        values_Q: fp64 by name (`MEANS`), 0 for a query without a positive. The score is the mean over queries.
        first_hit_Q: int64, rank of the nearest true match, 1 is best; 0 for a query without a positive.
        num_gallery: Number of gallery items without junk.
        fault: Warning that all features are nearly equal, or None.
    """

    values_Q: Mapping[str, Tensor]
    first_hit_Q: Tensor
    num_gallery: int
    fault: str | None = None

    @property
    def average_precision_Q(self) -> Tensor:
        """Mean of the precisions at the hits."""
        return self.values_Q["mAP"]

    def counted_Q(self, no_positive: NoPositive) -> Tensor:
        """Return which queries count: all (`zero`), or those with a positive (`skip`)."""
        has_positive_Q = self.first_hit_Q > 0
        return has_positive_Q if no_positive == "skip" else torch.ones_like(has_positive_Q)

    def hits_Q(self, k: int) -> Tensor:
        """Return which queries have a true match among the first k."""
        return (self.first_hit_Q > 0) & (self.first_hit_Q <= k)

    def summary(self, ranks: Sequence[int] = RANKS, no_positive: NoPositive = "skip") -> dict[str, Any]:
        """Return means, CMC and counts as plain numbers; scores are fractions.

        Args:
            ranks: Each k adds a key `rank<k>`.
            no_positive: A query without a positive is left out (`skip`) or counts as 0 (`zero`).

        Raises:
            UserError: If no query has a positive, a rank is not valid, or `no_positive` is another word.
        """
        ranks = rank_numbers(ranks)
        if no_positive not in ("skip", "zero"):
            raise UserError(f"no_positive={no_positive!r}: choose 'skip' or 'zero'")
        counted_Q = self.counted_Q(no_positive)
        if not counted_Q.any():
            raise UserError(
                f"none of {len(counted_Q)} queries has a match in the gallery that is not ignored, so nothing can be "
                "scored: check pids, camids and the protocol"
            )
        num_counted = int(counted_Q.sum())

        def cmc(k: int) -> float:
            return int(self.hits_Q(k).sum()) / num_counted

        return {
            **{name: float(values_Q.sum()) / num_counted for name, values_Q in self.values_Q.items()},
            **{f"rank{k}": cmc(k) for k in ranks},
            "num_query": len(counted_Q),
            "num_valid_query": int((self.first_hit_Q > 0).sum()),
            "num_gallery": self.num_gallery,
            "cmc": [cmc(k) for k in range(1, NUM_CMC + 1)],
        }


def score(pairs: Pairs, ranks_P: Tensor) -> Scores:
    """Score every query by the ranks of its true matches, which `rank_positives` returns for `pairs`."""
    order_P = (pairs.positives_2P[0] * (pairs.num_gallery + 1) + ranks_P).argsort()
    query_P, ranks_P = pairs.positives_2P[0, order_P], ranks_P[order_P]
    hits_P = torch.arange(len(query_P)) - torch.searchsorted(query_P, query_P) + 1  # hits of its query up to this one
    num_positives_Q = torch.bincount(query_P, minlength=pairs.num_query)
    first_hit_Q = torch.zeros(pairs.num_query, dtype=torch.long)
    first_hit_Q[query_P[hits_P == 1]] = ranks_P[hits_P == 1]
    hits = Hits(query_P, hits_P, ranks_P, num_positives_Q)
    return Scores({name: mean(hits) for name, mean in MEANS.items()}, first_hit_Q, int((~pairs.junk_G).sum()))


class Hits(NamedTuple):
    """True matches, sorted by query and rank.

    Attributes:
        query_P, rank_P: Query and rank of each.
        number_P: Its number among the true matches of its query, from 1.
        num_positives_Q: Number of true matches of each query.
    """

    query_P: Tensor
    number_P: Tensor
    rank_P: Tensor
    num_positives_Q: Tensor

    def mean_Q(self, values_P: Tensor) -> Tensor:
        """Return the mean over the true matches of each query; 0 for a query without one."""
        sum_Q = torch.zeros(len(self.num_positives_Q), dtype=torch.float64).index_add_(0, self.query_P, values_P)
        return sum_Q / self.num_positives_Q.clamp(min=1)


def average_precision(hits: Hits) -> Tensor:
    """Return the mean of the precisions at the true matches, as most codebases compute it."""
    return hits.mean_Q(hits.number_P.double() / hits.rank_P)


def trapezoidal_average_precision(hits: Hits) -> Tensor:
    """Return the area under precision over recall by the trapezoidal rule, as the MATLAB kit of MARS computes it.

    At each true match, the precision is the mean of those at its rank and at the rank before; before rank 1, it is 1
    (`compute_AP.m`, github.com/liangzheng06/MARS-evaluation).
    """
    before_P = torch.where(hits.rank_P > 1, (hits.number_P - 1).double() / (hits.rank_P - 1).clamp(min=1), 1.0)
    return hits.mean_Q((before_P + hits.number_P.double() / hits.rank_P) / 2)


def inverse_negative_penalty(hits: Hits) -> Tensor:
    """Return the number of true matches divided by the rank of the last one (Ye et al., TPAMI 2021, Eq. 3: INP)."""
    num_positives_P = hits.num_positives_Q[hits.query_P]
    last_P = hits.number_P == num_positives_P
    value_Q = torch.zeros(len(hits.num_positives_Q), dtype=torch.float64)
    value_Q[hits.query_P[last_P]] = num_positives_P[last_P].double() / hits.rank_P[last_P]
    return value_Q


# Scores that are means over queries. A new one is an entry here; files, intervals and means over splits follow.
MEANS = {
    "mAP": average_precision,
    "mINP": inverse_negative_penalty,
    "mAP_trapezoidal": trapezoidal_average_precision,
}


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
    query_outfits: Labels | None = None,
    gallery_outfits: Labels | None = None,
    ignore: str = "camera",
    ranks: Sequence[int] = RANKS,
    no_positive: NoPositive = "skip",
) -> dict[str, Any]:
    """Compute CMC and mAP in one process that holds all features, by the code that scores runs.

    A query ignores junk, its copies, and what `ignore` says of its own identity. Items are ranked by cosine similarity
    in fp32; of two equally similar items, the one with the lower gallery index is nearer.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), arrays or tensors; need not be normalised.
        query_pids, query_camids, gallery_pids, gallery_camids: Whole numbers along one axis, Q and G of them.
        junk: G flags, or None for no junk.
        same: (query index, gallery index) pairs that are copies of one tracklet, or None.
        query_outfits, gallery_outfits, ignore: As in `mstat.evaluation.matches.make_pairs`; by default, a query ignores
            its own identity from its own camera.
        ranks, no_positive: As in `Scores.summary`.

    Warns:
        UserWarning: If all features are nearly equal, so that the scores reflect the gallery's order.

    Returns:
        `mAP` and the other `MEANS`, `rank<k>`, `num_query`, `num_valid_query` (with a positive), `num_gallery`
        (without junk) and `cmc` (ranks 1 to 50); scores are fractions.

    Raises:
        UserError: If lengths do not match, labels are not whole numbers, features are not finite, or no query has a
            positive.
    """
    pairs = make_pairs(
        query_pids,
        query_camids,
        gallery_pids,
        gallery_camids,
        junk=junk,
        same=same,
        query_outfits=query_outfits,
        gallery_outfits=gallery_outfits,
        ignore=ignore,
    )
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
    query_outfits: Labels | None = None,
    gallery_outfits: Labels | None = None,
    ignore: str = "camera",
    ranks: Sequence[int] = RANKS,
    no_positive: NoPositive = "skip",
) -> dict[str, Any]:
    """Compute `cmc_map` from given distances, such as re-ranked ones.

    Args:
        distance: (Q, G), array or tensor; smaller is nearer. It is not modified.

    Raises:
        UserError: As `cmc_map`, or if distances are not finite.
    """
    pairs = make_pairs(
        query_pids,
        query_camids,
        gallery_pids,
        gallery_camids,
        junk=junk,
        same=same,
        query_outfits=query_outfits,
        gallery_outfits=gallery_outfits,
        ignore=ignore,
    )
    return score(pairs, rank_distances(numbers("distances", distance), pairs)).summary(ranks, no_positive)
