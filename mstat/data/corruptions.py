"""Corrupt frames for robustness tests: occlusion and low resolution. Pure functions of (seed, tracklet).

Shapes: T frames, H, W, C = 3.
"""

from __future__ import annotations

import numpy as np

from mstat.data.augment import GREY
from shards import images

OCCLUSION = 1  # separates this draw from the draw of frames, whose key is (seed, tracklet)


def occlude(frames_THWC: np.ndarray, fraction: float, seed: int, tracklet: int) -> np.ndarray:
    """Copy the frames with one mid-grey rectangle over `fraction` of the area, at the same position on every frame.

    The grey is the same for all models, including those that subtract another mean, so that all see the same frames.

    The rectangle's shape, between full height and full width of the frame, and its position are drawn by (seed,
    tracklet). Both change continuously with the fraction: a small rectangle lies roughly where a larger one does.
    """
    height, width = frames_THWC.shape[1:3]
    shape, down, right = np.random.default_rng([seed, tracklet, OCCLUSION]).random(3)
    rows = min(height, max(1, round(height * fraction**shape))) if fraction else 0
    columns = min(width, round(fraction * height * width / rows)) if rows else 0
    top, left = round(down * (height - rows)), round(right * (width - columns))
    covered_THWC = frames_THWC.copy()
    covered_THWC[:, top : top + rows, left : left + columns] = GREY
    return covered_THWC


def shrink(frames_THWC: np.ndarray, height: int) -> np.ndarray:
    """Shrink frames to `height` pixels with their own aspect; return frames that are not higher unchanged."""
    stored_height, stored_width = frames_THWC.shape[1:3]
    if stored_height <= height:
        return frames_THWC
    return images.resize(frames_THWC, (height, max(1, round(stored_width * height / stored_height))))
