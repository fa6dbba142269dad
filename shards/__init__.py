"""A data set on disk, as tar shards that are read at random: `shards.open(DIR)` gives a Reader.

Nothing here knows of models. Importing the package loads no torch, no numpy: they come when a folder is opened.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from shards.records import DataError, Protocol, Role, Tracklet

if TYPE_CHECKING:
    from shards.read import Reader

__all__ = ["DataError", "Protocol", "Role", "Tracklet", "open"]


def open(path: str | PathLike[str]) -> Reader:
    """Open a folder made by `python -m shards build`. Raises DataError where it is none, or a damaged one."""
    from shards.read import Reader

    return Reader(path)
