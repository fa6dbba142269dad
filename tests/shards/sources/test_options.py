"""Types of command-line options: what they take, and what they say of the rest."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import pytest

from shards.sources import options


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (options.positive_int, "7", 7),
        (options.natural_number, "0", 0),
        (options.percent, "5%", 5.0),
        (options.percent, "2.5", 2.5),
        (options.percent, "100%", 100.0),
        (options.share, "0.25", 0.25),
        (options.size_WH, "1920x1080", (1920, 1080)),
        (options.size_HW, "256X128", (256, 128)),
        (options.task_of, "8/8", (8, 8)),
    ],
)
def test_what_is_taken(kind: Callable[[str], Any], text: str, value: Any) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        (options.positive_int, ("0", "-1", "1.5", "", "²", "1_0"), "is not a whole number from 1"),
        (options.natural_number, ("-1", "x", "²"), "is not a whole number from 0"),
        (options.percent, ("101%", "-1", "nan", "five"), "is not a percentage like 5%"),
        (options.share, ("1.1", "-0.1", "nan", ""), "is not a number from 0 to 1"),
        (options.size_WH, ("1920", "1920*1080"), "is not a size like 1920x1080"),
        (options.size_HW, ("256",), "is not a size like 256x128"),
        (options.size_HW, ("256x0",), "'0' is not a whole number from 1"),
        (options.size_HW, ("256x8001",), "a side has at most 8,000 pixels"),
        (options.task_of, ("0/8", "9/8", "3", "3/", "/8", "-1/8"), "is not a task like 3/8"),
    ],
)
def test_what_is_refused(kind: Callable[[str], Any], texts: tuple[str, ...], message: str) -> None:
    """With what was given, and an example of what would do."""
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            kind(text)
