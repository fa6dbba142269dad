"""What is trained: the model, the gather, and each stage's head and losses, in one module.

A step's batch goes in and a dict of losses comes out, the same on every rank. Legend: B clips of this rank, n clips
of the global batch, D length of a stage's feature.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from mstat.config import Config
from mstat.gather import gather
from mstat.losses import batch_hard, cross_entropy
from mstat.model import MSTAT, feature_dims

STAGES = ("I", "II", "III")


class Head(nn.Module):
    """Classifier of one stage: logits (n, classes) of features (n, D), behind a BNNeck if asked for."""

    def __init__(self, dim: int, num_classes: int, bnneck: bool) -> None:
        super().__init__()
        self.neck = nn.BatchNorm1d(dim) if bnneck else nn.Identity()
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)  # as its authors have it: the feature space stays centred
        self.classifier = nn.Linear(dim, num_classes, bias=not bnneck)
        nn.init.normal_(self.classifier.weight, std=0.001)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)

    def forward(self, features_nD: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.neck(features_nD))


class Task(nn.Module):
    """MSTAT with its training losses: label-smoothed cross-entropy and BatchHard triplet loss on every stage."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config.loss
        self.model = MSTAT(config.model)
        self.dims = feature_dims(config.model)
        self.heads = nn.ModuleDict(
            {stage: Head(dim, num_classes, config.model.bnneck) for stage, dim in zip(STAGES, self.dims, strict=True)}
        )

    def forward(
        self,
        frames_BTHWC: torch.Tensor,
        tps_BTN: torch.Tensor | None,
        keep_BR: torch.Tensor | None,
        labels_n: torch.Tensor,
        metric_weight: float,
    ) -> dict[str, torch.Tensor]:
        """Losses of the global batch: `loss` (their weighted sum) and `loss/<stage>/<term>`, fp32 scalars."""
        features = torch.cat(self.model(frames_BTHWC, tps_BTN, keep_BR), dim=1)
        stages = gather(features, len(labels_n)).split(self.dims, dim=1)
        losses: dict[str, torch.Tensor] = {}
        with torch.autocast(features.device.type, enabled=False):
            for stage, features_nD in zip(STAGES, stages, strict=True):
                logits = self.heads[stage](features_nD)
                losses[f"loss/{stage}/cross_entropy"] = cross_entropy(logits, labels_n, self.config.label_smoothing)
                if self.config.metric == "batch_hard":
                    compared_nD = F.normalize(features_nD) if self.config.unit_length else features_nD
                    losses[f"loss/{stage}/triplet"] = self.triplet(compared_nD, labels_n)
        weights = {"cross_entropy": self.config.cross_entropy_weight, "triplet": metric_weight}
        total = torch.stack([weights[name.rsplit("/", 1)[1]] * loss for name, loss in losses.items()]).sum()
        return {"loss": total, **losses}

    def triplet(self, features_nD: torch.Tensor, labels_n: torch.Tensor) -> torch.Tensor:
        """BatchHard of the global batch; the mean over its parts where each is mined alone."""
        parts = (self.config.mining_groups, -1)
        pairs = zip(features_nD.unflatten(0, parts), labels_n.unflatten(0, parts), strict=True)
        return torch.stack([batch_hard(part, labels, self.config.margin) for part, labels in pairs]).mean()
