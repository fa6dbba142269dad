"""The trained module of pretraining: the classifier of actions with its loss."""

from __future__ import annotations

import torch
from torch import nn

from mstat.config import Config
from mstat.distributed.gather import own_rows
from mstat.losses import cross_entropy
from mstat.pretraining.timesformer import Classifier
from mstat.training.task import TrainedModule


class ActionTask(TrainedModule):
    """Classifier of actions with label-smoothed cross-entropy; takes the same batches as `Task`."""

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.label_smoothing = config.loss.label_smoothing
        self.chunk_size = config.batch.chunk_size
        self.model = Classifier(config.model, num_classes, config.clip.num_frames, config.pretrain.time)
        if config.model.init and self.model.time_position is not None:
            nn.init.zeros_(self.model.time_position)  # random positions would disturb loaded image weights

    def forward(
        self,
        frames_BTHWC: torch.Tensor,
        tps_BTN: torch.Tensor | None,
        keep_BR: torch.Tensor | None,
        labels_n: torch.Tensor,
        metric_weight: float,
    ) -> dict[str, torch.Tensor]:
        """Return this rank's share of `loss` and `accuracy`, as fp32 scalars."""
        scores_BC = self.embed(frames_BTHWC, None, keep_BR, len(labels_n))
        labels_n = labels_n.to(scores_BC.device, non_blocking=True)
        rows = own_rows(len(labels_n))
        loss = cross_entropy(scores_BC, labels_n, self.label_smoothing, rows)
        return {"loss": loss, "accuracy": (scores_BC.argmax(1) == labels_n[rows]).float().sum() / len(labels_n)}
