"""The STA stack as a classifier of actions, as TimeSformer is pretrained: what an MSTAT starts from (`model.init`).

With time it is a TimeSformer with divided space-time attention, number for number, and is saved under that model's
names, so that nothing tells its weights from published ones.

Shapes: B clips, T frames, N patches a frame, D width, C classes, P patch side, K = 3 P^2 numbers in a patch,
R residual branches with drop path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mstat.config import ModelConfig
from mstat.model.layouts import BLOCK_KEYS, KINDS
from mstat.model.mstat import MSTAT, check_sizes
from mstat.model.proxies import anisotropic_
from mstat.precision import at_least_fp32

# What a model that starts from the file subtracts from pixels and divides by, with temporal weights in it and without.
PIXELS = {"divided": (0.45, 0.225), "none": (0.5, 0.5)}


def stack_config(config: ModelConfig) -> ModelConfig:
    """The MSTAT that is the classifier's body: Stage I alone, read out at its class token, frames in their order.

    It has as many blocks as any MSTAT of this `model` section takes from a checkpoint, one more than its stages count,
    since an STA may stand in the place of an IAP (`iap`). At the paper's size that makes TimeSformer's 12.
    """
    num_blocks = config.depths[0] + max(config.depths[1:]) + 1
    return replace(config, stages=("I",), depths=(num_blocks, 0, 0), stage1_aap=False, tps_probability=0.0, tps_block=0)


class NoTime(nn.Module):
    """Stands for a block's temporal branch and adds nothing: frames meet in the class token alone."""

    def forward(self, tokens_BNTD: Tensor, alpha: Tensor) -> Tensor:
        return torch.zeros_like(tokens_BNTD)


class Classifier(MSTAT):
    """Clips of `num_frames` frames -> scores of `num_classes` actions.

    Args:
        config: Of the MSTAT to come.
        time: `divided` has temporal attention and a temporal position. `none` has neither, and so the same scores for
            any order of the frames: the control, and on import a plain ViT.
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
            # From scratch 0, where TimeSformer begins, would leave the order of frames unheard for long.
            self.time_position = nn.Parameter(anisotropic_(torch.empty(num_frames, config.width)))
        for block in self.stage1.blocks:
            # TimeSformer's layout has no place for them: they stay 1.
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
        """Scores before the softmax, (B, C) in float32, as the only one of a tuple of features.

        Args:
            frames_BTHWC: uint8, RGB, at `config.image_size`.
            tps_BTN: Not used: shuffled frames would have no order to learn.
            keep_BR: Drop path, see `MSTAT.forward`.
        """
        self.check_frames(frames_BTHWC)
        tokens_BNTD, class_BD = self.stem(frames_BTHWC)
        if self.time_position is not None:
            tokens_BNTD = tokens_BNTD + self.time_position  # of patches alone: the class token is of no frame
        feature_BD, _, _ = self.stage1(tokens_BNTD, class_BD, keep_BR, None)
        return (at_least_fp32(self.head(feature_BD)),)


def to_timesformer(weights: Mapping[str, Tensor], patch_size: int) -> dict[str, Tensor]:
    """A classifier's weights under the official TimeSformer's names, which `load_pretrained` reads.

    Our class token has no position of its own, so that its row of `pos_embed` is 0.
    """
    position_ND = weights["stem.position"]
    patch_DK, bias_D = _patches(weights, *PIXELS["divided" if "time_position" in weights else "none"])
    official = {
        "cls_token": weights["stem.class_token"][None, None],
        "pos_embed": torch.cat([torch.zeros_like(position_ND[:1]), position_ND])[None],
        "patch_embed.proj.weight": patch_DK.unflatten(1, (3, patch_size, patch_size)),
        "patch_embed.proj.bias": bias_D,
    }
    if "time_position" in weights:
        official["time_embed"] = weights["time_position"][None]
    names = {ours: theirs for theirs, ours in BLOCK_KEYS.items()}
    for key, value in weights.items():
        stage, _, rest = key.partition(".blocks.")
        index, _, ours = rest.partition(".")
        if stage == "stage1" and ours in names:
            official[f"blocks.{index}.{names[ours]}"] = value
    for kind in KINDS:
        official[f"norm.{kind}"] = weights[f"stage1.norm.{kind}"]
        official[f"head.{kind}"] = weights[f"head.{kind}"]
    return {name: value.contiguous() for name, value in official.items()}


def _patches(weights: Mapping[str, Tensor], mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Patch embedding of pixels that are normalised by `mean` and `std`.

    The very weights, unless `model.init` has brought another normalisation (DeiT's).
    """
    weight_DK, bias_D = weights["stem.patch.weight"], weights["stem.patch.bias"]
    own_mean_3, own_std_3 = weights["stem.pixel_mean"], weights["stem.pixel_std"]
    if bool((own_mean_3 == mean).all() and (own_std_3 == std).all()):
        return weight_DK, bias_D
    of_colour_D3P = weight_DK.unflatten(1, (3, -1)) / own_std_3[:, None]
    offset_D = (of_colour_D3P * (mean - own_mean_3)[:, None]).sum((1, 2))
    return (of_colour_D3P * std).flatten(1), bias_D + offset_D
