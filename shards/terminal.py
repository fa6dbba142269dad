"""Output that no terminal, pipe or name on a disk can break.

A terminal without UTF-8 (LANG=C, PYTHONIOENCODING=ascii) has no letters for the bars and dashes of the tables, and a
file name whose bytes are no UTF-8 can be encoded nowhere. Python would end the command with a UnicodeEncodeError, after
all its work.
"""

from __future__ import annotations

import codecs
import io
import sys

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
    r"""Handle an error of a codec: signs of tables by their like in ASCII, all else as escapes like \xe9 or \udcff."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    likes = (LOOKALIKES.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs)
    return "".join(likes), error.end


def print_anything() -> None:
    """Let standard output and error print every text, whatever their encoding. For the start of a command."""
    codecs.register_error("lookalike", lookalike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="lookalike")
