"""Print any text to any terminal or pipe. A test lists the few files that print in another way.

A terminal without UTF-8 (LANG=C, PYTHONIOENCODING=ascii) cannot encode the bars and dashes of tables, and no terminal
can encode a file name that is not UTF-8. Python would raise UnicodeEncodeError at the end of a command, after all its
work.
"""

from __future__ import annotations

import codecs
import io
import sys
from typing import TextIO

from shards.text import printable

LOOKALIKES = {
    **dict(zip("▁▂▃▄▅▆▇█", ".:-=+*#@", strict=True)),
    **dict.fromkeys("–—─━╌", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("┏┓┗┛┌┐└┘├┤┬┴┼┡┩╇╪┳┻╋", "+"),
    "×": "x",
    "⌀": "~",
    "±": "+-",
    "…": "...",
    "≥": ">=",
    "≤": "<=",
    "²": "2",
}


def lookalike(error: UnicodeError) -> tuple[str, int]:
    r"""Handle an encoding error: table symbols become similar ASCII, all else escapes like \xe9 or \udcff."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    likes = (LOOKALIKES.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs)
    return "".join(likes), error.end


def print_anything() -> None:
    """Let stdout and stderr print any text in any encoding. Call it when a command starts."""
    codecs.register_error("lookalike", lookalike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lookalike")


def print_line(text: object, keep: str = "", file: TextIO | None = None) -> None:
    """Print text and a line end, without characters that would control a terminal, and flush.

    It is one write, so that lines of several processes do not interleave.

    Args:
        text: Any object; its `str` is printed.
        keep: Control characters to keep, as of `printable`.
        file: The stream; by default, standard output.
    """
    stream = file or sys.stdout
    stream.write(f"{printable(text, keep)}\n")
    stream.flush()
