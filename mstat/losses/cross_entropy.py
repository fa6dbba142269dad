"""Identity classification loss, computed at least in fp32 whatever the precision of the model.

Shape suffixes: n clips of the global batch, B of its rows, C identities of the training set.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mstat.numerics import at_least_fp32


def cross_entropy(logits_BC: Tensor, labels_n: Tensor, smoothing: float = 0.0, rows: slice = slice(None)) -> Tensor:
    """Return the share of `rows` in the mean cross-entropy of the batch, a scalar in fp32 (fp64 for fp64 logits).

    Args:
        logits_BC: Logits of the clips in `rows`, of any floating type.
        labels_n: Class numbers in [0, C) of all clips.
        smoothing: Fraction of the target that is spread evenly over all C classes.
        rows: Clips to sum over; the sum is divided by n. With all rows, it is the loss of the batch.
    """
    with torch.autocast(logits_BC.device.type, enabled=False):
        wide_BC = at_least_fp32(logits_BC)
        return F.cross_entropy(wide_BC, labels_n[rows], label_smoothing=smoothing, reduction="sum") / len(labels_n)
