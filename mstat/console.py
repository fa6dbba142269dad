"""The console for tables and text with markup; `print_line` is for plain text."""

from __future__ import annotations

from rich.console import Console

from shards.terminal import print_line

__all__ = ["console", "print_line"]

LOG_WIDTH = 200  # columns of a log, which has no terminal's width


def console() -> Console:
    """Return the console of standard output. In a log, it is wide enough for every column of a table."""
    result = Console()
    # Not `is_terminal`: FORCE_COLOR, which CI sets, would make that true for a log file.
    return result if result.file.isatty() else Console(width=LOG_WIDTH)
