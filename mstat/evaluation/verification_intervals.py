"""Bootstrap intervals of verification: TPR at each FPR and the equal error rate, over identities of queries.

Each resample chooses its thresholds anew, because a threshold that is found on few impostor pairs is uncertain itself.
So it needs the accepted pairs of each query identity at many thresholds. `candidates` picks about 1,400 of the
2 ** 20 thresholds of `mstat.evaluation.verification`: those of the scores, and others so dense that TPR changes by less
than 1/1024 and FPR by less than 4 % from one to the next, where similarities differ. A resample's TPR is too low by
less than that. `count_accepted` counts the pairs over slices of the gallery; memory grows with the identities (23 kB
each), not with the gallery.

Gallery and pairs of a query stay as they are: the interval is over other people as queries.

Shape suffixes: N bins, M candidate thresholds, Q queries, I identities, S gallery items of this rank, B queries of a
block, D feature dimensions, P true matches, R resamples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mstat.bootstrap import bounds, draw_counts
from mstat.evaluation.matches import Pairs
from mstat.evaluation.rank_counts import Block, groups, sort_rows
from mstat.evaluation.ranking import TILE, Progress, Search, silent
from mstat.evaluation.verification import FPRS, accepted
from mstat.numerics import spreading

TPR_STEPS = 1024
FPR_STEPS = 64  # in each factor of 10
LEAST_FPR = 1e-6


def candidates(genuine_N: Tensor, impostor_N: Tensor) -> Tensor:
    """Return thresholds for the resamples, (M,) ascending bin numbers; the first, 0, accepts all pairs.

    Args:
        genuine_N, impostor_N: Counts of pairs of one person and of two, both not empty.
    """
    tpr, fpr = (accepted(counts_N).double() / counts_N.sum() for counts_N in (genuine_N, impostor_N))
    decades = torch.logspace(0, np.log10(LEAST_FPR), int(-np.log10(LEAST_FPR)) * FPR_STEPS + 1, dtype=torch.float64)
    limits = torch.cat([decades, torch.tensor(FPRS, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    shares = torch.linspace(0, 1, TPR_STEPS + 1, dtype=torch.float64)
    # The corners of the ROC curve: the lowest threshold within each FPR, and the highest that keeps each TPR.
    chosen = [torch.searchsorted(-fpr, -limits), torch.searchsorted(-tpr, -shares, right=True) - 1]
    equal = (fpr - (1 - tpr)).abs().argmin()
    return torch.cat([equal.new_zeros(1), equal[None], *chosen]).unique()


def count_accepted(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    identity_Q: Tensor,
    thresholds_M: Tensor,
    num_bins: int,
    *,
    progress: Progress = silent,
    tile: int = TILE,
) -> Tensor:
    """Count the pairs of each identity's queries that each threshold accepts, over this rank's slice.

    Args:
        query_QD, gallery_SD, start, pairs, progress, tile: As for `mstat.evaluation.ranking.rank_positives`.
        identity_Q: Number of each query's identity, from 0.
        thresholds_M, num_bins: Thresholds as ascending numbers of bins, and the number of all bins.

    Returns:
        True matches and pairs of two identities, (2, I, M) int64 on the CPU. The sum over all slices is the result for
        the whole gallery.
    """
    num_identities = int(identity_Q.max()) + 1
    counts_2IM = torch.zeros(2, num_identities, len(thresholds_M), dtype=torch.long)
    # Similarity + 1, as `count_similarities` cuts it. -1 is the lowest one; only an ignored item is below.
    edge_M = thresholds_M.double() * (2 / num_bins)
    edge_M[thresholds_M == 0] = -1
    edge_M[thresholds_M >= num_bins] = torch.inf
    edge_M = edge_M.to(query_QD.device)

    with spreading(query_QD.device) as spread:
        search = Search(query_QD, gallery_SD, start, pairs.num_gallery, tile, spread, progress)
        for query, nearness_BS in search.strips():
            block = Block.of(pairs, query, nearness_BS, start)
            offset_B = search.offset_Q[query : query + len(nearness_BS)].to(nearness_BS.device)
            here = block.here_P()
            row_P, item_P = block.row_P[here], block.item_P[here] - start
            shifted_P = nearness_BS[row_P, item_P].double() + offset_B[row_P] + 1
            nearness_BS[row_P, item_P] = -torch.inf
            identity_B = identity_Q[query : query + len(nearness_BS)]
            _add_matches(counts_2IM[0], shifted_P.cpu(), identity_B[row_P.cpu()], edge_M.cpu())

            def count(rows: tuple[int, int], nearness_BS: Tensor = nearness_BS, offset_B: Tensor = offset_B) -> Tensor:
                shifted = sort_rows(nearness_BS[slice(*rows)]).double() + offset_B[slice(*rows), None] + 1
                below = torch.searchsorted(shifted, edge_M.expand(len(shifted), -1).contiguous())
                return (shifted.shape[1] - below).cpu()

            if len(gallery_SD):
                for (first, end), counts in zip(rows := groups(*nearness_BS.shape), spread(count, rows), strict=True):
                    counts_2IM[1].index_add_(0, identity_B[first:end], counts)
    return counts_2IM


def _add_matches(counts_IM: Tensor, shifted_P: Tensor, identity_P: Tensor, edge_M: Tensor) -> None:
    """Add the accepted true matches of each identity, given similarities + 1."""
    num_accepting_P = torch.searchsorted(edge_M, shifted_P, right=True)  # the lowest thresholds accept it
    width = len(edge_M) + 1
    cells = torch.bincount(identity_P * width + num_accepting_P, minlength=len(counts_IM) * width)
    counts_IM += cells.view(len(counts_IM), width).flip(1).cumsum(1).flip(1)[:, 1:]


def verification_intervals(accepted_2IM: Tensor, seed: int = 0) -> dict[str, list[float]]:
    """Return the 95 % percentile intervals of `tpr_at_<fpr>` and `eer` of `mstat.evaluation.verification`.

    Args:
        accepted_2IM: Result of `count_accepted`, summed over slices.

    Returns:
        By name, without FPRs that too few pairs show; empty if there are fewer than two identities.
    """
    genuine_IM, impostor_IM = accepted_2IM.double().numpy()
    if len(genuine_IM) < 2:
        return {}
    times_RI = draw_counts(len(genuine_IM), seed)
    # Whole numbers below 2 ** 53: these products are exact in any order of their sums.
    genuine_RM, impostor_RM = times_RI @ genuine_IM, times_RI @ impostor_IM
    has_both_R = (genuine_RM[:, 0] > 0) & (impostor_RM[:, 0] > 0)
    if not has_both_R.any():
        return {}
    tpr_RM, fpr_RM = (counts_RM[has_both_R] / counts_RM[has_both_R, :1] for counts_RM in (genuine_RM, impostor_RM))
    each_R, result = np.arange(len(tpr_RM)), {}
    for limit in FPRS:
        if impostor_IM[:, 0].sum() * limit >= 1:
            result[f"tpr_at_{limit:g}"] = bounds(tpr_RM[each_R, (fpr_RM > limit).sum(axis=1)])
    equal_R = np.abs(fpr_RM - (1 - tpr_RM)).argmin(axis=1)
    return {**result, "eer": bounds((fpr_RM[each_R, equal_R] + 1 - tpr_RM[each_R, equal_R]) / 2)}
