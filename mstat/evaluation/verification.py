"""Verification: do two tracklets show one person? ROC, error rates and thresholds, from counts of similarities.

A query and a gallery item that its protocol does not ignore are a pair, accepted if their cosine similarity is at least
a threshold. TPR is the share of the pairs of one person that are accepted, FPR that of the pairs of two persons.

Similarities are counted in `BINS` bins and not stored, so memory does not depend on the gallery, and counts of several
ranks add up exactly. A threshold is the lower edge of a bin; with 2 ** 20 bins, they are 1.9e-6 apart.

Shape suffixes: N bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BINS = 2**20
FPRS = (1e-1, 1e-2, 1e-3, 1e-4)
CURVE = [10 ** (exponent / 10) for exponent in range(-40, 1)]  # FPRs of the ROC curve


def accepted(counts_N: Tensor) -> Tensor:
    """Return the number of pairs that each threshold accepts: its bin's and those above; the last accepts none."""
    return torch.cat([counts_N.flip(0).cumsum(0).flip(0), counts_N.new_zeros(1)])


def verification(genuine_N: Tensor, impostor_N: Tensor, fprs: Sequence[float] = FPRS) -> dict[str, Any]:
    """Return the scores of verification from the counts of pairs of one person and of two.

    Returns:
        For each FPR of `fprs`, `tpr_at_<fpr>` and `threshold_at_<fpr>`: the largest TPR of all thresholds whose FPR is
        not larger, and the lowest such threshold. `eer`: the mean of FPR and 1 - TPR where they are closest, and
        `eer_threshold`. `num_genuine`, `num_impostor`: pairs. None where too few pairs of two persons show an FPR
        (fewer than 1 / FPR), or where there are no pairs; a threshold is None if only none accepts so few. `roc_fpr`,
        `roc_tpr`: the curve, largest TPRs as above; at FPRs that cannot be seen, the TPR at FPR 0.
    """
    num_genuine, num_impostor = int(genuine_N.sum()), int(impostor_N.sum())
    tpr = accepted(genuine_N).double() / max(1, num_genuine)
    fpr = accepted(impostor_N).double() / max(1, num_impostor)

    def threshold(index: int) -> float | None:
        return None if index == len(genuine_N) else 2 * index / len(genuine_N) - 1  # the last one accepts nothing

    def lowest(limit: float) -> int:
        return int((fpr > limit).sum())  # FPRs do not rise with the threshold

    result: dict[str, Any] = {"num_genuine": num_genuine, "num_impostor": num_impostor}
    for limit in fprs:
        seen = num_genuine > 0 and num_impostor * limit >= 1
        result[f"tpr_at_{limit:g}"] = float(tpr[lowest(limit)]) if seen else None
        result[f"threshold_at_{limit:g}"] = threshold(lowest(limit)) if seen else None
    both = num_genuine > 0 and num_impostor > 0
    equal = int((fpr - (1 - tpr)).abs().argmin())
    result["eer"] = float(fpr[equal] + 1 - tpr[equal]) / 2 if both else None
    result["eer_threshold"] = threshold(equal) if both else None
    shown = CURVE if both else []
    return {**result, "roc_fpr": shown, "roc_tpr": [float(tpr[lowest(limit)]) for limit in shown]}
