"""Worse frames for a test of robustness: a part covered, or too few pixels. Pure functions of (seed, tracklet).

Shapes: T frames, H, W, C = 3.
"""

from __future__ import annotations

import numpy as np

from mstat.data.augment import GREY
from shards import images

OCCLUSION = 1  # keeps this draw apart from that of the frames, which is keyed by (seed, tracklet) alone


def occlude(frames_THWC: np.ndarray, fraction: float, seed: int, tracklet: int) -> np.ndarray:
    """A copy with one rectangle of mid-grey over `fraction` of the area, at the same place on every frame.

    The grey is the same for all models, also for those that subtract another mean: all are tested on equal pictures.

    Its shape, between as high and as wide as the frame, and its place are drawn by (seed, tracklet) and grow with the
    fraction without jumping: what a small one covers lies about where a larger one does.
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
    """Frames at `height` pixels and their own aspect; those that are no higher stay as they are."""
    stored_height, stored_width = frames_THWC.shape[1:3]
    if stored_height <= height:
        return frames_THWC
    return images.resize(frames_THWC, (height, max(1, round(stored_width * height / stored_height))))
