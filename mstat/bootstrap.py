"""The cluster bootstrap: how far a score could be off because other people might have been tested.

Queries of one identity are not independent: they show the same person. So identities are drawn, each with all its
queries (Field and Welsh 2007). Draws depend on a seed and the number of identities, and sums run in a fixed order on
one thread or are exact: an interval has the same bits on any number of processes.

Shape suffixes: Q queries, I identities, V scores, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
Seed = int | Sequence[int]


def draws(num_identities: int, seed: Seed) -> Iterator[np.ndarray]:
    """Yield the identities of each resample: as many as there are, drawn with replacement."""
    generator = np.random.default_rng(seed)
    return (generator.integers(num_identities, size=num_identities) for _ in range(RESAMPLES))


def draw_counts(num_identities: int, seed: Seed) -> np.ndarray:
    """Return how often each resample of `draws` has each identity, (R, I) fp64."""
    counts = [np.bincount(chosen, minlength=num_identities) for chosen in draws(num_identities, seed)]
    return np.stack(counts).astype(np.float64)


def bounds(values_R: np.ndarray) -> list[float]:
    """Return the 95 % percentile interval [low, high] of a score's resamples."""
    return np.percentile(values_R, PERCENTILES).tolist()


def mean_intervals(values_Q: Mapping[str, np.ndarray], pids_Q: np.ndarray, seed: Seed = 0) -> dict[str, list[float]]:
    """Return the 95 % percentile interval [low, high] of the mean of each column over queries.

    Args:
        values_Q: fp64 by name.
        pids_Q: Identity of each query.

    Returns:
        By name; empty if there are fewer than two identities.
    """
    identities_I, identity_Q = np.unique(pids_Q, return_inverse=True)
    if len(identities_I) < 2 or not values_Q:
        return {}
    columns = [np.ones(len(pids_Q)), *values_Q.values()]
    sums_IV = np.stack([np.bincount(identity_Q, weights=column) for column in columns], axis=1)
    totals_RV = np.stack([sums_IV[chosen].sum(axis=0) for chosen in draws(len(identities_I), seed)])
    return {name: bounds(totals_RV[:, place] / totals_RV[:, 0]) for place, name in enumerate(values_Q, 1)}
