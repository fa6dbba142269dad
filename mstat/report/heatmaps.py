"""What a stage's attributes look at: attention of chosen proxies over consecutive frames (Fig. 11).

Shapes: T frames, H x W pixels, h x w patches, A attribute proxies, C chosen ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

# One colour a proxy, told apart also by those who see red and green alike (Okabe and Ito's set).
COLOURS = {"orange": (230, 159, 0), "blue": (0, 114, 178), "green": (0, 158, 115), "pink": (204, 121, 167)}
THRESHOLD = 0.5  # of a proxy's largest value: what is below is not shown
FILTERS = 3  # average filters, one after the other
OPACITY = 0.75


def choose(maps_AThw: np.ndarray, count: int = len(COLOURS)) -> list[int]:
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


def smooth(map_hw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map on the patch grid as one of `size` (H, W) pixels, average-filtered; no grid is left to see."""
    image = Image.fromarray(map_hw.astype(np.float32), "F").resize(size[::-1], Image.Resampling.BILINEAR)
    values = np.asarray(image)
    radius = max(1, size[0] // map_hw.shape[0] // 2)
    window = np.ones(2 * radius + 1) / (2 * radius + 1)
    for _ in range(FILTERS):
        for axis in (0, 1):
            padded = np.pad(values, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
            values = np.apply_along_axis(np.convolve, axis, padded, window, mode="valid")
    return values


def overlay(frames_THW3: np.ndarray, maps_CThw: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Frames with the attention of each proxy in its colour, brighter where it is stronger; uint8 (T, H, W, 3)."""
    shown = frames_THW3.astype(np.float64)
    size = frames_THW3.shape[1:3]
    for maps_Thw, colour in zip(maps_CThw, colours, strict=True):
        values = np.stack([smooth(map_hw, size) for map_hw in maps_Thw])
        values = values / max(values.max(), 1e-12)
        alpha = OPACITY * np.where(values >= THRESHOLD, values, 0.0)[..., None]
        shown = (1 - alpha) * shown + alpha * np.asarray(colour, dtype=np.float64)
    return shown.round().clip(0, 255).astype(np.uint8)
