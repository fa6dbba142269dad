"""Distances within and between identities (Table VI), over the pairs that the protocol compares.

The paper names "the normalized averaged intra-class distance and the minimum inter-class distance (0-2)" and gives no
formula. These figures are computed on features of unit length, with both distances that have that range:

    intra          mean over the identities of the mean distance between a query and its true matches
    intra_correct  the same over the queries whose nearest gallery item is a true match
    inter          smallest distance between a query and a gallery item of another identity
    inter_mean     mean over the queries of the distance to the nearest item of another identity

The gallery is sliced over ranks as in `mstat.evaluation.ranking`, and the result is equally exact.

Shape suffixes: Q queries, S gallery items of this rank, D feature dimensions, P positive pairs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mstat.evaluation.matches import Labels, Pairs
from mstat.evaluation.ranking import TILE, Progress, extreme_similarities, silent

# Cosine similarity -> distance; both have the paper's range (0-2).
DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda similarity: (1 - similarity).clamp(min=0),  # rounding makes a similarity exceed 1
    "euclidean": lambda similarity: (2 - 2 * similarity).clamp(min=0).sqrt(),
}


def class_distances(
    query_QD: Tensor,
    gallery_SD: Tensor,
    start: int,
    pairs: Pairs,
    query_pids: Labels,
    correct_Q: Tensor,
    *,
    gather: Callable[[Tensor], list[Tensor]] = lambda tensor: [tensor],
    progress: Progress = silent,
    tile: int = TILE,
) -> dict[str, dict[str, float | None]]:
    """Compute the four figures above for each distance (`cosine`, `euclidean`); None where no pair has one.

    Args:
        query_QD, gallery_SD, start, pairs, progress, tile: As for `mstat.evaluation.ranking.rank_positives`.
        query_pids: Q integers: identities of the queries.
        correct_Q: Queries whose nearest gallery item is a true match.
        gather: Returns the tensor of every rank, in rank order. Every rank calls it equally often.
    """
    positive_P, other_Q = extreme_similarities(query_QD, gallery_SD, start, pairs, progress=progress, tile=tile)
    positive_P = torch.stack(gather(positive_P)).amax(0).double()
    other_Q = torch.stack(gather(other_Q)).amax(0).double()
    query_P, pids_Q = pairs.positives_2P[0], torch.as_tensor(query_pids)
    matched_Q = torch.bincount(query_P, minlength=pairs.num_query) > 0
    other = other_Q[matched_Q & (other_Q > -torch.inf)]
    result: dict[str, dict[str, float | None]] = {}
    for name, distance in DISTANCES.items():
        distance_P = distance(positive_P)
        correct_P = correct_Q[query_P]
        result[name] = {
            "intra": _mean_of_classes(distance_P, pids_Q[query_P]),
            "intra_correct": _mean_of_classes(distance_P[correct_P], pids_Q[query_P][correct_P]),
            "inter": float(distance(other).min()) if len(other) else None,
            "inter_mean": float(distance(other).mean()) if len(other) else None,
        }
    return result


def _mean_of_classes(distance_P: Tensor, pids_P: Tensor) -> float | None:
    if not len(pids_P):
        return None
    _, class_P = pids_P.unique(return_inverse=True)
    return float((class_P.bincount(distance_P) / class_P.bincount()).mean())
