"""Select the frames of a clip from a tracklet. Pure functions of a length and a random generator."""

from __future__ import annotations

import numpy as np

from mstat.config import ClipConfig, EvalConfig


def spread(num_available: int, num_frames: int) -> np.ndarray:
    """Return `num_frames` evenly spaced frame numbers, floor(i n / T); frames repeat if there are fewer than T."""
    return np.arange(num_frames) * num_available // num_frames


def training_frames(num_available: int, config: ClipConfig, rng: np.random.Generator) -> np.ndarray:
    """Return the frame numbers (T,) of one training clip, in ascending order."""
    num_frames = config.num_frames
    if num_available < num_frames:
        return spread(num_available, num_frames)
    if config.sampling == "segments":
        edges = np.arange(num_frames + 1) * num_available // num_frames
        return rng.integers(edges[:-1], edges[1:])
    # A short tracklet gets a smaller stride.
    stride = min(config.stride, (num_available - 1) // max(num_frames - 1, 1)) if num_frames > 1 else 1
    start = rng.integers(num_available - (num_frames - 1) * stride)
    return start + np.arange(num_frames) * stride


def evaluation_clips(num_available: int, config: EvalConfig, tracklet: int) -> list[np.ndarray]:
    """Return the clips of a tracklet, each of frame numbers (T,); their features are averaged.

    `sample` gives one clip of T frames, drawn by (eval.seed, tracklet) and kept in order. `clips` gives all frames in
    consecutive clips; the last one repeats its own frames evenly.
    """
    num_frames = config.num_frames
    if config.mode == "sample":
        if num_available <= num_frames:
            return [spread(num_available, num_frames)]
        rng = np.random.default_rng([config.seed, tracklet])
        return [np.sort(rng.choice(num_available, num_frames, replace=False))]
    starts = range(0, num_available, num_frames)
    return [start + spread(min(num_frames, num_available - start), num_frames) for start in starts]
