"""Heat maps of attribute proxies: attention of chosen proxies over consecutive frames (Fig. 11).

Shapes: T frames, H x W pixels, h x w patches, A attribute proxies, C chosen ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

# One colour for each proxy, distinguishable with colour blindness (Okabe and Ito's palette).
COLOURS = {
    "orange": (230, 159, 0),
    "blue": (0, 114, 178),
    "green": (0, 158, 115),
    "pink": (204, 121, 167),
    "yellow": (240, 228, 66),
    "light blue": (86, 180, 233),
    "red": (213, 94, 0),
    "white": (255, 255, 255),
}
NUM_CHOSEN = 4  # proxies to show if none are requested
THRESHOLD = 0.5  # attention to show, at least; 0 is a proxy's minimum and 1 its maximum
FILTERS = 3  # successive average filters
OPACITY = 0.75


def choose(maps_AThw: np.ndarray, count: int = NUM_CHOSEN) -> list[int]:
    """Choose proxies to show: the most concentrated first, then those that overlap least with the chosen ones.

    Concentration is the share of attention on the 10 % of patches with most attention.
    """
    flat = maps_AThw.reshape(len(maps_AThw), -1)
    share = flat / flat.sum(axis=1, keepdims=True).clip(1e-12)
    tenth = max(1, share.shape[1] // 10)
    concentration = np.sort(share, axis=1)[:, -tenth:].sum(axis=1)
    direction = share / np.linalg.norm(share, axis=1, keepdims=True).clip(1e-12)
    chosen: list[int] = []
    while len(chosen) < min(count, len(flat)):
        overlap = (direction @ direction[chosen].T).max(axis=1) if chosen else np.zeros(len(flat))
        worth = concentration * (1 - overlap)
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
    return chosen


def shown(maps_CThw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the part of each proxy's attention to draw, (C, T, H, W) for frames of `size` (H, W).

    Attention is average-filtered to hide the patch grid, scaled from 0 (minimum in the clip) to 1 (maximum), and set to
    0 below THRESHOLD.
    """
    smoothed = np.stack([[smooth(map_hw, size) for map_hw in maps_Thw] for maps_Thw in maps_CThw])
    least, most = (pick(smoothed, axis=(1, 2, 3), keepdims=True) for pick in (np.min, np.max))
    strength = (smoothed - least) / (most - least).clip(1e-12)
    return np.where(strength >= THRESHOLD, strength, 0.0)


def smooth(map_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map on the patch grid to `size` (H, W) pixels and average-filter it."""
    from scipy.ndimage import uniform_filter  # a training would import SciPy with the report, before its first step

    image = Image.fromarray(map_hw.astype(np.float32), "F").resize(size[::-1], Image.Resampling.BILINEAR)
    values = np.asarray(image)
    side = 2 * max(1, size[0] // map_hw.shape[0] // 2) + 1  # about a patch
    for _ in range(FILTERS):
        values = uniform_filter(values, side, mode="nearest")
    return values


def share(maps_Thw: np.ndarray, shown_THW: np.ndarray) -> tuple[float, float]:
    """Return the share of a proxy's attention that is drawn, and the share of the frames that this part covers.

    Since maps are scaled to their range, only these numbers distinguish a focused proxy from a diffuse one.
    """
    drawn = shown_THW > 0
    smoothed = np.stack([smooth(map_hw, shown_THW.shape[1:]) for map_hw in maps_Thw])
    return float(smoothed[drawn].sum() / smoothed.sum()), float(drawn.mean())


def overlay(frames_THW3: np.ndarray, shown_CTHW: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Draw the attention of each proxy over the frames in its colour; uint8 (T, H, W, 3).

    Where proxies overlap, the strongest is drawn, because a mixed colour would belong to none.
    """
    paint_THW3 = np.asarray(colours, dtype=np.float64)[shown_CTHW.argmax(axis=0)]
    alpha_THW1 = OPACITY * shown_CTHW.max(axis=0)[..., None]
    return ((1 - alpha_THW1) * frames_THW3 + alpha_THW1 * paint_THW3).round().clip(0, 255).astype(np.uint8)
