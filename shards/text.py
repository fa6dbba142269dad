"""Make text from data (keys, names, logs, JSON, URLs) safe to print."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def printable(text: object, keep: str = "") -> str:
    r"""Escape each character that would control a terminal or reorder a line.

    Control characters (ESC), bidirectional and other format characters, and surrogates from names that are not UTF-8
    become `\x1b`, `\u202e`, `\udcff`.

    Args:
        text: Any object; its `str` is escaped.
        keep: Control characters to keep, such as `"\\n\\t"` in text of several lines.
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in string)


def printable_lines(lines: Iterable[str]) -> str:
    """Join lines, each made `printable`."""
    return "\n".join(map(printable, lines))


def markup(text: object) -> str:
    """Make text `printable`, and escape brackets that rich would read as markup."""
    from rich.markup import escape

    return escape(printable(text))


def breaks_lines(text: str) -> bool:
    """Return whether text contains control characters or line ends, which no name in a script or option may have."""
    return any(unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") for c in text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 fault, 2 faults."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
