"""MSTAT that draws its own noise, for training loops of other people.

Shape suffixes: B clips, T frames, N patches of a frame, R residual branches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mstat.model.mstat import MSTAT
from mstat.model.randomness import draw_noise

STREAM = 3  # apart from those of mstat.data.sampler under one seed


class NoisyMSTAT(nn.Module):
    """MSTAT with temporal patch shuffling and drop path in train mode, and without them in eval mode.

    MSTAT takes its noise as an argument. This module draws it, so that it can stand in any loop: plain PyTorch,
    Lightning, the Trainer of Transformers. The noise of a forward pass depends on `seed`, on the rank, and on the
    number of forward passes in train mode so far, which is part of the state dict: a resumed run goes on with the
    noise that it would have had.

    Args:
        model: The model; `noisy.model` has its weights, for `embed` and for saving.
        seed: Seed of the noise.
    """

    calls: Tensor

    def __init__(self, model: MSTAT, seed: int = 0) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, frames_BTHWC: Tensor) -> tuple[Tensor, ...]:
        """Return the features of the stages, as `MSTAT.forward`.

        Args:
            frames_BTHWC: uint8, RGB, at `model.config.image_size`.
        """
        if not self.training:
            features: tuple[Tensor, ...] = self.model(frames_BTHWC)
            return features
        tps_BTN, keep_BR = self.draw(len(frames_BTHWC), frames_BTHWC.shape[1])
        self.calls += 1
        return self.model(frames_BTHWC, tps_BTN.to(frames_BTHWC.device), keep_BR.to(frames_BTHWC.device))

    def draw(self, num_clips: int, num_frames: int) -> tuple[Tensor, Tensor]:
        """Return the noise of the next forward pass: `tps_BTN` int64 and `keep_BR` float32, on the CPU."""
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        seeds: Sequence[int] = [self.seed, STREAM, rank, int(self.calls)]
        rng = np.random.default_rng(seeds)
        noise = [draw_noise(rng, self.model.config, num_frames) for _ in range(num_clips)]
        tps_BTN, keep_BR = (torch.from_numpy(np.stack(parts)) for parts in zip(*noise, strict=True))
        return tps_BTN, keep_BR
