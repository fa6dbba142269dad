"""Errors that a user can fix: commands print only their message; every other error keeps its traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Error for wrong input that a user can fix. The message names the file or the setting, and the way out.

    It is a ValueError, so that callers of the library need no import to catch it. A plain ValueError is a bug in mstat.
    """
