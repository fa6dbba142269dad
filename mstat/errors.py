"""Errors that a user can fix. Commands print only their message; all other errors keep their traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Error for invalid input. Its message is one line: the file or the setting, what is wrong, and the way out.

    It is a ValueError, so that callers of the library can catch it without an import. A plain ValueError is a bug.
    """
