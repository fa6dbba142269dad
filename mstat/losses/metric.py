"""The metric losses of a stage, by name in `METRIC_LOSSES`: modules from features and labels to a scalar.

Every rank computes the losses on the features of the global batch, so gradients of weights and contents of memories are
the same on any number of ranks. Table V compares losses "scaled to the same magnitude", without a formula. Here each
loss is scaled to BatchHard's value on one random batch of features that are as long as a LayerNorm's output. The scale
is constant during a run; a scale that followed training would be another loss.

Shape suffixes: n clips of the global batch, D feature dimensions, C identities of the training set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mstat.config import LossConfig
from mstat.losses.cross_entropy import cross_entropy
from mstat.losses.triplet import batch_hard

PROBE = (12, 2)  # the paper's batch: identities, and clips per identity


class MetricLoss(NamedTuple):
    """A metric loss by its name in `loss.metric`.

    Attributes:
        term: Name in metrics.jsonl, as loss/<stage>/<term>.
        make: Returns the module for the settings, the length D of a feature and the number C of identities.
    """

    term: str
    make: Callable[[LossConfig, int, int], nn.Module]


def metric_loss(config: LossConfig, dim: int, num_classes: int) -> nn.Module:
    """Return the module of `config.metric` for features (n, D) and labels (n,) in [0, C), scaled to BatchHard."""
    # On the CPU even where the launch checks build the rest of the task on `meta`: the scale needs values.
    with torch.device("cpu"), torch.no_grad():
        loss = METRIC_LOSSES[config.metric].make(config, dim, num_classes)
        if isinstance(loss, BatchHard):
            return loss
        features_nD, labels_n = _probe(dim, num_classes)
        scale = BatchHard(config)(features_nD, labels_n) / copy.deepcopy(loss)(features_nD, labels_n)
    return Scaled(loss, float(scale))


def _probe(dim: int, num_classes: int) -> tuple[Tensor, Tensor]:
    identities, clips = min(PROBE[0], num_classes), PROBE[1]
    features_nD = torch.randn(identities * clips, dim, generator=torch.Generator().manual_seed(0))
    return features_nD, torch.arange(identities).repeat_interleave(clips)


class BatchHard(nn.Module):
    """`batch_hard` with the run's margin.

    Features have unit length if `loss.unit_length` is set. With `loss.mining_groups`, each part of the batch is mined
    alone, and the loss is the mean over the parts.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features_nD: Tensor, labels_n: Tensor) -> Tensor:
        compared_nD = F.normalize(features_nD) if self.config.unit_length else features_nD
        parts = (self.config.mining_groups, -1)
        pairs = zip(compared_nD.unflatten(0, parts), labels_n.unflatten(0, parts), strict=True)
        return torch.stack([batch_hard(part, labels, self.config.margin) for part, labels in pairs]).mean()


class Scaled(nn.Module):
    """A loss multiplied by a constant."""

    def __init__(self, loss: nn.Module, scale: float) -> None:
        super().__init__()
        self.loss, self.scale = loss, scale

    def forward(self, features_nD: Tensor, labels_n: Tensor) -> Tensor:
        value: Tensor = self.loss(features_nD, labels_n)
        return self.scale * value


class OIM(nn.Module):
    """Online instance matching (Xiao et al., CVPR 2017): a softmax over the similarities to a memory of each identity.

    Each memory row starts at 0 and is a running mean of its identity's features, normalised to unit length. The paper's
    queue of unlabelled people is omitted: training sets here have none. As in the authors' code, the clips of a batch
    update the memory one by one, in the order of the global batch, and each update normalises its row.

    Args:
        scale: Factor of the similarities; the inverse of the paper's temperature.
        momentum: Fraction of a row that an update keeps.
    """

    memory_CD: Tensor

    def __init__(self, dim: int, num_classes: int, scale: float = 30.0, momentum: float = 0.5) -> None:
        super().__init__()
        self.scale, self.momentum = scale, momentum
        self.register_buffer("memory_CD", torch.zeros(num_classes, dim))

    def forward(self, features_nD: Tensor, labels_n: Tensor) -> Tensor:
        unit_nD = F.normalize(features_nD)
        logits_nC = (
            self.scale * unit_nD @ self.memory_CD.T.to(unit_nD.dtype, copy=True)
        )  # copied: the memory changes before backward
        self._remember(unit_nD.detach().to(self.memory_CD.dtype), labels_n)
        return cross_entropy(logits_nC, labels_n)

    def _remember(self, unit_nD: Tensor, labels_n: Tensor) -> None:
        # Slices of length 1, not numbers: reading a number from a GPU would wait for it.
        for unit_1D, label_1 in zip(unit_nD.split(1), labels_n.split(1), strict=True):
            row_1D = self.momentum * self.memory_CD[label_1] + (1 - self.momentum) * unit_1D
            self.memory_CD[label_1] = F.normalize(row_1D)


def _arcface(config: LossConfig, dim: int, num_classes: int) -> nn.Module:
    from pytorch_metric_learning.losses import ArcFaceLoss  # a late import: it loads scikit-learn

    margin = {} if config.angular_margin is None else {"margin": config.angular_margin}
    loss: nn.Module = ArcFaceLoss(num_classes=num_classes, embedding_size=dim, **margin)
    return loss


def _sphereface(config: LossConfig, dim: int, num_classes: int) -> nn.Module:
    from pytorch_metric_learning.losses import SphereFaceLoss

    # The margin multiplies the angle by a polynomial in the cosine, so it is a whole number.
    margin = {} if config.angular_margin is None else {"margin": int(config.angular_margin)}
    loss: nn.Module = SphereFaceLoss(num_classes=num_classes, embedding_size=dim, **margin)
    return loss


# To add a loss, add an entry here, and its name to `LossConfig.metric`.
METRIC_LOSSES = {
    "batch_hard": MetricLoss("triplet", lambda config, dim, num_classes: BatchHard(config)),
    "arcface": MetricLoss("arcface", _arcface),
    "sphereface": MetricLoss("sphereface", _sphereface),
    "oim": MetricLoss("oim", lambda config, dim, num_classes: OIM(dim, num_classes)),
}
