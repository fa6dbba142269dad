"""Bootstrap intervals of scores: how far a score could be off because other people might have been tested.

Queries of one identity are not independent: they show the same person. So identities are drawn, each with all its
queries (Field and Welsh 2007: the cluster bootstrap).

Shape suffixes: Q queries, I identities, V scores.
"""

from __future__ import annotations

import numpy as np

from mstat.evaluation.metrics import RANKS, NoPositive, Scores

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)


def intervals(
    scores: Scores, pids_Q: np.ndarray, no_positive: NoPositive = "skip", seed: int = 0
) -> dict[str, list[float]]:
    """Return the 95 % percentile interval [low, high] of each mean and each rank-k score.

    Draws depend on `seed` and the number of identities, and sums run in a fixed order on one thread: the result has the
    same bits on any number of processes.

    Args:
        pids_Q: Identity of each query.

    Returns:
        By the names of `Scores.summary`, as fractions; empty if fewer than two identities have a query that counts.
    """
    counted_Q = scores.counted_Q(no_positive).numpy()
    values_Q = {name: values.numpy() for name, values in scores.values_Q.items()}
    values_Q |= {f"rank{k}": scores.hits_Q(k).double().numpy() for k in RANKS}
    identities_I, identity_Q = np.unique(pids_Q[counted_Q], return_inverse=True)
    if len(identities_I) < 2:
        return {}
    columns = [np.ones(counted_Q.sum()), *(values[counted_Q] for values in values_Q.values())]
    sums_IV = np.stack([np.bincount(identity_Q, weights=column) for column in columns], axis=1)
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(len(sums_IV), size=len(sums_IV)) for _ in range(RESAMPLES))
    totals_V = np.stack([sums_IV[chosen].sum(axis=0) for chosen in drawn])
    bounds_V = np.percentile(totals_V[:, 1:] / totals_V[:, :1], PERCENTILES, axis=0).T
    return dict(zip(values_Q, bounds_V.tolist(), strict=True))
