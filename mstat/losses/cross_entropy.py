"""Identity classification loss, computed at least in fp32 whatever the precision of the model.

Shape suffixes: B clips of the global batch, C identities of the training set.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mstat.numerics import at_least_fp32


def cross_entropy(logits_BC: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the batch, a scalar in fp32 (fp64 for fp64 logits).

    Args:
        logits_BC: Logits of a stage's classifier, of any floating type.
        labels_B: Class numbers in [0, C).
        smoothing: Fraction of the target that is spread evenly over all C classes.
    """
    with torch.autocast(logits_BC.device.type, enabled=False):
        return F.cross_entropy(at_least_fp32(logits_BC), labels_B, label_smoothing=smoothing)
