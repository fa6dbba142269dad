"""Errors that a user can mend: commands print their message alone; every other error keeps its traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input that a user can mend. The message names the file or the setting, and the way out.

    A ValueError, so that callers of the library need no import to catch it. A plain ValueError is a fault of ours.
    """
