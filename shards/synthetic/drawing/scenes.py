"""The cameras of the synthetic set: backgrounds, occluders, colours and light.

A camera has its own background, view angle, colour cast, light and lens. Their strengths are distributed evenly over
the cameras (six casts around the colour circle, six blurs, ...), not drawn independently, so that all seeds are equally
hard.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from shards.synthetic.drawing.people import Colour

NUM_CAMERAS = 6
HEIGHT, WIDTH = 128, 64  # of a frame, as in MARS
SUPERSAMPLING = 2
CANVAS_HEIGHT, CANVAS_WIDTH = 304, 176  # a supersampled frame and a margin for stray boxes
PANORAMA_WIDTH = 1024
GROUND = 250  # where people stand on the canvas

# Differences between cameras. The scores of colour histograms fall steeply with these; a model learns to ignore them.
CAST = 0.05  # log gain of the channel that a camera favours
EXPOSURE = 0.1  # between the darkest and the brightest camera
FADE = 0.1  # share of grey in the palest camera
GAMMA = 0.1  # between the flattest and the steepest camera
CONTRAST = 0.06  # lost in the camera of lowest contrast
# Stones of walls and ground: size in pixels of the canvas, standard deviation of light and of tint in grey levels.
GRAIN = ((8, 15.0, 33.0), (24, 8.0, 4.0))


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """One camera: geometry, surroundings and colours.

    Attributes:
        axis: Direction in which people pass, in radians (heading 0 comes towards the camera).
        tilt: Downward angle of view.
        zoom: Size of people in its boxes.
        panorama: Background, CANVAS_HEIGHT x PANORAMA_WIDTH.
        mix: 3x3, true colour -> colour of this camera.
        light: HEIGHT, WIDTH, 1: light over the picture.
        curve: 256 values, gamma and contrast.
        blur: Radius in pixels of a frame.
        noise: Standard deviation in grey levels, as a bank of noise that frames cut from.
    """

    axis: float
    tilt: float
    zoom: float
    panorama: Image.Image
    mix: np.ndarray
    light: np.ndarray
    curve: np.ndarray
    blur: float
    noise: np.ndarray

    def expose(self, scene: Image.Image, gain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the camera's picture of a scene in true colours.

        Args:
            scene: HEIGHT x WIDTH.
            gain: 3, the light of the day on each channel.

        Returns:
            uint8 HEIGHT, WIDTH, 3.
        """
        blurred = scene.filter(ImageFilter.GaussianBlur(self.blur))
        colours = np.asarray(blurred, dtype=np.float32) @ (self.mix * gain.astype(np.float32))
        top, left = (int(rng.integers(size)) for size in (HEIGHT, WIDTH))
        colours = colours * self.light + self.noise[top : top + HEIGHT, left : left + WIDTH]
        return self.curve[colours.clip(0, 255).astype(np.uint8)]


@lru_cache(maxsize=2)
def make_cameras(seed: int) -> tuple[Camera, ...]:
    """Make the NUM_CAMERAS cameras of a data set, shared by training, validation and test."""
    rng = np.random.default_rng([seed, 1])
    levels = np.linspace(0.0, 1.0, NUM_CAMERAS)
    axes, tilts, blurs, noises, gammas, contrasts, exposures, greys = (rng.permutation(levels) for _ in range(8))
    hues = (rng.permutation(NUM_CAMERAS) + rng.random()) / NUM_CAMERAS
    return tuple(
        Camera(
            axis=math.pi * (0.05 + 0.8 * float(axes[i])),
            tilt=0.05 + 0.2 * float(tilts[i]),
            zoom=rng.uniform(0.92, 1.04),
            panorama=_panorama(rng),
            mix=_colour_mix(hues[i], exposures[i], greys[i]),
            light=_light(rng),
            curve=_curve(1.0 + GAMMA * (gammas[i] - 0.5), 1.02 - CONTRAST * contrasts[i]),
            blur=0.2 + 0.4 * float(blurs[i]),
            noise=rng.normal(0.0, 2.0 + 4.0 * noises[i], (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32),
        )
        for i in range(NUM_CAMERAS)
    )


def _colour_mix(hue: float, exposure: float, grey: float) -> np.ndarray:
    """Return a 3x3 matrix for row vectors that fades colours, adds a cast and scales the light; levels in [0, 1]."""
    keep = 1.0 - FADE * grey
    luma = np.array([0.299, 0.587, 0.114])
    fade = keep * np.eye(3) + (1.0 - keep) * np.outer(luma, np.ones(3))
    phases = 2.0 * math.pi * (hue - np.arange(3) / 3.0)
    cast = np.exp(CAST * np.cos(phases))
    return (fade * cast * (1.0 + EXPOSURE * (exposure - 0.5))).astype(np.float32)


def _light(rng: np.random.Generator) -> np.ndarray:
    """Draw a gradient of light over the frame: HEIGHT, WIDTH, 1."""
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.08)
    y, x = np.mgrid[-1.0 : 1.0 : HEIGHT * 1j, -1.0 : 1.0 : WIDTH * 1j]
    return (1.0 + strength * (x * math.cos(angle) + y * math.sin(angle)))[..., None].astype(np.float32)


