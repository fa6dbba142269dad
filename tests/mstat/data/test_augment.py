"""Augmentation: the same on every frame, the right amounts, the input untouched."""

from __future__ import annotations

import numpy as np

from mstat.config import ClipConfig
from mstat.data.augment import GREY, augment, crop, erase


def frames(num_frames: int = 3, height: int = 64, width: int = 32) -> np.ndarray:
    """The same picture on every frame, without grey in it."""
    picture = np.random.default_rng(0).integers(0, GREY, (1, height, width, 3), dtype=np.uint8)
    return np.repeat(picture, num_frames, axis=0)


def test_every_frame_of_a_clip_is_changed_alike() -> None:
    """Equal frames stay equal, in a shape and type that do not change, and the input is left alone."""
    clip = frames()
    before = clip.copy()
    for seed in range(50):
        out = augment(clip, ClipConfig(), np.random.default_rng(seed))
        assert out.shape == clip.shape
        assert out.dtype == np.uint8
        assert (out == out[:1]).all()
    np.testing.assert_array_equal(clip, before)


def test_switched_off_it_changes_nothing() -> None:
    """Probabilities and padding of 0 give the clip back."""
    config = ClipConfig(flip=0, crop_padding=0, erase=0)
    np.testing.assert_array_equal(augment(frames(), config, np.random.default_rng(0)), frames())


def test_flip_mirrors_left_and_right() -> None:
    """A flip turns the width, nothing else."""
    config = ClipConfig(flip=1, crop_padding=0, erase=0)
    np.testing.assert_array_equal(augment(frames(), config, np.random.default_rng(0)), frames()[:, :, ::-1])


def test_crop_shifts_by_at_most_the_padding() -> None:
    """The crop is the picture shifted by whole pixels, with grey borders; all shifts happen."""
    clip = frames()
    shifts = set()
    for seed in range(400):
        out = crop(clip, 2, np.random.default_rng(seed))
        padded = np.pad(clip, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=GREY)
        matching = [
            (y, x) for y in range(5) for x in range(5) if np.array_equal(padded[:, y : y + 64, x : x + 32], out)
        ]
        assert len(matching) == 1
        shifts |= set(matching)
    assert len(shifts) == 25


def test_what_is_missing_gets_the_fill() -> None:
    """Erased and padded areas have the colour that was given, and no other pixel has changed to it or to grey."""
    fill = (200, 210, 220)
    clip = frames(1)  # all pixels are darker than that
    erased = augment(clip, ClipConfig(flip=0, crop_padding=0, erase=1), np.random.default_rng(0), fill=fill)
    shifted = augment(clip, ClipConfig(flip=0, crop_padding=8, erase=0), np.random.default_rng(0), fill=fill)
    for out in (erased, shifted):
        filled = (out == fill).all(-1)
        assert 0 < filled.sum() < filled.size
        assert out[~filled].max() < GREY


def test_the_aspect_of_erasing_is_uniform() -> None:
    """Height to width of what is erased lies in 0.3 to 3.3, uniformly, as in its paper: of small areas, which always
    fit, 1 in 4 is wider than high (0.23 of the draws; a uniform logarithm would have half)."""
    wide = 0
    for seed in range(400):
        clip = frames(1, 400, 400)
        erase(clip, np.random.default_rng(seed))
        ys, xs = np.nonzero((clip[0] == GREY).all(-1))
        height, width = int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
        assert 0.29 < height / width < 3.4
        wide += height < width
    assert 60 < wide < 140


def test_erasing_paints_one_rectangle_of_the_stated_area() -> None:
    """A full rectangle of grey over 2 to 40 % of the frame (to rounding), at places all over it."""
    centres = []
    for seed in range(200):
        clip = frames(1)
        erase(clip, np.random.default_rng(seed))
        ys, xs = np.nonzero((clip[0] == GREY).all(-1))
        height, width = int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
        assert len(ys) == height * width
        assert 0.015 < len(ys) / (64 * 32) < 0.42
        centres.append((ys.mean() / 64, xs.mean() / 32))
    assert np.ptp(centres, axis=0).min() > 0.5
