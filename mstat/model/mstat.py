"""MSTAT: one stem, then Stage I, on whose tokens Stages II and III stand side by side (Fig. 2).

    frames -> Stem -> Stage I (STA) -+-> AAP ----------> attributes, A * D
                                     +-> Stage II  (STA,   the same class token) -> IAP -> D
                                     +-> Stage III (A-STA, a new class token)    -> IAP -> D

Shapes: B clips, T frames, H x W pixels, C colours, N patches a frame, S = 1 + N T tokens of a clip, D width,
A attribute proxies, R residual branches with drop path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mstat.config import ModelConfig
from mstat.errors import UserError
from mstat.model.attention import layer_norm
from mstat.model.neck import Neck
from mstat.model.proxies import AAP, IAP
from mstat.model.randomness import RESIDUALS_PER_BLOCK, block_counts
from mstat.model.sta import STA, AttributeSTA
from mstat.model.stem import INIT_STD, Stem, shuffle
from mstat.numerics import at_least_fp32

NO_DECAY = {"bias", "alpha", "beta", "position", "time_position", "class_token", "proxies", "keys", "values"}


def feature_dims(config: ModelConfig) -> tuple[int, ...]:
    """Return the length of the feature of each of `config.stages`."""
    attributes = config.num_attributes if config.stage1_aap else 1
    return tuple(attributes * config.width if stage == "I" else config.width for stage in config.stages)


def no_weight_decay(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter has no weight decay: biases, norms, alpha, beta, proxies, class tokens, positions.

    Norms are recognised by their single dimension, so call it before ZeRO-3 flattens the parameters.
    """
    return parameter.ndim <= 1 or name.rpartition(".")[2] in NO_DECAY


def join_stages(parts: Sequence[Tensor], stage_norm: bool) -> Tensor:
    """Join features of stages, (B, D of the part) each, into one (B, sum of D), each part scaled to length 1 or not."""
    return torch.cat([F.normalize(part) if stage_norm else part for part in parts], dim=1)


def join(class_BD: Tensor, tokens_BNTD: Tensor) -> Tensor:
    """Join all tokens of a clip to one sequence (B, S, D), class token first."""
    return torch.cat([class_BD[:, None], tokens_BNTD.flatten(1, 2)], dim=1)


def run_blocks(blocks: nn.ModuleList, tokens: Tensor, cls: Tensor, keep_BR: Tensor | None) -> tuple[Tensor, Tensor]:
    """Apply a stage's blocks; `keep_BR` holds this stage's drop path only."""
    for i, block in enumerate(blocks):
        first = i * RESIDUALS_PER_BLOCK
        keep_B3 = None if keep_BR is None else keep_BR[:, first : first + RESIDUALS_PER_BLOCK]
        if block.recompute:
            # Blocks draw no random numbers, so no generator state must be kept for the recomputation.
            tokens, cls = checkpoint(block, tokens, cls, keep_B3, use_reentrant=False, preserve_rng_state=False)
        else:
            tokens, cls = block(tokens, cls, keep_B3)
    return tokens, cls


class AttributeStage(nn.Module):
    """Stage I: STA blocks, and an AAP over the class token and all tokens; each attribute is normalised separately."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(STA(config) for _ in range(config.depths[0]))
        self.aap = AAP(config, config.num_attributes) if config.stage1_aap else None
        self.norm = layer_norm(config)
        self.tps_block = config.tps_block

    def forward(
        self, tokens_BNTD: Tensor, class_BD: Tensor, keep_BR: Tensor | None, tps_BTN: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the feature (B, A * D), and the tokens and class token for the next stages."""
        if tps_BTN is None:
            tokens_BNTD, class_BD = run_blocks(self.blocks, tokens_BNTD, class_BD, keep_BR)
        else:
            parts = (None, None) if keep_BR is None else keep_BR.tensor_split([self.tps_block * RESIDUALS_PER_BLOCK], 1)
            tokens_BNTD, class_BD = run_blocks(self.blocks[: self.tps_block], tokens_BNTD, class_BD, parts[0])
            tokens_BNTD = shuffle(tokens_BNTD, tps_BTN)
            tokens_BNTD, class_BD = run_blocks(self.blocks[self.tps_block :], tokens_BNTD, class_BD, parts[1])
        read_out = class_BD if self.aap is None else self.aap(join(class_BD, tokens_BNTD))
        return self.norm(read_out).flatten(1), tokens_BNTD, class_BD


