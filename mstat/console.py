"""The console of tables and messages."""

from __future__ import annotations

from rich.console import Console

LOG_WIDTH = 200  # columns, where no terminal tells how wide it is


def console() -> Console:
    """Standard output; in a log wide enough that no number of a table is cut."""
    result = Console()
    # Not `is_terminal`: FORCE_COLOR, which CI sets, would make that true for a log file.
    return result if result.file.isatty() else Console(width=LOG_WIDTH)
