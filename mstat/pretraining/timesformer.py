"""Stack of STA blocks as a classifier of actions, pretrained like TimeSformer; an MSTAT starts from it (`model.init`).

With time, its outputs equal those of a TimeSformer with divided space-time attention. Its weights are saved under the
names of that model, so they load like published ones.

Shapes: B clips, T frames, N patches a frame, D width, C classes, P patch side, K = 3 P^2 numbers in a patch,
R residual branches with drop path.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mstat.config import ModelConfig
from mstat.model.mstat import MSTAT, check_sizes
from mstat.model.proxies import anisotropic_
from mstat.numerics import at_least_fp32
from mstat.weights.checkpoint_keys import PIXELS


def stack_config(config: ModelConfig) -> ModelConfig:
    """Return the config of the classifier's body: an MSTAT with Stage I alone, no attributes and no shuffling.

    It has as many blocks as any MSTAT of this `model` section takes from a checkpoint: the depth of Stage I, the larger
    depth of Stages II and III, and one more, since an STA may replace an IAP (`iap`). At the paper's size that makes
    TimeSformer's 12.
    """
    num_blocks = config.depths[0] + max(config.depths[1:]) + 1
    return replace(
        config,
        stages=("I",),
        depths=(num_blocks, 0, 0),
        stage1_aap=False,
        tps_probability=0.0,
        tps_block=0,
        bnneck=False,
    )


class NoTime(nn.Module):
    """Replacement of a block's temporal branch that adds nothing: frames interact only through the class token."""

    def forward(self, tokens_BNTD: Tensor) -> Tensor:
        return torch.zeros_like(tokens_BNTD)


class Classifier(MSTAT):
    """Classifier of clips of `num_frames` frames into `num_classes` actions.

    Args:
        config: Config of the MSTAT that will start from it.
        num_classes: Number of actions.
        num_frames: Frames of a clip.
        time: `divided` has temporal attention and a temporal position. `none` has neither, so its scores do not depend
            on the order of frames: it serves as a control, and `model.init` reads it as a plain ViT.
    """

    def __init__(
        self, config: ModelConfig, num_classes: int, num_frames: int, time: Literal["divided", "none"] = "divided"
    ) -> None:
        check_sizes(config)
        super().__init__(stack_config(config))
        mean, std = PIXELS[time]
        self.stem.pixel_mean.fill_(mean)
        self.stem.pixel_std.fill_(std)
        self.time_position = None
        if time == "divided":
            # TimeSformer starts at 0; from scratch, the model would ignore the order of frames for long.
            self.time_position = nn.Parameter(anisotropic_(torch.empty(num_frames, config.width)))
        for block in self.stage1.blocks:
            # TimeSformer has no such parameters, so they stay 1.
            block.alpha.requires_grad_(False)
            block.beta.requires_grad_(False)
            if time == "none":
                block.temporal = NoTime()
        self.head = nn.Linear(self.config.width, num_classes)
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, frames_BTHWC: Tensor, tps_BTN: Tensor | None = None, keep_BR: Tensor | None = None
    ) -> tuple[Tensor]:
        """Return the scores before the softmax, (B, C) in float32, as a tuple of one, like MSTAT's features.

        Args:
            frames_BTHWC: uint8, RGB, at `config.image_size`.
            tps_BTN: Not used: shuffled frames would have no order to learn.
            keep_BR: Drop path, see `MSTAT.forward`.
        """
        self.check_frames(frames_BTHWC)
        tokens_BNTD, class_BD = self.stem(frames_BTHWC)
        if self.time_position is not None:
            tokens_BNTD = tokens_BNTD + self.time_position  # for patches only: the class token belongs to no frame
        feature_BD, _, _ = self.stage1(tokens_BNTD, class_BD, keep_BR, None)
        return (at_least_fp32(self.head(feature_BD)),)
