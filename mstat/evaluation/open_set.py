"""Open-set identification: whether the person of a query is in the gallery at all, and if so, who it is.

A share of the query identities is taken out of the gallery. Their queries are nonmated probes: whoever is named, it is
wrong. Queries of the others that have a true match are mated probes. A probe is answered with its nearest gallery item
if their cosine similarity is at least a threshold, and rejected otherwise (Grother, Ngan and Hanaoka, NISTIR 8271;
Phillips, Grother and Micheals, Handbook of Face Recognition):

    FPIR   share of nonmated probes that are answered
    DIR    share of mated probes that are answered with a true match (detection and identification rate at rank 1)

Only one number for each query is needed, the similarity of its nearest item. It is found over slices of the gallery as
in `mstat.evaluation.ranking`, and equally exact.

Shape suffixes: Q queries, S gallery items of this rank, G gallery items, D feature dimensions, M mated probes that are
right without a threshold, N nonmated probes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mstat.bootstrap import bounds, draw_counts
from mstat.evaluation.matches import Pairs
from mstat.evaluation.rank_counts import Block
from mstat.evaluation.ranking import TILE, Progress, Search, merge_top, silent
from mstat.numerics import spreading

SHARE = 0.5  # of the query identities that are taken out of the gallery
FPIRS = (1e-1, 1e-2)


def open_set(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    seed: int,
    *,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    progress: Progress = silent,
    tile: int = TILE,
) -> dict[str, Any]:
    """Take identities out of the gallery, search it, and return `identification`.

    Args:
        query_QD, gallery_SD, start, pairs, progress, tile: As for `mstat.evaluation.ranking.rank_positives`.
        query_pids, gallery_pids: Q and G integers.
        seed: Seed of the identities that are taken out and of the intervals.
        gather: Returns the value of every rank, in rank order. Every rank calls it equally often.
    """
    removed = removed_pids(query_pids, seed)
    removed_Q, removed_G = (torch.from_numpy(np.isin(pids, removed)) for pids in (query_pids, gallery_pids))
    kept_2P = pairs.positives_2P[:, ~removed_Q[pairs.positives_2P[0]]]
    left = replace(pairs, junk_G=pairs.junk_G | removed_G, positives_2P=kept_2P)
    similarity_Q, item_Q = nearest_items(query_QD, gallery_SD, start, left, gather=gather, progress=progress, tile=tile)
    mated_Q = torch.bincount(kept_2P[0], minlength=pairs.num_query) > 0
    pair_Q = torch.arange(pairs.num_query) * pairs.num_gallery + item_Q
    correct_Q = mated_Q & torch.isin(pair_Q, kept_2P[0] * pairs.num_gallery + kept_2P[1])
    nearest = similarity_Q.numpy(), mated_Q.numpy(), correct_Q.numpy(), removed_Q.numpy()
    return {"num_removed": len(removed), **identification(*nearest, query_pids, seed)}


def removed_pids(query_pids: np.ndarray, seed: int) -> np.ndarray:
    """Draw the share of the query identities that is taken out of the gallery."""
    people = np.unique(query_pids)
    return np.random.default_rng(seed).permutation(people)[: int(SHARE * len(people))]


def nearest_items(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    *,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
    progress: Progress = silent,
    tile: int = TILE,
) -> tuple[Tensor, Tensor]:
    """Find each query's nearest gallery item that is not ignored; of equal ones, that with the lower index.

    Arguments are those of `open_set`, errors those of `mstat.evaluation.ranking.rank_positives`.

    Returns:
        Cosine similarity (Q,) fp64 and gallery index (Q,) int64 on the CPU, equal on every rank; -inf and -1 for a
        query that ignores the whole gallery.
    """
    nearness_Q = torch.full((len(query_QD),), -torch.inf)
    item_Q = torch.full((len(query_QD),), -1)
    with spreading(query_QD.device) as spread:
        search = Search(query_QD, gallery_SD, start, pairs.num_gallery, tile, spread, progress)
        for query, nearness_BS in search.strips():
            if not len(gallery_SD):
                continue  # `strips` completes the offsets
            Block.of(pairs, query, nearness_BS, start)  # ignored items become -inf
            nearest_B, place_B = nearness_BS.max(dim=1)  # the first of equal ones
            nearness_Q[query : query + len(nearest_B)] = nearest_B.cpu()
            item_Q[query : query + len(nearest_B)] = torch.where(nearest_B > -torch.inf, place_B + start, -1).cpu()
    # Offsets are added last: a sum could make two items equal that differ.
    nearness_Q1, item_Q1 = merge_top(gather((nearness_Q[:, None], item_Q[:, None])), 1)
    return nearness_Q1[:, 0].double() + search.offset_Q, item_Q1[:, 0]


def identification(
    similarity_Q: np.ndarray,
    mated_Q: np.ndarray,
    correct_Q: np.ndarray,
    nonmated_Q: np.ndarray,
    pids_Q: np.ndarray,
    seed: int = 0,
) -> dict[str, Any]:
    """Return DIR at each FPIR of `FPIRS` from the nearest item of each probe.

    Args:
        similarity_Q: Similarity of the nearest item, -inf without one.
        mated_Q, nonmated_Q: Kinds of the probes; a query may be neither.
        correct_Q: Mated probes whose nearest item is a true match.
        pids_Q: Identity of each query.

    Returns:
        For each FPIR, `dir_at_<fpir>` and `threshold_at_<fpir>`: the largest DIR of all thresholds whose FPIR is not
        larger, and the lowest such threshold. None where too few nonmated probes show an FPIR (fewer than 1 / FPIR),
        or without mated ones. `num_mated`, `num_nonmated`: probes. `intervals`: of each DIR, over identities; mated
        and nonmated ones are drawn apart, each resample has a threshold of its own, and the gallery stays.
    """
    probes = _Probes.of(similarity_Q, mated_Q, correct_Q, nonmated_Q, pids_Q)
    num_mated, num_nonmated = int(mated_Q.sum()), int(nonmated_Q.sum())
    result: dict[str, Any] = {"num_mated": num_mated, "num_nonmated": num_nonmated}
    seen = [limit for limit in FPIRS if num_mated and num_nonmated and 1 / num_nonmated <= limit]
    rates = probes.rates(np.ones(probes.num_mated_pids), np.ones(probes.num_nonmated_pids)) if seen else []
    for place, limit in enumerate(FPIRS):
        share, threshold = rates[place] if limit in seen else (None, None)
        result |= {f"dir_at_{limit:g}": share, f"threshold_at_{limit:g}": threshold}
    intervals = {}
    if seen and min(probes.num_mated_pids, probes.num_nonmated_pids) > 1:
        # Seeds of their own: equal draws of both kinds would not be independent.
        counts = draw_counts(probes.num_mated_pids, (seed, 1)), draw_counts(probes.num_nonmated_pids, (seed, 2))
        resampled = np.array([[share for share, _ in probes.rates(*both)] for both in zip(*counts, strict=True)])
        intervals = {f"dir_at_{limit:g}": bounds(resampled[:, FPIRS.index(limit)]) for limit in seen}
    return {**result, "intervals": intervals}


@dataclass(frozen=True)
class _Probes:
    """Probes by falling similarity, and the identity of each as a number among those of its kind.

    Attributes:
        mated_per_pid: Number of mated probes of each mated identity.
    """

    correct_M: np.ndarray
    correct_pid_M: np.ndarray
    mated_per_pid: np.ndarray
    nonmated_N: np.ndarray
    nonmated_pid_N: np.ndarray

    @classmethod
    def of(
        cls, similarity_Q: np.ndarray, mated_Q: np.ndarray, correct_Q: np.ndarray, nonmated_Q: np.ndarray, pids_Q: Any
    ) -> _Probes:
        order_Q = np.argsort(-similarity_Q, kind="stable")
        similarity_Q, mated_Q, correct_Q, nonmated_Q, pids_Q = (
            values[order_Q] for values in (similarity_Q, mated_Q, correct_Q, nonmated_Q, pids_Q)
        )
        mated_pids, mated_per_pid = np.unique(pids_Q[mated_Q], return_counts=True)
        return cls(
            correct_M=similarity_Q[correct_Q],
            correct_pid_M=np.searchsorted(mated_pids, pids_Q[correct_Q]),
            mated_per_pid=mated_per_pid,
            nonmated_N=similarity_Q[nonmated_Q],
            nonmated_pid_N=np.unique(pids_Q[nonmated_Q], return_inverse=True)[1],
        )

    @property
    def num_mated_pids(self) -> int:
        return len(self.mated_per_pid)

    @property
    def num_nonmated_pids(self) -> int:
        return int(self.nonmated_pid_N.max(initial=-1)) + 1

    def rates(self, times_mated: np.ndarray, times_nonmated: np.ndarray) -> list[tuple[float, float | None]]:
        """Return DIR and threshold at each FPIR if each identity is there so many times (whole numbers)."""
        answered_N = times_nonmated[self.nonmated_pid_N].cumsum()
        fpir_N = answered_N / answered_N[-1]
        hits_M = np.concatenate([[0.0], times_mated[self.correct_pid_M].cumsum()])
        num_mated = float(times_mated @ self.mated_per_pid)
        result = []
        for limit in FPIRS:
            # The most similar probe that must be rejected; all that are as similar are rejected with it.
            rejected = self.nonmated_N[np.searchsorted(fpir_N, limit, side="right")]
            share = hits_M[np.searchsorted(-self.correct_M, -rejected, side="left")] / num_mated
            threshold = float(np.nextafter(rejected, np.inf)) if rejected > -np.inf else None
            result.append((float(share), threshold))
        return result
