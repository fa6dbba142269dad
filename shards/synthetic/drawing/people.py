"""Draw identities of the synthetic set, as combinations of attributes.

All identities share the same short lists of clothes, patterns, hair and bags, so that many people have the same
colours. A colour histogram confuses them; a model that uses the place of colours can tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]  # RGB, 0..255

CLOTHES: tuple[Colour, ...] = (
    (34, 34, 40),
    (228, 226, 220),
    (128, 130, 134),
    (186, 38, 44),
    (44, 78, 172),
    (46, 124, 72),
    (222, 182, 58),
    (112, 62, 128),
)
LEGWEAR_COLOURS: tuple[Colour, ...] = ((30, 30, 36), (52, 66, 108), (124, 126, 130), (190, 172, 136), (98, 68, 46))
SHOE_COLOURS: tuple[Colour, ...] = ((26, 24, 24), (232, 232, 228), (132, 84, 48), (190, 46, 48))
BAG_COLOURS: tuple[Colour, ...] = ((28, 28, 32), (176, 48, 42), (60, 92, 170), (198, 154, 88), (72, 128, 78))
HAIR_COLOURS: tuple[Colour, ...] = ((24, 20, 20), (84, 52, 32), (206, 170, 98), (150, 148, 146), (150, 66, 34))
SKINS: tuple[Colour, ...] = ((238, 200, 172), (214, 164, 126), (162, 110, 78), (106, 70, 50))

PATTERNS = ("plain", "stripes", "two-tone", "yoke", "open", "print", "sleeves")
HAIR_STYLES = ("short", "long", "bun", "ponytail", "cap", "bald")
LEGWEAR = ("trousers", "trousers", "shorts", "skirt", "coat")  # trousers are twice as common
BAGS = ("none", "backpack", "shoulder", "hand")


@dataclass(frozen=True, slots=True)
class Person:
    """An identity: the attributes of a person that all cameras see."""

    height: float  # 1 is average
    build: float  # width; 1 is average
    skin: Colour
    hair_style: str
    hair: Colour
    shirt: Colour
    pattern: str
    accent: Colour  # second colour of the pattern
    long_sleeves: bool
    legwear: str
    legs: Colour
    shoes: Colour
    bag: str
    bag_colour: Colour
    bag_side: int  # +1 left, -1 right
    cadence: float  # radians of the gait cycle a frame
    stride: float  # radians that a thigh swings to each side
    arm_swing: float  # radians
    lean: float  # forward lean, radians


def make_person(rng: np.random.Generator) -> Person:
    """Draw an identity. All parts of the data set use the same distribution."""

    def pick(options: tuple[object, ...]) -> int:
        return int(rng.integers(len(options)))

    def colour(palette: tuple[Colour, ...]) -> Colour:
        r, g, b = np.clip(np.array(palette[pick(palette)]) + rng.integers(-10, 11, size=3), 0, 255).tolist()
        return r, g, b

    shirt = pick(CLOTHES)
    accent = (shirt + 1 + pick(CLOTHES[1:])) % len(CLOTHES)  # never the shirt's own colour
    return Person(
        height=rng.uniform(0.9, 1.06),
        build=rng.uniform(0.95, 1.35),
        skin=SKINS[pick(SKINS)],
        hair_style=HAIR_STYLES[pick(HAIR_STYLES)],
        hair=colour(HAIR_COLOURS),
        shirt=colour(CLOTHES[shirt : shirt + 1]),
        pattern=PATTERNS[pick(PATTERNS)],
        accent=colour(CLOTHES[accent : accent + 1]),
        long_sleeves=bool(rng.random() < 0.6),
        legwear=LEGWEAR[pick(LEGWEAR)],
        legs=colour(LEGWEAR_COLOURS),
        shoes=colour(SHOE_COLOURS),
        bag=BAGS[pick(BAGS)],
        bag_colour=colour(BAG_COLOURS),
        bag_side=1 if rng.random() < 0.5 else -1,
        cadence=rng.uniform(0.35, 0.75),
        stride=rng.uniform(0.25, 0.55),
        arm_swing=rng.uniform(0.1, 0.6),
        lean=rng.uniform(-0.02, 0.1),
    )
