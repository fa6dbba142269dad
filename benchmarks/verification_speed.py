"""Speed of verification compared with scikit-learn's `roc_curve`, for `benchmarks.evaluation_speed`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_curve

from benchmarks.harness import Figure, in_turn, medians, table
from mstat.evaluation.matches import make_pairs
from mstat.evaluation.ranking import count_similarities
from mstat.evaluation.verification import BINS, FPRS, verification
from mstat.evaluation.verification_intervals import candidates, count_accepted, verification_intervals


def verifying(
    query_QD: torch.Tensor, gallery_GD: torch.Tensor, *labels: np.ndarray, rounds: int = 3
) -> tuple[list[str], list[Figure]]:
    """Measure ROC and thresholds from features, compared with all similarities and scikit-learn.

    Args:
        labels: Query pids, query camids, gallery pids, gallery camids.
    """
    pairs = make_pairs(*labels)
    identity_Q = torch.from_numpy(np.unique(labels[0], return_inverse=True)[1])

    def counted() -> tuple[torch.Tensor, torch.Tensor]:
        return count_similarities(query_QD, gallery_GD, 0, pairs, BINS)

    def with_intervals() -> dict[str, Any]:
        counts = counted()
        chosen = candidates(*counts)
        accepted = count_accepted(query_QD, gallery_GD, 0, pairs, identity_Q, chosen, BINS)
        return {**verification(*counts), "intervals": verification_intervals(accepted)}

    def theirs() -> tuple[np.ndarray, np.ndarray]:
        normal = torch.nn.functional.normalize
        similarity_QG = (normal(query_QD) @ normal(gallery_GD).T).numpy()
        genuine, counted = np.zeros(similarity_QG.shape, bool), np.ones(similarity_QG.shape, bool)
        genuine[tuple(pairs.positives_2P.numpy())] = True
        counted[tuple(pairs.ignored_2I.numpy())] = False
        fpr, tpr, _ = roc_curve(genuine[counted], similarity_QG[counted])
        return fpr, tpr

    fpr, tpr = theirs()
    ours = verification(*counted())
    for level in FPRS:
        expected = tpr[np.searchsorted(fpr, level, side="right") - 1]
        np.testing.assert_allclose(ours[f"tpr_at_{level:g}"], expected, atol=2e-3, rtol=0)

    names = "mstat, scores", "mstat, scores and 95 % intervals", "scikit-learn, scores"
    calls: dict[str, Callable[[], object]] = {
        names[0]: lambda: verification(*counted()),
        names[1]: with_intervals,
        names[2]: theirs,
    }
    product = partial(torch.mm, query_QD, gallery_GD.T)
    seconds = medians(in_turn({**calls, "torch.mm alone": product}, rounds))
    num_pairs = ours["num_genuine"] + ours["num_impostor"]
    text = (
        f"From features to ROC, thresholds and EER of {num_pairs:,} pairs: mstat counts similarities in {BINS:,} bins, "
        "scikit-learn sorts them. TPRs agree to 0.002 (a bin's width moves a threshold). Intervals need a second pass."
    )
    rows = [[name, f"{taken:.2f}", f"{taken / seconds[names[0]]:.2f}"] for name, taken in seconds.items()]
    limit, share = f"{seconds['torch.mm alone']:.2f} s for the product", seconds["torch.mm alone"] / seconds[names[0]]
    figure = Figure(
        f"ROC and thresholds of {num_pairs:,} pairs, from features",
        f"{seconds[names[0]]:.2f} s",
        "scikit-learn",
        f"{seconds[names[2]]:.2f} s",
        seconds[names[2]] / seconds[names[0]],
        "",
        limit,
        share,
    )
    return ["## Verification", text, table(["verification", "seconds", "of mstat's scores"], rows)], [figure]
