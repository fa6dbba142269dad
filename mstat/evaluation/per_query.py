"""Scores of each query (queries.json), and means over groups of queries.

Shape suffixes: Q queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from mstat.bootstrap import mean_intervals
from mstat.evaluation.metrics import Scores

# Lower bounds of the groups.
MATCHES = (1, 2, 3, 6, 11, 21)
LENGTHS = (1, 8, 16, 32, 64, 128, 256)


def columns(scores: Scores, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return the rank of the first true match and the values of these means, one for each query.

    All are None for a query without a true match.
    """
    has_match = (scores.first_hit_Q > 0).tolist()
    values = {"first_hit": scores.first_hit_Q, **{name: scores.values_Q[name] for name in names}}
    return {
        name: [value if known else None for value, known in zip(values_Q.tolist(), has_match, strict=True)]
        for name, values_Q in values.items()
    }


def group_scores(
    scores: Scores, chosen_Q: Tensor, pids_Q: np.ndarray, seed: int, has_map: bool = True
) -> dict[str, Any]:
    """Return mAP and rank-1 of the chosen queries that have a true match, with `mean_intervals`, and their number.

    Args:
        chosen_Q: Flags.
        pids_Q: Identity of each query.
        has_map: False for a protocol with CMC alone, whose mAP is None.

    Returns:
        Empty if there is no such query.
    """
    counted_Q = (chosen_Q & (scores.first_hit_Q > 0)).numpy()
    if not counted_Q.any():
        return {}
    values_Q = {"rank1": scores.hits_Q(1).double().numpy()[counted_Q]}
    if has_map:
        values_Q["mAP"] = scores.average_precision_Q.numpy()[counted_Q]
    means = {name: float(values.sum()) / len(values) for name, values in values_Q.items()}
    bounds = mean_intervals(values_Q, pids_Q[counted_Q], seed)
    return {"num_valid_query": int(counted_Q.sum()), "mAP": None, **means, "intervals": bounds}


def by_number(
    numbers_Q: Tensor, lower_bounds: Sequence[int], scores: Scores, pids_Q: np.ndarray, seed: int, has_map: bool = True
) -> Mapping[str, dict[str, Any]]:
    """Return `group_scores` by ranges of a number, such as `3-5`; a range without a query is left out."""
    result = {}
    for low, after in pairwise([*lower_bounds, None]):
        assert low is not None
        chosen_Q = numbers_Q >= low if after is None else (numbers_Q >= low) & (numbers_Q < after)
        name = f"{low}+" if after is None else f"{low}" if after == low + 1 else f"{low}-{after - 1}"
        if group := group_scores(scores, chosen_Q, pids_Q, seed, has_map):
            result[name] = group
    return result
