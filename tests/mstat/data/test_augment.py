"""Augmentation: the same on every frame, the right amounts, the input untouched."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from mstat.config import ClipConfig
from mstat.data.augment import GREY, augment, crop, erase, recolour

OFF = ClipConfig(flip=0, crop_padding=0, erase=0)
COLOURS: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2}


def frames(num_frames: int = 3, height: int = 64, width: int = 32) -> np.ndarray:
    """The same picture on every frame, without grey in it."""
    picture = np.random.default_rng(0).integers(0, GREY, (1, height, width, 3), dtype=np.uint8)
    return np.repeat(picture, num_frames, axis=0)


@pytest.mark.parametrize("config", [ClipConfig(), ClipConfig(erase_fill="noise", erase_aspect="log", **COLOURS)])
def test_every_frame_of_a_clip_is_changed_alike(config: ClipConfig) -> None:
    """Equal frames stay equal, in a shape and type that do not change, and the input is left alone."""
    clip = frames()
    before = clip.copy()
    for seed in range(50):
        out = augment(clip, config, np.random.default_rng(seed))
        assert out.shape == clip.shape
        assert out.dtype == np.uint8
        assert (out == out[:1]).all()
    np.testing.assert_array_equal(clip, before)


def test_switched_off_it_changes_nothing() -> None:
    """Probabilities and padding of 0 give the clip back."""
    np.testing.assert_array_equal(augment(frames(), OFF, np.random.default_rng(0)), frames())


def test_switched_off_it_draws_nothing() -> None:
    """After a flip, a crop and no erasing, the generator stands where it stood in versions with nothing else."""
    config = ClipConfig(erase=0, erase_aspect="log", erase_fill="noise")
    rng, expected = np.random.default_rng(0), np.random.default_rng(0)
    augment(frames(), config, rng)
    expected.random(), expected.integers(-config.crop_padding, config.crop_padding + 1, 2), expected.random()
    assert rng.bit_generator.state == expected.bit_generator.state


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


@pytest.mark.parametrize(("aspect", "expected"), [("uniform", 0.25), ("log", 0.5)])
def test_the_aspect_of_erasing_is_uniform(aspect: Literal["uniform", "log"], expected: float) -> None:
    """Height to width of what is erased lies in 0.3 to 3.3. Uniform as in its paper, 1 in 4 is wider than high (0.23
    of the draws); with a uniform logarithm, half are."""
    wide = 0
    clip = np.empty((1, 400, 400, 3), np.uint8)
    for seed in range(400):
        clip[:] = 0
        erase(clip, ClipConfig(erase_aspect=aspect), np.random.default_rng(seed))
        erased = clip[0, :, :, 0] == GREY
        height, width = int(erased.any(1).sum()), int(erased.any(0).sum())
        assert 0.29 < height / width < 3.4
        wide += height < width
    assert abs(wide / 400 - expected) < 0.1


def test_erasing_paints_one_rectangle_of_the_stated_area() -> None:
    """A full rectangle of grey over 2 to 40 % of the frame (to rounding), at places all over it."""
    centres = []
    for seed in range(200):
        clip = frames(1)
        erase(clip, ClipConfig(), np.random.default_rng(seed))
        ys, xs = np.nonzero((clip[0] == GREY).all(-1))
        height, width = int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
        assert len(ys) == height * width
        assert 0.015 < len(ys) / (64 * 32) < 0.42
        centres.append((ys.mean() / 64, xs.mean() / 32))
    assert np.ptp(centres, axis=0).min() > 0.5


def test_each_frame_may_be_erased_by_its_own_draw() -> None:
    """Some frames of a clip are erased and others not, at other places and in other sizes; half of them in all."""
    config = dataclasses.replace(OFF, erase=0.5, erase_per_frame=True)
    erased, rectangles = [], set()
    for seed in range(50):
        out = augment(frames(4), config, np.random.default_rng(seed))
        for frame in (out == GREY).all(-1):
            ys, xs = np.nonzero(frame)
            erased.append(len(ys) > 0)
            if len(ys):
                assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
                rectangles.add((int(ys[0]), int(xs[0]), len(ys)))
    assert 70 < sum(erased) < 130
    assert len(rectangles) > 0.9 * sum(erased)


def test_erased_areas_may_hold_noise() -> None:
    """Every value from 0 to 255, about equally often and without a pattern; the other pixels stay."""
    config = dataclasses.replace(OFF, erase=1, erase_fill="noise")
    clip = np.full((2, 400, 400, 3), 7, np.uint8)
    noise = augment(clip, config, np.random.default_rng(0))
    (erased,) = np.nonzero((noise[0] != 7).any(-1).reshape(-1))
    ys, xs = np.divmod(erased, 400)
    inside = noise[0, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].astype(float)
    assert 0.015 < inside[..., 0].size / 400**2 < 0.42
    counts = np.bincount(inside.astype(int).ravel(), minlength=256) / inside.size * 256
    assert 0.5 < counts.min() < counts.max() < 1.5
    assert abs(np.corrcoef(inside[:, 1:].ravel(), inside[:, :-1].ravel())[0, 1]) < 0.05
    assert abs(np.corrcoef(inside[..., 0].ravel(), inside[..., 1].ravel())[0, 1]) < 0.05


@pytest.mark.parametrize(
    ("name", "amount", "before", "after"),
    [
        ("brightness", 1.5, [(100, 40, 200), (0, 10, 30)], [(150, 60, 255), (0, 15, 45)]),
        ("contrast", 0.5, [(100, 100, 100), (200, 200, 200)], [(125, 125, 125), (175, 175, 175)]),  # mean grey 150
        ("contrast", 2, [(100, 100, 100), (200, 200, 200)], [(50, 50, 50), (250, 250, 250)]),
        ("saturation", 0, [(100, 50, 200), (90, 90, 90)], [(82, 82, 82), (90, 90, 90)]),  # 0.299 R + 0.587 G + 0.114 B
        ("saturation", 0.5, [(100, 50, 200), (90, 90, 90)], [(91, 66, 141), (90, 90, 90)]),
        ("hue", 1 / 3, [(255, 0, 0), (90, 90, 90)], [(0, 255, 0), (90, 90, 90)]),  # red becomes green
        ("hue", -1 / 3, [(255, 0, 0), (0, 200, 0)], [(0, 0, 255), (200, 0, 0)]),
    ],
)
def test_colours_change_as_torchvision_defines(
    name: str, amount: float, before: list[tuple[int, ...]], after: list[tuple[int, ...]]
) -> None:
    """A picture of two pixels against values that were worked out by hand, up to Pillow's rounding."""
    picture = Image.fromarray(np.array([before], np.uint8))
    out = np.asarray(recolour(picture, name, amount)).astype(int)
    np.testing.assert_allclose(out, [after], atol=6 if name == "hue" else 1)


