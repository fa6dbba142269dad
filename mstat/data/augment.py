"""Augmentation of a training clip: flip, crop and erasing, each the same on every frame of the clip.

Augmentation works on uint8 frames in the loader's workers. Padding and erased areas get the pixel mean that the model
subtracts, so that the model sees zeros. Random erasing follows its paper and its authors' code (Zhong et al. 2017): 2
to 40 % of the area, and an aspect (height to width) drawn uniformly from 0.3 to 3.3, so that about three quarters of
the rectangles are higher than wide.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mstat.config import ClipConfig

GREY = 128  # mid-grey: the pixel mean of a model, unless pretrained weights come with another one
Fill = int | Sequence[int]  # one value for all channels, or one for each
ERASE_AREA = (0.02, 0.4)
ERASE_ASPECT = (0.3, 1 / 0.3)


def augment(
    frames_THWC: np.ndarray,
    config: ClipConfig,
    rng: np.random.Generator,
    out: np.ndarray | None = None,
    fill: Fill = GREY,
) -> np.ndarray:
    """Augment a copy of the clip's frames, uint8 (T, H, W, 3), in `out` if given. `fill` colours missing areas."""
    if rng.random() < config.flip:
        # NumPy flips three-byte pixels one by one, which takes ten times as long.
        frames_THWC = torch.from_numpy(frames_THWC).flip(2).numpy()
    out = crop(frames_THWC, config.crop_padding, rng, out, fill)
    if rng.random() < config.erase:
        erase(out, rng, fill)
    return out


def crop(
    frames_THWC: np.ndarray,
    padding: int,
    rng: np.random.Generator,
    out: np.ndarray | None = None,
    fill: Fill = GREY,
) -> np.ndarray:
    """Shift a copy by up to `padding` pixels in each direction, in `out` if given, and fill the uncovered border."""
    height, width = frames_THWC.shape[1:3]
    dy, dx = rng.integers(-padding, padding + 1, 2)
    out = np.empty_like(frames_THWC) if out is None else out
    out[:] = fill
    out[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = frames_THWC[
        :, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return out


def erase(frames_THWC: np.ndarray, rng: np.random.Generator, fill: Fill = GREY) -> None:
    """Fill a random rectangle in place; draw again if it does not fit into the frame."""
    height, width = frames_THWC.shape[1:3]
    for _ in range(100):
        area = rng.uniform(*ERASE_AREA) * height * width
        aspect = rng.uniform(*ERASE_ASPECT)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h < height and 0 < w < width:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            frames_THWC[:, y : y + h, x : x + w] = fill
            return
