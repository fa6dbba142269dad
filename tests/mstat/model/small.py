"""A small MSTAT with everything in it, and clips for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from mstat.config import ModelConfig
from mstat.model import MSTAT

# A grid of 4 x 2 patches: not square, so that rows and columns cannot be mistaken for each other.
SMALL = ModelConfig(
    image_size=(32, 16),
    patch_size=8,
    width=32,
    num_heads=4,
    depths=(2, 2, 1),
    num_attributes=5,
    num_temporal_attributes=3,
    num_prototypes=7,
)


def build(seed: int = 0, **changes: Any) -> MSTAT:
    """A small model. Its A-STA blocks are given a voice (alpha = 0.5), which at the start they do not have."""
    torch.manual_seed(seed)
    model = MSTAT(dataclasses.replace(SMALL, **changes))
    for block in model.stage3.blocks if model.stage3 else []:
        nn.init.constant_(block.get_parameter("alpha"), 0.5)
    return model


def clips(batch: int = 2, frames: int = 4, size: tuple[int, int] = (32, 16), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, frames, *size, 3), dtype=torch.uint8, generator=generator)
