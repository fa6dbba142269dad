"""Draw a walking person, seen from any side, with Pillow.

Body coordinates: `s` to the person's left, `u` up from the ground, `f` forward; the unit is an average body's height.
Heading 0 walks towards the camera, pi/2 to the picture's right, pi away from the camera.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import ImageDraw

from shards.synthetic.drawing.people import Colour, Person

Point = tuple[float, float]

SHOULDER_U, WAIST_U, HIP_U, HEAD_U = 0.83, 0.62, 0.49, 0.925
HEAD_RADIUS, THIGH, SHIN, UPPER_ARM, FOREARM = 0.068, 0.225, 0.225, 0.165, 0.16


def draw_person(
    draw: ImageDraw.ImageDraw, person: Person, foot: Point, scale: float, heading: float, phase: float, tilt: float
) -> None:
    """Draw a person at one moment of the walk.

    Args:
        foot: Point on the ground below the body, in pixels.
        scale: Pixels of an average body's height.
        heading: Where the person walks, in radians (see the top of the file).
        phase: Of the gait, in radians; 2 pi is two steps.
        tilt: How far the camera looks down: what is nearer by 1 is drawn lower by `tilt`.
    """
    _Figure(draw, person, foot, scale, heading, phase, tilt).draw_all()


def _darker(colour: Colour, factor: float = 0.78) -> Colour:
    return int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor)


class _Figure:
    """A person posed and projected; each method draws one part of the body."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        person: Person,
        foot: Point,
        scale: float,
        heading: float,
        phase: float,
        tilt: float,
    ) -> None:
        self.draw, self.person, self.phase, self.tilt = draw, person, phase, tilt
        self.scale = scale * person.height
        self.width = self.scale * person.build  # unit of breadths
        self.cos, self.sin = math.cos(heading), math.sin(heading)
        self.x = foot[0]
        self.y = foot[1] - 0.012 * self.scale * math.cos(2 * phase)  # the body bobs with each step
        self.wrists: dict[int, tuple[float, float, float]] = {}

    # Projection and primitives

    def at(self, s: float, u: float, f: float) -> Point:
        """Project a point of the body to picture coordinates."""
        f += self.person.lean * max(u - HIP_U, 0.0)
        s *= self.person.build
        near = f * self.cos - s * self.sin
        return self.x + self.scale * (s * self.cos + f * self.sin), self.y - self.scale * (u - self.tilt * near)

    def near(self, s: float, f: float) -> float:
        """Return the depth of a point, towards the camera; nearer parts are drawn later."""
        return f * self.cos - s * self.sin

    def breadth(self, side: float, front: float) -> float:
        """Return the half width in pixels of an upright elliptic body with these half axes, from the camera's view."""
        return self.width * math.hypot(side * self.cos, front * self.sin)

    def limb(self, a: Point, b: Point, width_a: float, width_b: float, colour: Colour) -> None:
        """Draw a tapered limb with round ends; half widths in body units."""
        (ax, ay), (bx, by), wa, wb = a, b, width_a * self.width, width_b * self.width
        length = max(math.hypot(bx - ax, by - ay), 1e-6)
        nx, ny = (ay - by) / length, (bx - ax) / length
        outline = [(ax + nx * wa, ay + ny * wa), (bx + nx * wb, by + ny * wb)]
        outline += [(bx - nx * wb, by - ny * wb), (ax - nx * wa, ay - ny * wa)]
        self.draw.polygon(outline, fill=colour)
        self.blob(a, wa, wa, colour)
        self.blob(b, wb, wb, colour)

    def blob(self, centre: Point, radius_x: float, radius_y: float, colour: Colour) -> None:
        x, y = centre
        self.draw.ellipse((x - radius_x, y - radius_y, x + radius_x, y + radius_y), fill=colour)

    def slab(self, levels: list[tuple[float, float, float]], colour: Colour, f: float = 0.0) -> None:
        """Draw a solid through horizontal ellipses, each (u, half axis to the side, half axis to the front)."""
        spots = [(*self.at(0.0, u, f), self.breadth(side, front)) for u, side, front in levels]
        left = [(x - half, y) for x, y, half in spots]
        self.draw.polygon(left + [(x + half, y) for x, y, half in reversed(spots)], fill=colour)

    def patch(self, s0: float, s1: float, u0: float, u1: float, colour: Colour, *, front: bool = True) -> None:
        """Draw a piece of cloth on the chest or the back, if that side is visible."""
        facing = self.cos if front else -self.cos
        if facing > 0.12:
            f = 0.066 * self.person.build * (1 if front else -1)
            corners = [self.at(s0, u0, f), self.at(s1, u0, f), self.at(s1, u1, f), self.at(s0, u1, f)]
            self.draw.polygon(corners, fill=colour)

    # Parts

    def draw_all(self) -> None:
        """Draw by the painter's algorithm: legs, then all else from far to near; the trunk has depth 0."""
        for side in sorted((1, -1), key=lambda side: self.near(side * 0.055, 0.0)):
            self.leg(side)
        parts: list[tuple[float, Callable[[], None]]] = [(0.0, self.trunk), (0.005, self.head)]
        for side in (1, -1):
            parts.append((self.near(side * 0.15, 0.0) or 0.001, lambda side=side: self.arm(side)))  # type: ignore[misc]
        if self.person.hair_style in ("long", "ponytail"):
            parts.append((self.near(0.0, -0.09), self.falling_hair))
        if self.person.bag == "backpack":
            parts.append((self.near(0.0, -0.13), self.backpack))
        elif self.person.bag == "shoulder":
            parts.append((self.near(self.person.bag_side * 0.17, 0.0), self.shoulder_bag))
        elif self.person.bag == "hand":
            parts.append((self.near(self.person.bag_side * 0.19, 0.02), self.hand_bag))
        for _, part in sorted(parts, key=lambda item: item[0]):
            part()

    def leg(self, side: int) -> None:
        person = self.person
        phase = self.phase if side > 0 else self.phase + math.pi
        thigh = person.stride * math.sin(phase)
        shin = thigh - 1.3 * person.stride * max(math.cos(phase), 0.0)  # the knee bends while the leg swings forward
        s = 0.052 * side
        knee_u, knee_f = HIP_U - THIGH * math.cos(thigh), THIGH * math.sin(thigh)
        ankle_u, ankle_f = knee_u - SHIN * math.cos(shin), knee_f + SHIN * math.sin(shin)
        hip, knee, ankle = self.at(s, HIP_U, 0.0), self.at(s, knee_u, knee_f), self.at(s, ankle_u, ankle_f)
        far = self.near(s, 0.0) < 0
        cloth, skin = (_darker(person.legs), _darker(person.skin)) if far else (person.legs, person.skin)
        toe = self.at(s, ankle_u - 0.018, ankle_f + 0.085)
        self.limb(self.at(s, ankle_u - 0.016, ankle_f - 0.02), toe, 0.026, 0.021, person.shoes)
        bare = person.legwear in ("shorts", "skirt")
        self.limb(knee, ankle, 0.038, 0.026, skin if bare else cloth)
        self.limb(hip, knee, 0.056, 0.042, skin if person.legwear == "skirt" else cloth)

    def trunk(self) -> None:
        person, shirt, accent = self.person, self.person.shirt, self.person.accent
        if person.legwear == "skirt":
            self.slab([(0.56, 0.095, 0.07), (0.27, 0.135, 0.13)], person.legs)
        else:
            self.slab([(0.56, 0.1, 0.075), (0.45, 0.105, 0.075)], person.legs)
        self.limb(self.at(0, SHOULDER_U, 0), self.at(0, HEAD_U, 0), 0.034, 0.03, _darker(person.skin, 0.9))
        shape = [(0.855, 0.06, 0.045), (SHOULDER_U, 0.125, 0.06), (0.74, 0.118, 0.074), (WAIST_U, 0.098, 0.068)]
        shape += [(0.31, 0.135, 0.1)] if person.legwear == "coat" else [(0.5, 0.11, 0.076)]
        self.slab(shape, shirt)
        if person.pattern == "stripes":
            for u in (0.785, 0.695, 0.605, 0.515):
                self.slab([(u, 0.119, 0.072), (u - 0.04, 0.104, 0.07)], accent)
        elif person.pattern == "two-tone":
            self.slab([(0.665, 0.105, 0.07), (WAIST_U, 0.098, 0.068), shape[-1]], accent)
        elif person.pattern == "yoke":
            self.slab([*shape[:3], (0.725, 0.115, 0.073)], accent)
        elif person.pattern == "open":
            self.patch(-0.042, 0.042, shape[-1][0] + 0.02, 0.845, accent)
        elif person.pattern == "print":
            self.patch(-0.062, 0.062, 0.64, 0.77, accent)
            self.patch(-0.062, 0.062, 0.64, 0.77, accent, front=False)
        if person.bag == "backpack":
            for s in (-0.075, 0.075):
                self.patch(s - 0.014, s + 0.014, 0.62, 0.835, person.bag_colour)

    def arm(self, side: int) -> None:
        person = self.person
        swing = -person.arm_swing * math.sin(self.phase if side > 0 else self.phase + math.pi)
        s = 0.122 * side
        bend = swing + 0.2 + 0.3 * person.arm_swing
        elbow = (s * 1.13, SHOULDER_U - 0.02 - UPPER_ARM * math.cos(swing), UPPER_ARM * math.sin(swing))
        wrist = (s * 1.16, elbow[1] - FOREARM * math.cos(bend), elbow[2] + FOREARM * math.sin(bend))
        self.wrists[side] = wrist
        sleeve = person.accent if person.pattern in ("sleeves", "yoke") else person.shirt
        # A little shade keeps the arm apart from the trunk of the same colour.
        shade = 0.72 if self.near(s, 0.0) < 0 else 0.88
        sleeve, skin = _darker(sleeve, shade), _darker(person.skin, shade + 0.1)
        start, middle, end = self.at(s, SHOULDER_U - 0.02, 0.0), self.at(*elbow), self.at(*wrist)
        self.limb(middle, end, 0.028, 0.022, sleeve if person.long_sleeves else skin)
        self.limb(start, middle, 0.036, 0.03, sleeve)
        self.blob(end, 0.024 * self.width, 0.028 * self.scale, skin)

    def head(self) -> None:
        person, r, size = self.person, HEAD_RADIUS, HEAD_RADIUS * self.scale
        skull = (self.at(0.0, HEAD_U + 0.1 * r, -0.12 * r), size * 0.98, size * 1.12)
        face = (self.at(0.0, HEAD_U - 0.28 * r, 0.3 * r), size * 0.8, size * 0.92)
        hair = _darker(person.skin, 0.94) if person.hair_style == "bald" else person.hair
        if person.hair_style == "bun" and self.cos >= 0:
            self.blob(self.at(0.0, HEAD_U + 0.95 * r, -0.75 * r), size * 0.55, size * 0.5, hair)
        if self.cos > -0.35:
            self.blob(*skull, hair)
            self.blob(*face, person.skin)
        else:
            self.blob(*face, person.skin)
            self.blob(*skull, hair)
        if person.hair_style == "bun" and self.cos < 0:
            self.blob(self.at(0.0, HEAD_U + 0.6 * r, -0.95 * r), size * 0.55, size * 0.5, _darker(hair, 0.9))
        if person.hair_style == "cap":  # a cap takes the colour of the accent
            x, y = self.at(0.0, HEAD_U + 0.32 * r, 0.0)
            self.draw.chord((x - size * 1.08, y - size, x + size * 1.08, y + size * 0.9), 180, 360, fill=person.accent)
            if self.cos > -0.35:
                self.limb((x, y), self.at(0.0, HEAD_U + 0.2 * r, 1.5 * r), 0.018, 0.012, _darker(person.accent))

    def falling_hair(self) -> None:
        r = HEAD_RADIUS
        if self.person.hair_style == "long":
            shape = [(HEAD_U + 0.4 * r, r, 0.6 * r), (0.84, 1.3 * r, 0.6 * r), (0.72, r, 0.4 * r)]
            self.slab(shape, self.person.hair, -0.05)
        else:
            self.limb(self.at(0, HEAD_U + 0.4 * r, -1.1 * r), self.at(0, 0.76, -0.11), 0.03, 0.016, self.person.hair)

    def backpack(self) -> None:
        colour = self.person.bag_colour
        shape = [(0.845, 0.06, 0.035), (0.81, 0.092, 0.055), (0.59, 0.096, 0.065), (0.565, 0.08, 0.05)]
        self.slab(shape, colour, -0.13)
        if self.cos < -0.12:
            corners = [self.at(s, u, -0.2) for s, u in ((-0.06, 0.6), (0.06, 0.6), (0.06, 0.68), (-0.06, 0.68))]
            self.draw.polygon(corners, fill=_darker(colour, 0.7))

    def shoulder_bag(self) -> None:
        side, colour, f = self.person.bag_side, self.person.bag_colour, math.copysign(0.07, self.cos)
        s = side * 0.16
        self.limb(self.at(-side * 0.06, 0.845, f), self.at(s * 0.8, 0.56, f), 0.012, 0.012, _darker(colour, 0.85))
        x, y = self.at(s, 0.49, 0.0)
        half, tall = self.breadth(0.045, 0.095), 0.075 * self.scale
        self.draw.rectangle((x - half, y - tall, x + half, y + tall), fill=colour)
        self.draw.rectangle((x - half, y - tall, x + half, y - tall * 0.3), fill=_darker(colour))

    def hand_bag(self) -> None:
        s, u, f = self.wrists.get(self.person.bag_side, (0.15 * self.person.bag_side, 0.5, 0.0))
        (x, y), half, tall = self.at(s, u - 0.11, f), self.breadth(0.035, 0.08), 0.065 * self.scale
        self.limb(self.at(s, u, f), (x, y), 0.012, 0.012, _darker(self.person.bag_colour))
        self.draw.rectangle((x - half, y - tall, x + half, y + tall), fill=self.person.bag_colour)
