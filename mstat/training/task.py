"""The trained module: the model, the gather, and the head and losses of each stage.

A step's batch goes in and a dict of losses comes out, the same on every rank. Legend: B clips of this rank, n clips
of the global batch, D length of a stage's feature.
"""

from __future__ import annotations

import torch
from torch import nn

from mstat.config import Config
from mstat.config.ranges import lacks_triplets
from mstat.distributed.gather import gather
from mstat.errors import UserError
from mstat.losses import METRIC_LOSSES, cross_entropy, metric_loss
from mstat.model import MSTAT, feature_dims
from mstat.weights.checkpoint_files import rename_necks


class Head(nn.Module):
    """Classifier of one stage: logits (n, classes) of features (n, D). Behind a BNNeck it has no bias."""

    def __init__(self, dim: int, num_classes: int, bias: bool) -> None:
        super().__init__()
        self.classifier = nn.Linear(dim, num_classes, bias=bias)
        nn.init.normal_(self.classifier.weight, std=0.001)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)

    def forward(self, features_nD: torch.Tensor) -> torch.Tensor:
        return self.classifier(features_nD)


class TrainedModule(nn.Module):
    """Module that turns a batch into a dict of losses. Its `model` is scored and exported."""

    model: MSTAT


class Task(TrainedModule):
    """MSTAT with its training losses: label-smoothed cross-entropy and a metric loss on every stage.

    Raises:
        UserError: If BatchHard would find no triplet in the batches of `config`.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        if complaint := lacks_triplets(config):
            raise UserError(complaint)
        self.config = config.loss
        self.model = MSTAT(config.model)
        self.dims = feature_dims(config.model)
        dims = dict(zip(config.model.stages, self.dims, strict=True))
        of_stages = config.loss.stage_weights or (1.0,) * len(dims)
        self.stage_weights: dict[str, float] = dict(zip(dims, of_stages, strict=True))
        self.heads = nn.ModuleDict({s: Head(dim, num_classes, bias=not config.model.bnneck) for s, dim in dims.items()})
        self.metrics = nn.ModuleDict()
        self.metric_term = ""
        if config.loss.metric != "none":
            self.metric_term = METRIC_LOSSES[config.loss.metric].term
            self.metrics.update({s: metric_loss(config.loss, dim, num_classes) for s, dim in dims.items()})
        self.register_load_state_dict_pre_hook(lambda module, state, *_: rename_necks(state))

    def forward(
        self,
        frames_BTHWC: torch.Tensor,
        tps_BTN: torch.Tensor | None,
        keep_BR: torch.Tensor | None,
        labels_n: torch.Tensor,
        metric_weight: float,
    ) -> dict[str, torch.Tensor]:
        """Return the losses of the global batch as fp32 scalars: `loss` (weighted sum) and `loss/<stage>/<term>`."""
        features = torch.cat(self.model(frames_BTHWC, tps_BTN, keep_BR), dim=1)
        stages = gather(features, len(labels_n)).split(self.dims, dim=1)
        losses: dict[str, torch.Tensor] = {}
        with torch.autocast(features.device.type, enabled=False):
            for (stage, head), features_nD in zip(self.heads.items(), stages, strict=True):
                necks = self.model.necks
                behind_nD = necks[stage](features_nD, of_batch=True) if stage in necks else features_nD
                logits = head(behind_nD)
                losses[f"loss/{stage}/cross_entropy"] = cross_entropy(logits, labels_n, self.config.label_smoothing)
                if stage in self.metrics:
                    seen_nD = behind_nD if self.config.metric_on == "neck" else features_nD
                    losses[f"loss/{stage}/{self.metric_term}"] = self.metrics[stage](seen_nD, labels_n)
        weights = {"cross_entropy": self.config.cross_entropy_weight, self.metric_term: metric_weight}
        weighted = []
        for name, loss in losses.items():
            _, stage, term = name.split("/")
            weighted.append(self.stage_weights[stage] * weights[term] * loss)
        return {"loss": torch.stack(weighted).sum(), **losses}
