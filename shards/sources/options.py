"""Types of command-line options that sources and the command line share; argparse shows their message, exit 2."""

from __future__ import annotations

import argparse

MAX_SIDE = 8_000  # pixels of a stored frame; what is larger is mistyped, and no reader would take it


def positive_int(text: str) -> int:
    """A number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def natural_number(text: str) -> int:
    """A number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def percent(text: str) -> float:
    """A share of 0% to 100%, as the number before the sign: 5% or 5 is 5.0."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage like 5% (0% to 100%)")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value


def size_WH(text: str) -> tuple[int, int]:
    """A size in pixels as videos have it, width first: 1920x1080."""
    width, cross, height = text.lower().partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 1920x1080 (width first)")
    return positive_int(width), positive_int(height)


def size_HW(text: str) -> tuple[int, int]:
    """A size in pixels, height first: 256x128."""
    height, cross, width = text.lower().partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 256x128 (height first)")
    size = positive_int(height), positive_int(width)
    if max(size) > MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r}: {MAX_SIDE:,} pixels are the most for a side")
    return size


def task_of(text: str) -> tuple[int, int]:
    """A task and their number: 3/8 is the third of eight."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no task like 3/8 (the first is 1/8, the last 8/8)")
    return int(number), int(count)