class IdentityStage(nn.Module):
    """Stages II and III: blocks, then an IAP on the class token, which may be a new one (`new_class_token`)."""

    def __init__(self, config: ModelConfig, blocks: list[STA], iap: bool, new_class_token: bool) -> None:
        super().__init__()
        self.class_token = None
        if new_class_token:
            self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(config.width), std=INIT_STD))
        self.blocks = nn.ModuleList(blocks)
        self.iap = IAP(config) if iap else None
        self.norm = layer_norm(config)

    def forward(self, tokens_BNTD: Tensor, class_BD: Tensor | None, keep_BR: Tensor | None) -> Tensor:
        """Return the feature (B, D)."""
        if self.class_token is not None:
            class_BD = self.class_token.repeat(tokens_BNTD.shape[0], 1)  # len() would fix B in an export
        assert class_BD is not None
        tokens_BNTD, class_BD = run_blocks(self.blocks, tokens_BNTD, class_BD, keep_BR)
        return self.norm(class_BD if self.iap is None else self.iap(join(class_BD, tokens_BNTD)))


class Embedding(NamedTuple):
    """The form in which features are compared by cosine.

    Attributes:
        feature: `feature` compares each stage's feature as it is, `neck` behind its BNNeck.
        stage_norm: Scale each stage's part to length 1 before the parts are joined.
    """

    feature: Literal["feature", "neck"] = "feature"
    stage_norm: bool = False


