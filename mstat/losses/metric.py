"""The metric losses of a stage, by name in `METRIC_LOSSES`: modules from features and labels to a scalar.

A module takes the features and labels of the global batch, and the rows whose share of the loss it returns: the shares
of disjoint rows add up to the loss, and a memory has the same content whatever the rows. Table V compares losses
"scaled to the same magnitude", without a formula. Here each loss is scaled to BatchHard's value on one random batch of
features that are as long as a LayerNorm's output. The scale is constant during a run; a scale that followed training
would be another loss.

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
    """Return the module of `config.metric` for features (n, D), labels (n,) in [0, C) and rows, scaled to BatchHard."""
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

    def forward(self, features_nD: Tensor, labels_n: Tensor, rows: slice = slice(None)) -> Tensor:
        unit = self.config.unit_length or self.config.distance == "cosine"
        compared_nD = F.normalize(features_nD) if unit else features_nD
        margin, distance = self.config.margin, self.config.distance
        start, stop, _ = rows.indices(len(labels_n))
        size = len(labels_n) // self.config.mining_groups
        losses = []
        for first in range(start - start % size, stop, size):  # the parts that hold some of the rows
            part, own = slice(first, first + size), slice(max(start - first, 0), min(stop - first, size))
            # The gradient of a slice is as large as the batch, and a copy: the whole batch is none.
            part_nD = compared_nD if size == len(labels_n) else compared_nD[part]
            losses.append(batch_hard(part_nD, labels_n[part], margin, distance, own))
        return torch.stack(losses).sum() / self.config.mining_groups


class Scaled(nn.Module):
    """A loss multiplied by a constant."""

    def __init__(self, loss: nn.Module, scale: float) -> None:
        super().__init__()
        self.loss, self.scale = loss, scale

    def forward(self, features_nD: Tensor, labels_n: Tensor, rows: slice = slice(None)) -> Tensor:
        value: Tensor = self.loss(features_nD, labels_n, rows)
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

    def forward(self, features_nD: Tensor, labels_n: Tensor, rows: slice = slice(None)) -> Tensor:
        unit_nD = F.normalize(features_nD)
        memory_CD = self.memory_CD.to(unit_nD.dtype, copy=True)  # it changes before the backward pass
        logits_BC = self.scale * unit_nD[rows] @ memory_CD.T
        self._remember(unit_nD.detach().to(self.memory_CD.dtype), labels_n)
        return cross_entropy(logits_BC, labels_n, rows=rows)

    def _remember(self, unit_nD: Tensor, labels_n: Tensor) -> None:
        # Slices of length 1, not numbers: reading a number from a GPU would wait for it.
        for unit_1D, label_1 in zip(unit_nD.split(1), labels_n.split(1), strict=True):
            row_1D = self.momentum * self.memory_CD[label_1] + (1 - self.momentum) * unit_1D
            self.memory_CD[label_1] = F.normalize(row_1D)


def _arcface(config: LossConfig, dim: int, num_classes: int) -> nn.Module:
    from pytorch_metric_learning.losses import ArcFaceLoss  # a late import: it loads scikit-learn

    margin = {} if config.angular_margin is None else {"margin": config.angular_margin}
    return _of_rows(ArcFaceLoss)(num_classes=num_classes, embedding_size=dim, **margin)


def _sphereface(config: LossConfig, dim: int, num_classes: int) -> nn.Module:
    from pytorch_metric_learning.losses import SphereFaceLoss

    # The margin multiplies the angle by a polynomial in the cosine, so it is a whole number.
    margin = {} if config.angular_margin is None else {"margin": int(config.angular_margin)}
    return _of_rows(SphereFaceLoss)(num_classes=num_classes, embedding_size=dim, **margin)


def _of_rows(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of a loss of pytorch-metric-learning, a mean over clips, that takes rows as the others do."""

    class OfRows(kind):  # type: ignore[misc, valid-type] # a class that is imported late
        def forward(self, features_nD: Tensor, labels_n: Tensor, rows: slice = slice(None)) -> Tensor:
            labels_B = labels_n[rows]
            mean: Tensor = super().forward(features_nD[rows], labels_B)
            return mean * (len(labels_B) / len(labels_n))

    return OfRows


# To add a loss, add an entry here, and its name to `LossConfig.metric`.
METRIC_LOSSES = {
    "batch_hard": MetricLoss("triplet", lambda config, dim, num_classes: BatchHard(config)),
    "arcface": MetricLoss("arcface", _arcface),
    "sphereface": MetricLoss("sphereface", _sphereface),
    "oim": MetricLoss("oim", lambda config, dim, num_classes: OIM(dim, num_classes)),
}
