"""Attention as heat maps: which proxies, how smooth, above which threshold, in which colour."""

from __future__ import annotations

import numpy as np
import pytest

from mstat.report import heatmaps

SIZE = (64, 32)


def spot(row: int, column: int, height: float = 1.0) -> np.ndarray:
    """A map of 2 frames on 8 x 4 patches with one bright patch."""
    maps = np.full((2, 8, 4), 0.01)
    maps[:, row, column] = height
    return maps


def test_different_proxies_are_chosen() -> None:
    """The most concentrated first, then one that looks elsewhere before one that looks at the same; no more than are
    there."""
    maps = np.stack([spot(1, 1, 0.5), spot(1, 1, 0.4), spot(6, 2, 0.3), np.full((2, 8, 4), 0.1)])
    assert heatmaps.choose(maps)[:2] == [0, 2]
    assert sorted(heatmaps.choose(maps)) == [0, 1, 2, 3]
    assert heatmaps.choose(maps[:2]) == [0, 1]


def test_smooth_leaves_no_grid() -> None:
    """No step between neighbouring pixels as large as one between patches; the level stays."""
    step = np.repeat([0.0, 1.0], 4)[:, None] * np.ones(4)
    smoothed = heatmaps.smooth(step, SIZE)
    assert smoothed.shape == SIZE
    assert np.abs(np.diff(smoothed, axis=0)).max() < 0.1
    assert (smoothed[0, 0], smoothed[-1, 0]) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=1e-3))


def test_weak_attention_is_not_shown() -> None:
    """From a proxy's least to its most, below the threshold nothing; the place of the most is the bright patch's."""
    shown = heatmaps.shown(spot(6, 2)[None], SIZE)
    assert shown.shape == (1, 2, *SIZE)
    assert shown.max() == pytest.approx(1)
    assert ((shown == 0) | (shown >= heatmaps.THRESHOLD)).all()
    row, column = np.unravel_index(shown[0, 0].argmax(), SIZE)
    assert (row // 8, column // 8) == (6, 2)
    assert 0.02 < (shown > 0).mean() < 0.25


def test_share_tells_a_look_from_none() -> None:
    """A proxy that looks at a spot has more of its attention there than the spot has of the frames; one that looks
    everywhere alike has not."""
    spotted, flat = spot(3, 1), np.full((2, 8, 4), 0.1) + spot(3, 1) * 1e-4
    for maps, ratio in ((spotted, (4, 20)), (flat, (0.9, 1.1))):
        attention, area = heatmaps.share(maps, heatmaps.shown(maps[None], SIZE)[0])
        assert ratio[0] < attention / area < ratio[1]


def test_one_colour_a_proxy() -> None:
    """Each proxy's place in its colour, as strong as its attention; the frame itself where none looks; where two meet,
    the stronger one, unmixed."""
    frames = np.full((1, 4, 2, 3), 100, dtype=np.uint8)
    shown = np.zeros((2, 1, 4, 2))
    shown[0, 0, 0], shown[1, 0, 1] = 1.0, 0.6
    shown[:, 0, 2, 0] = 0.7, 0.9
    red, blue = (200, 0, 0), (0, 0, 200)
    painted = heatmaps.overlay(frames, shown, [red, blue])[0].astype(float)

    def mixed(colour: tuple[int, int, int], strength: float) -> np.ndarray:
        alpha = heatmaps.OPACITY * strength
        return np.round((1 - alpha) * 100 + alpha * np.array(colour))

    np.testing.assert_array_equal(painted[0, 0], mixed(red, 1.0))
    np.testing.assert_array_equal(painted[1, 1], mixed(blue, 0.6))
    np.testing.assert_array_equal(painted[2, 0], mixed(blue, 0.9))
    np.testing.assert_array_equal(painted[3, 0], [100, 100, 100])
