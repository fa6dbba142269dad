"""Print any text to any terminal or pipe.

A terminal without UTF-8 (LANG=C, PYTHONIOENCODING=ascii) cannot encode the bars and dashes of tables, and no terminal
can encode a file name that is not UTF-8. Python would raise UnicodeEncodeError at the end of a command, after all its
work.
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
