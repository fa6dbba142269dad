"""Draw a tracklet of the synthetic set: a walking person, strangers and occluders, and an inaccurate box."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from shards.records import JUNK_PID
from shards.synthetic.drawing import scenes
from shards.synthetic.drawing.figures import draw_person
from shards.synthetic.drawing.people import Person, make_person

# First keys of random streams; scenes.make_cameras uses 1, and persons.plan 2.
_PERSON, _TRACKLET = 0, 3


@dataclass(frozen=True, slots=True)
class _Walk:
    """Path of one person through the picture, in pixels of the canvas."""

    person: Person
    x: float
    speed: float  # pixels per frame, relative to the box
    ground: float
    size: float  # 1 is the size of the person in the box
    heading: float
    turn: float  # radians per frame
    phase: float

    def draw(self, draw: ImageDraw.ImageDraw, camera: scenes.Camera, time: int) -> None:
        scale = 0.88 * scenes.HEIGHT * scenes.SUPERSAMPLING * camera.zoom * self.size
        heading, phase = self.heading + self.turn * time, self.phase + self.person.cadence * time
        draw_person(draw, self.person, (self.x + self.speed * time, self.ground), scale, heading, phase, camera.tilt)


def draw_tracklet(seed: int, pid: int, camid: int, number: int, num_frames: int) -> Iterator[np.ndarray]:
    """Yield the frames of a tracklet, uint8 128, 64, 3; a pure function of the arguments.

    Passers-by and distractors are strangers who appear only once.

    Args:
        pid: Identity, or DISTRACTOR_PID or JUNK_PID; with the seed, it determines the appearance.
        camid: Camera, from 1.
        number: Number of the tracklet among those of `pid`.
    """
    rng = np.random.default_rng([seed, _TRACKLET, pid + 1, number])
    camera = scenes.make_cameras(seed)[camid - 1]
    stranger = pid <= 0
    person = make_person(rng if stranger else np.random.default_rng([seed, _PERSON, pid]))
    subject = _subject(rng, camera, person)
    behind = [_passer_by(rng, camera, behind=True) for _ in range(int(rng.choice(3, p=[0.7, 0.25, 0.05])))]
    in_front = [_passer_by(rng, camera, behind=False) for _ in range(int(rng.random() < 0.05))]
    things = [scenes.make_occluder(rng) for _ in range(int(rng.random() < 0.2))]
    walks = sorted([*behind, subject], key=lambda walk: walk.ground) + in_front
    stray = 0.04 if rng.random() < 0.85 else 0.13
    if pid == JUNK_PID:
        stray = 0.4
    if stranger and rng.random() < 0.3:  # a false alarm: nobody in the box
        walks.remove(subject)
    boxes = _boxes(rng, num_frames, stray)
    gain = np.exp(rng.normal(0.0, 0.05) + rng.normal(0.0, 0.03, size=3))
    span = scenes.PANORAMA_WIDTH - scenes.CANVAS_WIDTH
    place = rng.uniform(0, span)
    scroll = 5.0 * math.sin(subject.heading)
    for time in range(num_frames):
        left = int(abs((place + scroll * time) % (2 * span) - span))  # turns round at both ends
        canvas = camera.panorama.crop((left, 0, left + scenes.CANVAS_WIDTH, scenes.CANVAS_HEIGHT))
        draw = ImageDraw.Draw(canvas)
        for walk in walks:
            walk.draw(draw, camera, time)
        for thing in things:
            thing.draw(draw, time)
        box = boxes[time]
        frame = canvas.resize((scenes.WIDTH, scenes.HEIGHT), Image.Resampling.BILINEAR, box=box)
        yield camera.expose(frame, gain, rng)


def _subject(rng: np.random.Generator, camera: scenes.Camera, person: Person) -> _Walk:
    """Draw the path of the person whom the box follows, up or down the camera's axis."""
    heading = camera.axis + rng.normal(0.0, 0.25) + (math.pi if rng.random() < 0.5 else 0.0)
    phase = rng.uniform(0, 2 * math.pi)
    return _Walk(person, scenes.CANVAS_WIDTH / 2, 0.0, scenes.GROUND, 1.0, heading, rng.normal(0.0, 0.012), phase)


def _passer_by(rng: np.random.Generator, camera: scenes.Camera, *, behind: bool) -> _Walk:
    """Draw the path of a stranger, farther or nearer, who walks across the picture from one side."""
    walk = _subject(rng, camera, make_person(rng))
    side = 1 if rng.random() < 0.5 else -1
    size, ground = (rng.uniform(0.6, 0.85), rng.uniform(196, 232)) if behind else (rng.uniform(1.02, 1.15), 272.0)
    x = scenes.CANVAS_WIDTH / 2 + side * rng.uniform(40, 90)
    return replace(walk, x=x, speed=-side * rng.uniform(0.0, 8.0), size=size, ground=ground)


def _boxes(rng: np.random.Generator, num_frames: int, stray: float) -> list[tuple[float, float, float, float]]:
    """Draw a detector's boxes on the canvas (left, top, right, bottom), off by slow swings of about `stray` sizes."""
    time = np.arange(num_frames)
    swings = [
        stray * rng.uniform(-1, 1) + 0.4 * stray * np.sin(rng.uniform(0.05, 0.5) * time + rng.uniform(0, 2 * math.pi))
        for _ in range(3)
    ]
    height = scenes.HEIGHT * scenes.SUPERSAMPLING * (1.0 + 0.6 * swings[0]).clip(0.6, 1.15)
    width = height * scenes.WIDTH / scenes.HEIGHT
    x = (scenes.CANVAS_WIDTH / 2 + width * swings[1]).clip(width / 2, scenes.CANVAS_WIDTH - width / 2)
    y = (140 + 0.7 * height * swings[2]).clip(height / 2, scenes.CANVAS_HEIGHT - height / 2)
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    return [(left, top, right, bottom) for left, top, right, bottom in corners.tolist()]
