"""Paths as people write them. A shell expands `~` in `--out ~/x`, but not in `--out=~/x`, a YAML or a variable.

So every path of a command line, a setting or the environment goes through `expand`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from shards.records import UsageError


def expand(text: str) -> str:
    """The path with the home folder for `~` or `~name` at its start; a URL as it is.

    Raises UsageError where there is no such user.
    """
    if "://" in text:
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        name = text.partition("/")[0]
        raise UsageError(f"{text}: {name} is no user's home folder; a file of that name is ./{text}")
    return expanded


def path(text: str) -> Path:
    """The type of a command-line option that is a path."""
    try:
        return Path(expand(text))
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def place(text: str) -> str:
    """The type of a command-line option that is a path or a URL."""
    return text if "://" in text else str(path(text))