@pytest.mark.parametrize("name", COLOURS)
def test_colours_change_by_random_amounts(name: str) -> None:
    """Each setting alone changes a clip, by as much as its strength says, in both directions, each time otherwise."""
    clip = np.full((2, 8, 8, 3), (100, 60, 80), np.uint8)
    clip[:, :4] //= 2
    strength = COLOURS[name]
    middle = 0 if name == "hue" else 1
    ends = [np.asarray(recolour(Image.fromarray(clip[0]), name, middle + sign * strength)) for sign in (-1, 1)]
    changes_of_ends = np.array(ends) - clip[0].astype(int)
    most = np.abs(changes_of_ends).max()
    config = dataclasses.replace(OFF, **{name: strength})
    changes = np.array([augment(clip, config, np.random.default_rng(seed)) for seed in range(60)]) - clip.astype(int)
    assert np.abs(changes).max() <= most
    for end in changes_of_ends:
        assert np.abs(changes - end).max((1, 2, 3, 4)).min() < most / 4
    assert len(np.unique(changes.reshape(60, -1), axis=0)) > 10


def test_borders_and_erased_areas_keep_the_fill_under_jitter() -> None:
    """Colours change before the crop, so that the model sees zeros in a border."""
    fill = (200, 210, 220)
    config = dataclasses.replace(OFF, crop_padding=8, brightness=0.2)
    out = augment(frames(1), config, np.random.default_rng(0), fill=fill)
    filled = (out == fill).all(-1)
    assert 0 < filled.sum() < filled.size
    assert out[~filled].max() < 1.2 * GREY + 1
