"""Text that comes from data (keys, names, logs, JSON, URLs), made safe to print."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def printable(text: object, keep: str = "") -> str:
    r"""Show each character that would steer a terminal, or change the order of a line, as its escape.

    Control characters (ESC), bidirectional and other format characters, and surrogates of names that are no UTF-8
    become `\x1b`, `\u202e`, `\udcff`.

    Args:
        text: Anything; its `str` is taken.
        keep: Control characters that may stay, as `"\\n\\t"` in text of several lines.
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in string)


def printable_lines(lines: Iterable[str]) -> str:
    """A text of several lines, each `printable`."""
    return "\n".join(map(printable, lines))


def markup(text: object) -> str:
    """`printable`, with brackets that rich's console would take for markup escaped."""
    from rich.markup import escape

    return escape(printable(text))


def breaks_lines(text: str) -> bool:
    """Return whether a text holds control characters or ends of lines: it cannot be a name in a script or an option."""
    return any(unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") for c in text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 fault, 2 faults."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
