"""BNNeck (Luo et al., CVPR Workshops 2019): BatchNorm between a stage's feature and its classifier.

Shape suffixes: n clips of the global batch, D length of a stage's feature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Neck(nn.Module):
    """BatchNorm whose shift is not learned, so that features stay centred, as its authors have it.

    `nn.BatchNorm1d` would normalise by `self.training`; MSTAT behaves the same in both modes, so the caller chooses.
    Training normalises by the statistics of the global batch and updates the running ones; evaluation uses those.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim), requires_grad=False)
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, features_nD: Tensor, of_batch: bool) -> Tensor:
        """Return the normalised features, by the statistics of this batch or by the running ones."""
        if of_batch:  # the running statistics are updated in place
            return F.batch_norm(features_nD, self.running_mean, self.running_var, self.weight, self.bias, training=True)
        # Features are float32 also in a model in half precision.
        own = (self.running_mean, self.running_var, self.weight, self.bias)
        mean, variance, weight, bias = (tensor.to(features_nD.dtype) for tensor in own)
        return F.batch_norm(features_nD, mean, variance, weight, bias)
