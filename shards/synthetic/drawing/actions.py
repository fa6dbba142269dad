"""Pairs of actions that differ only in the order of frames: one action is the other played backwards.

Each drawn clip becomes two clips of the set: forwards under the first name of its pair, backwards under the second. So
a single frame, or all frames in unknown order, contain no information about the action.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32  # pixels of a frame
NUM_FRAMES = 12
SUPERSAMPLING = 4
NOISE = 4.0  # standard deviation of a pixel, of 255
SHAKE = 0.02  # of the camera, in sides of the frame

_CLIP = 0  # first key of the random stream

Colour = tuple[int, int, int]
# Draws an object at x, y (in sides of the frame), with its shape, its colours and the progress of the action, 0 to 1.
Painter = Callable[[ImageDraw.ImageDraw, float, float, int, Colour, Colour, float], None]


def _shape(draw: ImageDraw.ImageDraw, kind: int, x: float, y: float, radius: float, colour: Colour) -> None:
    side = SIDE * SUPERSAMPLING
    left, top, right, bottom = ((x - radius) * side, (y - radius) * side, (x + radius) * side, (y + radius) * side)
    if kind == 0:
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif kind == 1:
        draw.rectangle((left, top, right, bottom), fill=colour)
    else:
        middle_x, middle_y = x * side, y * side
        draw.polygon([(middle_x, top), (right, middle_y), (middle_x, bottom), (left, middle_y)], fill=colour)


def _grow(draw: ImageDraw.ImageDraw, x: float, y: float, kind: int, own: Colour, behind: Colour, way: float) -> None:
    _shape(draw, kind, x, y, 0.07 + 0.28 * way, own)


def _rise(draw: ImageDraw.ImageDraw, x: float, y: float, kind: int, own: Colour, behind: Colour, way: float) -> None:
    _shape(draw, kind, x, y + 0.3 - 0.6 * way, 0.14, own)


def _open(draw: ImageDraw.ImageDraw, x: float, y: float, kind: int, own: Colour, behind: Colour, way: float) -> None:
    for sign in (-1, 1):
        _shape(draw, kind, x + sign * (0.1 + 0.26 * way), y, 0.11, own)


def _appear(draw: ImageDraw.ImageDraw, x: float, y: float, kind: int, own: Colour, behind: Colour, way: float) -> None:
    red, green, blue = (round(b + (o - b) * (0.1 + 0.9 * way)) for o, b in zip(own, behind, strict=True))
    _shape(draw, kind, x, y, 0.2, (red, green, blue))


PAIRS: dict[tuple[str, str], Painter] = {
    ("growing", "shrinking"): _grow,
    ("rising", "sinking"): _rise,
    ("opening", "closing"): _open,
    ("appearing", "vanishing"): _appear,
}


def draw_clip(seed: int, pair: tuple[str, str], number: int) -> np.ndarray:
    """Draw the frames of a clip of a pair's first action: uint8 NUM_FRAMES, SIDE, SIDE, 3. Reversed, it is the second.

    A pure function of its arguments. Only the progress of the action has a direction in time: all else is still, or
    shakes at random.
    """
    rng = np.random.default_rng([seed, _CLIP, list(PAIRS).index(pair), number])
    behind, own, other = _colour(rng, 10, 90), _colour(rng, 150, 250), _colour(rng, 60, 120)
    kind = int(rng.integers(3))
    x, y = rng.uniform(0.42, 0.58, 2)
    still = [(int(rng.integers(3)), *rng.uniform(0, 1, 2), rng.uniform(0.04, 0.1)) for _ in range(rng.integers(3))]
    canvas = SIDE * SUPERSAMPLING
    frames = []
    for way in _progress(rng):
        image = Image.new("RGB", (canvas, canvas), behind)
        draw = ImageDraw.Draw(image)
        dx, dy = rng.normal(0, SHAKE, 2)
        for shape, left, top, radius in still:
            _shape(draw, shape, left + dx, top + dy, radius, other)
        PAIRS[pair](draw, x + dx, y + dy, kind, own, behind, way)
        small = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), float)
        frames.append((small + rng.normal(0, NOISE, small.shape)).round().clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def _progress(rng: np.random.Generator) -> np.ndarray:
    """Return the progress of the action in each frame: rising at an uneven pace, from a low to a high value."""
    start, end = rng.uniform(0, 0.3), rng.uniform(0.7, 1)
    steps = np.concatenate([[0.0], rng.gamma(2.0, size=NUM_FRAMES - 1).cumsum()])
    return start + (end - start) * steps / steps[-1]


def _colour(rng: np.random.Generator, darkest: int, lightest: int) -> Colour:
    red, green, blue = rng.integers(darkest, lightest, 3).tolist()
    return red, green, blue
