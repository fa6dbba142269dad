"""Colour histograms: a re-identification baseline without any learning."""

from __future__ import annotations

import numpy as np

from mstat.errors import UserError

BINS = (8, 4, 4)  # hue, saturation, value


def hsv_histogram(frames_THWC: np.ndarray, stripes: int = 1) -> np.ndarray:
    """Return a tracklet's joint HSV histogram, averaged over its frames; compare two by their scalar product.

    Args:
        frames_THWC: uint8 RGB, T, H, W, 3.
        stripes: Number of horizontal stripes of equal height (rounded to pixels); their histograms are concatenated.

    Returns:
        float32 of length stripes * 128 and L2 norm 1.

    Raises:
        UserError: If frames have another shape or type, or fewer rows than stripes.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8 or not frames_THWC.size:
        raise UserError(f"hsv_histogram: frames must be uint8 T,H,W,3, not {frames_THWC.dtype} {frames_THWC.shape}")
    num_frames, height, width, _ = frames_THWC.shape
    if not 1 <= stripes <= height:
        raise UserError(f"hsv_histogram: {stripes} stripes do not fit into {height} rows")
    bins_THW = _hsv_bins(frames_THWC)
    num_bins = BINS[0] * BINS[1] * BINS[2]
    stripe_H = np.arange(height) * stripes // height
    counts = np.bincount((bins_THW + stripe_H[:, None] * num_bins).ravel(), minlength=stripes * num_bins)
    # All frames have one size, so the histogram of all pixels is the mean of the frames' histograms.
    shares = counts.reshape(stripes, num_bins) / (num_frames * width * np.bincount(stripe_H))[:, None]
    return (shares.ravel() / np.linalg.norm(shares)).astype(np.float32)


def _hsv_bins(frames_THWC: np.ndarray) -> np.ndarray:
    """Return the index of each pixel's bin in the joint histogram: T, H, W."""
    red, green, blue = np.moveaxis(frames_THWC.astype(np.float32), -1, 0)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(chroma, 1.0)  # chroma is a whole number of grey levels; grey (0) has hue 0
    hue = np.where(
        value == red,
        (green - blue) / safe % 6.0,
        np.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    saturation = chroma / np.maximum(value, 1.0)
    levels = (hue / 6.0, saturation, value / 255.0)
    index = np.zeros(value.shape, dtype=np.int64)
    for level, num_bins in zip(levels, BINS, strict=True):
        index = index * num_bins + np.minimum((level * num_bins).astype(np.int64), num_bins - 1)
    return index
