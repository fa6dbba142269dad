"""Heat maps of attribute proxies: attention of chosen proxies over consecutive frames (Fig. 11).

Shapes: T frames, H x W pixels, h x w patches, A attribute proxies, C chosen ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

# One colour a proxy, told apart also by those who see red and green alike (Okabe and Ito's set).
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
NUM_CHOSEN = 4  # proxies that are shown if none are asked for
THRESHOLD = 0.5  # of the way from a proxy's least attention to its most: what is below is not shown
FILTERS = 3  # average filters, one after the other
OPACITY = 0.75


def choose(maps_AThw: np.ndarray, count: int = NUM_CHOSEN) -> list[int]:
    """The proxies that are looked at: the most concentrated first, then those that overlap least with these.

    Concentration is the share of attention on the tenth of the patches that has most of it.
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
    """Return the drawn part of each proxy's attention, (C, T, H, W) for frames of `size` (H, W).

    Average-filtered, so that no grid is left to see; from 0, its least in the clip, to 1, its most; then 0 where it is
    below THRESHOLD.
    """
    smoothed = np.stack([[smooth(map_hw, size) for map_hw in maps_Thw] for maps_Thw in maps_CThw])
    least, most = (pick(smoothed, axis=(1, 2, 3), keepdims=True) for pick in (np.min, np.max))
    strength = (smoothed - least) / (most - least).clip(1e-12)
    return np.where(strength >= THRESHOLD, strength, 0.0)


def smooth(map_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map on the patch grid as one of `size` (H, W) pixels, average-filtered."""
    image = Image.fromarray(map_hw.astype(np.float32), "F").resize(size[::-1], Image.Resampling.BILINEAR)
    values = np.asarray(image)
    side = 2 * max(1, size[0] // map_hw.shape[0] // 2) + 1  # about a patch
    for _ in range(FILTERS):
        values = uniform_filter(values, side, mode="nearest")
    return values


def share(maps_Thw: np.ndarray, shown_THW: np.ndarray) -> tuple[float, float]:
    """Return the share of a proxy's attention that is drawn, and the share of the frames that this part covers.

    A map is stretched from its least to its most: these tell a proxy that looks at something from one that hardly does.
    """
    drawn = shown_THW > 0
    smoothed = np.stack([smooth(map_hw, shown_THW.shape[1:]) for map_hw in maps_Thw])
    return float(smoothed[drawn].sum() / smoothed.sum()), float(drawn.mean())


def overlay(frames_THW3: np.ndarray, shown_CTHW: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Frames with the attention of each proxy in its colour, brighter where it is stronger; uint8 (T, H, W, 3).

    Where proxies meet, the strongest is seen: mixed colours would belong to none.
    """
    paint_THW3 = np.asarray(colours, dtype=np.float64)[shown_CTHW.argmax(axis=0)]
    alpha_THW1 = OPACITY * shown_CTHW.max(axis=0)[..., None]
    return ((1 - alpha_THW1) * frames_THW3 + alpha_THW1 * paint_THW3).round().clip(0, 255).astype(np.uint8)
