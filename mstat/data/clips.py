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

    `sample` gives one clip of T frames, drawn by (eval.seed, tracklet) and kept in order. `segments`, `segments-middle`
    and `segments-drawn` give one clip with a frame of each of T equal parts: the first, the middle one, or one drawn by
    (eval.seed, tracklet). `clips` and `stride` give all frames, see `dense_clips`.
    """
    num_frames = config.num_frames
    if config.mode in ("clips", "stride"):
        return dense_clips(num_available, num_frames, config.stride if config.mode == "stride" else 1)
    if config.mode == "segments" or num_available <= num_frames:
        return [spread(num_available, num_frames)]
    edges = np.arange(num_frames + 1) * num_available // num_frames
    if config.mode == "segments-middle":
        return [(edges[:-1] + edges[1:] - 1) // 2]
    rng = np.random.default_rng([config.seed, tracklet])
    if config.mode == "segments-drawn":
        return [rng.integers(edges[:-1], edges[1:])]
    return [np.sort(rng.choice(num_available, num_frames, replace=False))]


def dense_clips(num_available: int, num_frames: int, stride: int) -> list[np.ndarray]:
    """Return clips of every `stride`-th frame, which together hold each frame once.

    Each window of T * stride frames gives `stride` clips, one for each offset. The remainder gets the largest stride
    for which it holds a clip; fewer than T last frames are repeated evenly. Apart from this repetition, it is the test
    of CAL (Gu et al. 2022), and with stride 1 that of AP3D.
    """
    clips: list[np.ndarray] = []
    start = 0
    while (remaining := num_available - start) >= num_frames:
        step = min(stride, remaining // num_frames)
        clips += [start + offset + np.arange(num_frames) * step for offset in range(step)]
        start += num_frames * step
    if remaining:
        clips.append(start + spread(remaining, num_frames))
    return clips
