"""Augmentation of a training clip: flip, colour, crop and erasing, each the same on every frame of the clip.

Only `clip.erase_per_frame` treats frames differently. Augmentation works on uint8 frames in the loader's workers.
Padding and, by default, erased areas get the pixel mean that the model subtracts, so that the model sees zeros. What is
off draws no random number.

Random erasing follows its paper and its authors' code (Zhong et al. 2017): 2 to 40 % of the area, and an aspect (height
to width) drawn uniformly from 0.3 to 3.3, so that about three quarters of the rectangles are higher than wide.
torchvision draws the logarithm of the aspect uniformly (`clip.erase_aspect log`), and at most a third of the area.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance

from mstat.config import ClipConfig

GREY = 128  # mid-grey: the pixel mean of a model, unless pretrained weights come with another one
Fill = int | Sequence[int]  # one value for all channels, or one for each
ERASE_AREA = (0.02, 0.4)
ERASE_ASPECT = (0.3, 1 / 0.3)
ENHANCERS = {  # by name of the setting
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


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
    if config.brightness or config.contrast or config.saturation or config.hue:
        frames_THWC = jitter(frames_THWC, config, rng)  # before the crop, whose border must keep the fill
    out = crop(frames_THWC, config.crop_padding, rng, out, fill)
    for part_THWC in out[:, None] if config.erase_per_frame else out[None]:  # views: of one frame each, or of all
        if rng.random() < config.erase:
            erase(part_THWC, config, rng, fill)
    return out


def jitter(frames_THWC: np.ndarray, config: ClipConfig, rng: np.random.Generator) -> np.ndarray:
    """Change the colours of a copy by random amounts in a random order, as torchvision's ColorJitter does."""
    strengths = {name: strength for name in ENHANCERS if (strength := getattr(config, name))}
    amounts = {name: rng.uniform(1 - strength, 1 + strength) for name, strength in strengths.items()}
    if config.hue:
        amounts["hue"] = rng.uniform(-config.hue, config.hue)
    pictures = [Image.fromarray(frame_HWC) for frame_HWC in frames_THWC]
    for name in rng.permutation(list(amounts)).tolist():
        pictures = [recolour(picture, name, amounts[name]) for picture in pictures]
    return np.stack([np.asarray(picture) for picture in pictures])


def recolour(picture: Image.Image, name: str, amount: float) -> Image.Image:
    """Change one quantity of an RGB picture with Pillow, as torchvision does for Pillow pictures.

    Args:
        name: `brightness`, `contrast` or `saturation`, which are multiplied by `amount`, or `hue`, which turns by this
            fraction of the colour circle.
    """
    if name != "hue":
        return ENHANCERS[name](picture).enhance(amount)
    hue, saturation, value = picture.convert("HSV").split()
    turned = hue.point([(angle + int(amount * 255)) % 256 for angle in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


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


def erase(frames_THWC: np.ndarray, config: ClipConfig, rng: np.random.Generator, fill: Fill = GREY) -> None:
    """Erase a random rectangle in place, the same on all frames; draw again if it does not fit into the frame."""
    height, width = frames_THWC.shape[1:3]
    for _ in range(100):
        area = rng.uniform(*ERASE_AREA) * height * width
        if config.erase_aspect == "log":
            aspect = np.exp(rng.uniform(*np.log(ERASE_ASPECT)))
        else:
            aspect = rng.uniform(*ERASE_ASPECT)
        h, w = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < h < height and 0 < w < width:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
            noise = config.erase_fill == "noise"
            content = rng.integers(256, size=(h, w, 3), dtype=np.uint8) if noise else fill
            frames_THWC[:, y : y + h, x : x + w] = content
            return
