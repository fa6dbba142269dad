"""The console for tables and messages."""

from __future__ import annotations

from rich.console import Console

from shards.text import printable

LOG_WIDTH = 200  # columns of a log, which has no terminal's width


def console() -> Console:
    """Return the console of standard output. In a log, it is wide enough for every column of a table."""
    result = Console()
    # Not `is_terminal`: FORCE_COLOR, which CI sets, would make that true for a log file.
    return result if result.file.isatty() else Console(width=LOG_WIDTH)


def print_line(text: object) -> None:
    """Print text in one line as it is: no markup, colours or wrapping; control characters become escapes."""
    console().print(printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
