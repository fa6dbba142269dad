"""Bootstrap intervals of the scores of ranking."""

from __future__ import annotations

import numpy as np

from mstat.bootstrap import mean_intervals
from mstat.evaluation.metrics import RANKS, NoPositive, Scores


def intervals(
    scores: Scores, pids_Q: np.ndarray, no_positive: NoPositive = "skip", seed: int = 0
) -> dict[str, list[float]]:
    """Return `mean_intervals` of each mean and each rank-k score, by the names of `Scores.summary`, as fractions.

    Only queries that count have a part. `pids_Q` holds the identity of each query.
    """
    counted_Q = scores.counted_Q(no_positive).numpy()
    values_Q = {name: values.numpy()[counted_Q] for name, values in scores.values_Q.items()}
    values_Q |= {f"rank{k}": scores.hits_Q(k).double().numpy()[counted_Q] for k in RANKS}
    return mean_intervals(values_Q, pids_Q[counted_Q], seed)
