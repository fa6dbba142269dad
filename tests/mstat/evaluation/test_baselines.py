"""Colour histograms: what they count, and that they are what they say."""

import colorsys

import numpy as np
import pytest

from mstat.evaluation.baselines import BINS, hsv_histogram


def test_one_colour_fills_the_bin_that_colorsys_names() -> None:
    """A frame of one colour has one bin, at the place that Python's own HSV conversion gives."""
    rng = np.random.default_rng(0)
    for colour in [*rng.integers(0, 256, size=(200, 3)), np.zeros(3), np.full(3, 255), np.array([255, 0, 0])]:
        frames_THWC = np.broadcast_to(colour.astype(np.uint8), (2, 4, 3, 3))
        histogram = hsv_histogram(frames_THWC)
        levels = np.array(colorsys.rgb_to_hsv(*(colour / 255)))
        cells = np.minimum((levels * BINS + 1e-6).astype(int), np.array(BINS) - 1)
        near = np.minimum((levels * BINS - 1e-6).clip(0).astype(int), np.array(BINS) - 1)  # on an edge, either side
        assert histogram.argmax() in (np.ravel_multi_index(cells, BINS), np.ravel_multi_index(near, BINS))
        assert np.count_nonzero(histogram) == 1


@pytest.mark.parametrize("stripes", [1, 6])
def test_unit_length_and_independent_of_the_order_of_frames(stripes: int) -> None:
    """float32, stripes * bins long, L2 norm 1, and the same for frames in any order."""
    frames_THWC = np.random.default_rng(1).integers(0, 256, (5, 128, 64, 3), dtype=np.uint8)
    histogram = hsv_histogram(frames_THWC, stripes)
    assert histogram.dtype == np.float32
    assert histogram.shape == (stripes * np.prod(BINS),)
    assert np.linalg.norm(histogram) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(histogram, hsv_histogram(frames_THWC[::-1], stripes))


def test_average_of_frames_is_the_average_of_their_histograms() -> None:
    """Each frame is normalised before the average: two tracklets of one frame add up to the tracklet of both."""
    frames_THWC = np.random.default_rng(2).integers(0, 256, (2, 12, 8, 3), dtype=np.uint8)
    for stripes in (1, 5):  # 12 rows do not divide by 5: each stripe counts for itself
        pixels = [_shares(frame, stripes) for frame in frames_THWC]
        expected = np.mean(pixels, axis=0)
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(hsv_histogram(frames_THWC, stripes), expected, atol=1e-6)


def _shares(frame_HWC: np.ndarray, stripes: int) -> np.ndarray:
    """Each stripe's histogram with sum 1, from stripes cut out one by one."""
    rows = np.arange(len(frame_HWC)) * stripes // len(frame_HWC)
    parts = [hsv_histogram(frame_HWC[None, rows == stripe]) for stripe in range(stripes)]
    return np.concatenate([part / part.sum() for part in parts])


def test_stripes_tell_upside_down_from_upright() -> None:
    """The whole frame's histogram is the same for a frame on its head, the stripes' is not."""
    frames_THWC = np.zeros((1, 12, 4, 3), dtype=np.uint8)
    frames_THWC[:, 6:] = (200, 30, 30)
    turned = frames_THWC[:, ::-1]
    assert hsv_histogram(frames_THWC) @ hsv_histogram(turned) == pytest.approx(1.0, abs=1e-6)
    assert hsv_histogram(frames_THWC, 6) @ hsv_histogram(turned, 6) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("frames", "stripes"),
    [
        (np.zeros((2, 8, 4), np.uint8), 1),
        (np.zeros((2, 8, 4, 3), np.float32), 1),
        (np.zeros((0, 8, 4, 3), np.uint8), 1),
        (np.zeros((2, 4, 4, 3), np.uint8), 6),
        (np.zeros((2, 4, 4, 3), np.uint8), 0),
    ],
)
def test_refuses_what_is_no_tracklet(frames: np.ndarray, stripes: int) -> None:
    """Other shapes or types, no frames, and stripes that do not fit are a ValueError, not a wrong number."""
    with pytest.raises(ValueError, match="hsv_histogram"):
        hsv_histogram(frames, stripes)
