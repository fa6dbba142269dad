"""Types of command-line options. argparse prints the message of their error and exits with 2."""

from __future__ import annotations

import argparse

MAX_SIDE = 8_000  # pixels of a stored frame; a larger side is a typing error, and readers refuse such frames


def positive_int(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def natural_number(text: str) -> int:
    """Parse a whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def percent(text: str) -> float:
    """Parse a percentage: 5% and 5 are 5.0."""
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage like 5% (0% to 100%)")
    return value


def share(text: str) -> float:
    """Parse a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def size_WH(text: str) -> tuple[int, int]:
    """Parse a size in pixels, width first as for videos: 1920x1080."""
    width, cross, height = text.lower().partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 1920x1080 (width first)")
    return positive_int(width), positive_int(height)


def size_HW(text: str) -> tuple[int, int]:
    """Parse a size in pixels, height first: 256x128."""
    height, cross, width = text.lower().partition("x")
    if not cross:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 256x128 (height first)")
    size = positive_int(height), positive_int(width)
    if max(size) > MAX_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r}: a side has at most {MAX_SIDE:,} pixels")
    return size


def task_of(text: str) -> tuple[int, int]:
    """Parse number and count of array tasks: 3/8 is the third of eight."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a task like 3/8 (the first is 1/8, the last 8/8)")
    return int(number), int(count)
