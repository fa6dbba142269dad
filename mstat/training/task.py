"""The trained module: the model, the gather, and the head and losses of each stage.

A step's batch goes in, and a dict comes out with this rank's share of each loss: the sum over its own rows, divided by
the counts of the global batch. docs/exactness.md derives the gradient. Legend: B clips of this rank, n clips of the
global batch, D length of a feature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mstat.config import Config
from mstat.config.ranges import lacks_triplets
from mstat.distributed.gather import gather, own_chunks, own_rows
from mstat.errors import UserError
from mstat.losses import METRIC_LOSSES, cross_entropy, metric_loss
from mstat.model import MSTAT, feature_dims
from mstat.weights.checkpoint_files import rename_necks


class Head(nn.Module):
    """Classifier of one stage: logits (B, classes) of features (B, D). Behind a BNNeck it has no bias."""

    def __init__(self, dim: int, num_classes: int, bias: bool) -> None:
        super().__init__()
        self.classifier = nn.Linear(dim, num_classes, bias=bias)
        nn.init.normal_(self.classifier.weight, std=0.001)
        if self.classifier.bias is not None:
            nn.init.zeros_(self.classifier.bias)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        return self.classifier(features_BD)


class TrainedModule(nn.Module):
    """Module that turns a batch into a dict of shares of losses. Its `model` is scored and exported.

    Attributes:
        chunk_size: `batch.chunk_size`.
    """

    model: MSTAT
    chunk_size: int | None = None

    def embed(self, frames_BTHWC: Tensor, tps_BTN: Tensor | None, keep_BR: Tensor | None, total: int) -> Tensor:
        """Return the features of this rank's clips in a batch of `total`, joined: (B, D). Inputs may be on the host.

        With `chunk_size`, the model embeds so many clips at a time and keeps nothing but their features; the backward
        pass embeds them again, one chunk after the other (gradient caching, Gao et al., arXiv 2101.06983). Noise is an
        argument, so it is the same both times. The gradient of a weight is the sum over chunks, which autograd
        completes before any hook of DDP or DeepSpeed sees it: ranks communicate once.
        """
        *others, last = [
            [part if part is None else part[rows] for part in (frames_BTHWC, tps_BTN, keep_BR)]
            for rows in own_chunks(total, self.chunk_size)
        ]
        features = []
        for chunk in others:
            features.append(checkpoint(self._embed, *chunk, use_reentrant=False, preserve_rng_state=False))
            # Otherwise chunks would share a weight's copy in half precision, and add their gradients in it.
            torch.clear_autocast_cache()
        features.append(self._embed(*last))  # the backward pass begins with it
        return torch.cat(features)

    def _embed(self, *clips: Tensor | None) -> Tensor:
        device = next(self.parameters()).device
        frames, tps, keep = (part if part is None else part.to(device, non_blocking=True) for part in clips)
        return torch.cat(self.model(frames, tps, keep), dim=1)


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
        self.chunk_size = config.batch.chunk_size
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
        """Return this rank's share of `loss` (weighted sum) and `loss/<stage>/<term>`, as fp32 scalars."""
        features_BD = self.embed(frames_BTHWC, tps_BTN, keep_BR, len(labels_n))
        labels_n = labels_n.to(features_BD.device, non_blocking=True)
        rows = own_rows(len(labels_n))
        # Contiguous, because batch_norm on CPUs is slow on columns of a matrix, and cdist would copy them.
        stages = [part.contiguous() for part in gather(features_BD, len(labels_n)).split(self.dims, dim=1)]
        losses: dict[str, torch.Tensor] = {}
        with torch.autocast(features_BD.device.type, enabled=False):
            for (stage, head), features_nD in zip(self.heads.items(), stages, strict=True):
                necks = self.model.necks
                behind_nD = necks[stage](features_nD, of_batch=True) if stage in necks else features_nD
                logits_BC = head(behind_nD[rows])
                losses[f"loss/{stage}/cross_entropy"] = cross_entropy(
                    logits_BC, labels_n, self.config.label_smoothing, rows
                )
                if stage in self.metrics:
                    seen_nD = behind_nD if self.config.metric_on == "neck" else features_nD
                    losses[f"loss/{stage}/{self.metric_term}"] = self.metrics[stage](seen_nD, labels_n, rows)
        weights = {"cross_entropy": self.config.cross_entropy_weight, self.metric_term: metric_weight}
        weighted = []
        for name, loss in losses.items():
            _, stage, term = name.split("/")
            weighted.append(self.stage_weights[stage] * weights[term] * loss)
        return {"loss": torch.stack(weighted).sum(), **losses}
