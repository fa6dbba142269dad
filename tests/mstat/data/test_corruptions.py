"""Degraded frames: as much as was asked for, alike on all frames, another place for another tracklet."""

from __future__ import annotations

import numpy as np
import pytest

from mstat.data.augment import GREY
from mstat.data.corruptions import occlude, shrink

HEIGHT, WIDTH = 64, 32


def frames(num_frames: int = 3) -> np.ndarray:
    """Without grey in it."""
    return np.random.default_rng(0).integers(0, GREY, (num_frames, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_as_much_is_covered_as_was_asked_for(fraction: float) -> None:
    """One rectangle, the same on every frame, its area right to half a row; all else, and the input, stay."""
    clip = frames()
    before = clip.copy()
    for tracklet in range(40):
        covered = occlude(clip, fraction, 0, tracklet)
        assert np.array_equal(clip, before)
        grey = (covered == GREY).all(-1)
        assert (grey == grey[0]).all()
        rows, columns = grey[0].any(1), grey[0].any(0)
        assert np.array_equal(grey[0], np.outer(rows, columns))
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == np.diff(np.flatnonzero(columns)).max(initial=1) == 1
        assert grey[0].mean() == pytest.approx(fraction, abs=0.5 / WIDTH + 1e-9)
        assert np.array_equal(covered[~grey], clip[~grey])


def test_nothing_is_covered_where_nothing_should_be() -> None:
    """Occlusion 0."""
    assert np.array_equal(occlude(frames(), 0.0, 0, 3), frames())


def test_the_place_is_drawn_by_seed_and_tracklet() -> None:
    """The same twice; others for other tracklets and seeds; over many, nearly all pixels have their turn."""

    def place(seed: int, tracklet: int) -> np.ndarray:
        return (occlude(frames(1), 0.2, seed, tracklet) == GREY).all(-1)[0]

    assert np.array_equal(place(0, 5), place(0, 5))
    assert not np.array_equal(place(0, 5), place(0, 6))
    assert not np.array_equal(place(0, 5), place(1, 5))
    assert np.any([place(0, tracklet) for tracklet in range(200)], axis=0).mean() > 0.97  # corners seldom have


def test_frames_are_shrunk_and_never_enlarged() -> None:
    """To the height, in their own aspect; constant pictures stay constant; low ones are the same object."""
    assert shrink(frames(), 16).shape == (3, 16, 8, 3)
    assert shrink(frames(), 1).shape == (3, 1, 1, 3)
    assert (shrink(np.full((2, 64, 32, 3), 77, np.uint8), 10) == 77).all()
    clip = frames()
    assert shrink(clip, 64) is clip
    assert shrink(clip, 100) is clip