def _curve(gamma: float, contrast: float) -> np.ndarray:
    values = (np.linspace(0.0, 1.0, 256) ** gamma - 0.5) * contrast + 0.5
    return (values * 255).round().clip(0, 255).astype(np.uint8)


def _shade(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, value)
    return int(255 * r), int(255 * g), int(255 * b)


def _panorama(rng: np.random.Generator) -> Image.Image:
    """Draw a street: mosaic house fronts with doors, windows and posters, and paving.

    The stones are smaller than a model's patches, and their colours differ by more than a histogram's bins. A smooth
    wall would fill a single bin, and dominate the histogram with the identity of the camera.
    """
    edge = int(rng.integers(150, 200))
    image = Image.new("RGB", (PANORAMA_WIDTH, CANVAS_HEIGHT))
    draw = ImageDraw.Draw(image)
    left = 0
    while left < PANORAMA_WIDTH:
        right = left + int(rng.integers(60, 160))
        draw.rectangle((left, 0, right, edge), fill=_paint(rng, 0.58))
        draw.rectangle((left, edge, right, CANVAS_HEIGHT), fill=_paint(rng, 0.52))
        for _ in range(int(rng.integers(0, 2))):
            x, width = int(rng.integers(left, right)), int(rng.integers(12, 40))
            top = int(rng.integers(0, edge - 40))
            bottom = edge if rng.random() < 0.4 else int(rng.integers(top + 20, edge))
            colour = _shade(rng.random(), rng.uniform(0.0, 0.5), rng.uniform(0.2, 0.85))
            draw.rectangle((x, top, x + width, bottom), fill=colour)
        left = right
    rough = np.zeros((CANVAS_HEIGHT, PANORAMA_WIDTH, 3))
    for size, light, tint in GRAIN:
        cells = (CANVAS_HEIGHT // size + 1, PANORAMA_WIDTH // size + 1)
        grains = rng.normal(0.0, light, (*cells, 1)) + rng.normal(0.0, tint, (*cells, 3))
        rough += grains.repeat(size, axis=0).repeat(size, axis=1)[:CANVAS_HEIGHT, :PANORAMA_WIDTH]
    grainy = (np.asarray(image, dtype=np.float64) + rough).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grainy).filter(ImageFilter.GaussianBlur(1.0))


def _paint(rng: np.random.Generator, value: float) -> Colour:
    """Draw a nearly grey colour of about this brightness."""
    return _shade(rng.random(), 0.08 * rng.random(), value + 0.03 * rng.uniform(-1.0, 1.0))


@dataclass(frozen=True, slots=True)
class Occluder:
    """An object in front of the person: a pole, a bush or a bench, in pixels of the canvas."""

    kind: str
    x: float
    speed: float  # pixels per frame: the box follows the person, so that objects move through it
    width: float
    top: float
    colour: Colour

    def draw(self, draw: ImageDraw.ImageDraw, time: int) -> None:
        x, right = self.x + self.speed * time, self.x + self.speed * time + self.width
        if self.kind == "bush":
            for column in range(5):
                centre, top = x + self.width * column / 4, self.top + 9 * (column * 7 % 3)
                radius = self.width * 0.2
                draw.ellipse((centre - radius, top, centre + radius, CANVAS_HEIGHT + 40), fill=self.colour)
        else:
            draw.rectangle((x, self.top, right, CANVAS_HEIGHT), fill=self.colour)


def make_occluder(rng: np.random.Generator) -> Occluder:
    """Draw a random occluder, which starts anywhere in the picture and drifts."""
    kind = ("pole", "bush", "bench")[int(rng.integers(3))]
    width, top = {
        "pole": (rng.uniform(8, 22), 0.0),
        "bush": (rng.uniform(50, 110), rng.uniform(150, 215)),
        "bench": (rng.uniform(50, 130), rng.uniform(165, 220)),
    }[kind]
    hue, saturation = (0.3, 0.5) if kind == "bush" else (rng.random(), 0.2)
    colour = _shade(hue, saturation, rng.uniform(0.2, 0.6))
    return Occluder(kind, rng.uniform(-20, CANVAS_WIDTH - 20), rng.uniform(-7, 7), width, top, colour)