class MSTAT(nn.Module):
    """Multi-stage spatio-temporal aggregation Transformer: a clip -> a feature of each stage.

    It draws nothing at random, and train() and eval() change nothing: noise is an argument (`mstat.model.randomness`).
    The number of frames is free at run time; frames have `config.image_size`.

    Raises:
        UserError: If the sizes in the config do not fit each other.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        check_sizes(config)
        self.config = config
        self.stem = Stem(config)
        self.stage1 = AttributeStage(config)
        _, second, third = block_counts(config)
        num_attribute_blocks = config.depths[2] if config.stage3_asta else 0  # an STA replaces the IAP
        stage2 = [STA(config) for _ in range(second)]
        stage3 = [AttributeSTA(config) if i < num_attribute_blocks else STA(config) for i in range(third)]
        self.stage2 = self.stage3 = None
        if "II" in config.stages:
            self.stage2 = IdentityStage(config, stage2, iap=config.iap in ("II", "both"), new_class_token=False)
        if "III" in config.stages:
            self.stage3 = IdentityStage(config, stage3, iap=config.iap in ("III", "both"), new_class_token=True)
        dims = dict(zip(config.stages, feature_dims(config), strict=True))
        self.necks = nn.ModuleDict({stage: Neck(dim) for stage, dim in dims.items()} if config.bnneck else {})
        self.embedding = Embedding()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # Xavier fits any width; a fixed std of 0.02 makes the branches of a narrow model too weak.
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile each block as a whole at its first call; names of weights stay.

        Blocks of one kind share the compiled code. Compiling the whole model would repeat the work for each block.
        """
        for module in self.modules():
            if isinstance(module, STA):
                module.compile(backend=backend, dynamic=False, fullgraph=True)

    def recompute_blocks(self) -> None:
        """Switch activation checkpointing on: a block keeps its input alone and is computed again in the backward pass.

        With deterministic kernels, gradients keep the same bits. A step costs one more forward pass.
        """
        for module in self.modules():
            if isinstance(module, STA):
                module.recompute = True

    def forward(
        self, frames_BTHWC: Tensor, tps_BTN: Tensor | None = None, keep_BR: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return the features of the stages, (B, A * D), (B, D), (B, D), in float32 also under autocast.

        Args:
            frames_BTHWC: uint8, RGB, at `config.image_size`.
            tps_BTN: int64, the source frame of each token (temporal patch shuffling); None shuffles nothing.
            keep_BR: Multiplier of each residual branch (drop path), in the order of `noise.num_residuals`; None
                is ones.

        Raises:
            UserError: If frames have another type or size.
        """
        self.check_frames(frames_BTHWC)
        counts = [RESIDUALS_PER_BLOCK * count for count in block_counts(self.config)]
        keep1, keep2, keep3 = (None, None, None) if keep_BR is None else keep_BR.split(counts, dim=1)
        tps_at_stem, tps_later = (tps_BTN, None) if self.config.tps_block == 0 else (None, tps_BTN)

        tokens_BNTD, class_BD = self.stem(frames_BTHWC, tps_at_stem)
        attributes, tokens_BNTD, class_BD = self.stage1(tokens_BNTD, class_BD, keep1, tps_later)
        features = [attributes]
        if self.stage2 is not None:
            features.append(self.stage2(tokens_BNTD, class_BD, keep2))
        if self.stage3 is not None:
            features.append(self.stage3(tokens_BNTD, None, keep3))
        return tuple(at_least_fp32(feature) for feature in features)

    def check_frames(self, frames_BTHWC: Tensor) -> None:
        """Raise UserError if frames have another type or size."""
        expected = (*self.config.image_size, 3)
        if frames_BTHWC.dtype != torch.uint8 or frames_BTHWC.dim() != 5 or frames_BTHWC.shape[2:] != expected:
            raise UserError(
                f"the model needs uint8 frames of shape (B, T, {', '.join(map(str, expected))}) and got "
                f"{frames_BTHWC.dtype} {tuple(frames_BTHWC.shape)}; `embed` resizes, or set model.image_size"
            )

    def compared(self, frames_BTHWC: Tensor, feature: Literal["feature", "neck"]) -> tuple[Tensor, ...]:
        """Features of the stages as they are compared, see `Embedding`: as `forward` returns them, or behind the necks.

        Raises:
            UserError: If the model has no necks.
        """
        features = self(frames_BTHWC)
        if feature == "feature":
            return features
        if not self.necks:
            raise UserError(
                "the features behind the BNNeck are asked for, but these weights have none: use --eval.feature feature"
            )
        with torch.autocast(frames_BTHWC.device.type, enabled=False):
            return tuple(neck(part, of_batch=False) for neck, part in zip(self.necks.values(), features, strict=True))

    @torch.no_grad()
    def embed(self, frames: np.ndarray | Tensor) -> Tensor:
        """Return joined features for comparison by cosine similarity: (B, T, H, W, 3) uint8 RGB -> (B, sum of dims).

        Frames of another size are resized (bilinear, antialiased) and rounded to bytes. The result is on the model's
        device, in float32 for models in half precision, and in float64 for models in double precision.
        """
        frames_BTHWC = torch.as_tensor(frames, device=self.stem.position.device)
        if frames_BTHWC.dim() == 5 and frames_BTHWC.shape[2:4] != tuple(self.config.image_size):
            images = frames_BTHWC.flatten(0, 1).permute(0, 3, 1, 2).float()
            images = F.interpolate(images, tuple(self.config.image_size), mode="bilinear", antialias=True)
            images = images.round().clamp(0, 255).to(frames_BTHWC.dtype).permute(0, 2, 3, 1)
            frames_BTHWC = images.unflatten(0, frames_BTHWC.shape[:2])
        return join_stages(self.compared(frames_BTHWC, self.embedding.feature), self.embedding.stage_norm)

    @torch.no_grad()
    def attribute_maps(self, frames_BTHWC: Tensor) -> Tensor:
        """Return the attention of Stage I's attributes over the patches (Fig. 11), (B, A, T, rows, columns).

        The attention on the class token is left out.

        Raises:
            UserError: If the model has no attributes.
        """
        if self.stage1.aap is None:
            raise UserError("model.stage1_aap is false: there are no attributes whose attention could be shown")
        tokens_BNTD, class_BD = self.stem(frames_BTHWC)
        tokens_BNTD, class_BD = run_blocks(self.stage1.blocks, tokens_BNTD, class_BD, None)
        to_patches_BAX = self.stage1.aap.attention(join(class_BD, tokens_BNTD))[..., 1:]
        rows, columns = self.stem.grid
        return to_patches_BAX.unflatten(-1, (rows, columns, -1)).permute(0, 1, 4, 2, 3)


def check_sizes(config: ModelConfig) -> None:
    """Raise UserError if a config cannot be built."""
    height, width = config.image_size
    if height % config.patch_size or width % config.patch_size:
        raise UserError(f"model.image_size {height}x{width} is not a multiple of model.patch_size {config.patch_size}")
    if config.width % config.num_heads:
        raise UserError(f"model.width {config.width} is not a multiple of model.num_heads {config.num_heads}")
    if len(config.depths) != 3 or min(config.depths) < 0:
        raise UserError(f"model.depths {config.depths} must be three counts of blocks, for Stages I, II and III")
    if config.stages not in (("I",), ("I", "II"), ("I", "III"), ("I", "II", "III")):
        raise UserError(f"model.stages {list(config.stages)} must be [I], [I, II], [I, III] or [I, II, III]")
    if not 0 <= config.tps_block < max(1, config.depths[0]):
        raise UserError(f"model.tps_block {config.tps_block} must be a block of Stage I, 0 to {config.depths[0] - 1}")
    if not 0 <= config.drop_path < 1:
        raise UserError(f"model.drop_path {config.drop_path} must be at least 0 and below 1")
    if not 0 <= config.tps_probability <= 1:
        raise UserError(f"model.tps_probability {config.tps_probability} must be between 0 and 1")
