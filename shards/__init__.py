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


def open(path: str | PathLike[str], cache: str | PathLike[str] | None = None, cache_gb: float | None = None) -> Reader:
    """Open a folder made by `python -m shards build`: a local one, or the URL of one (http, s3, ...).

    Args:
        path: Folder or URL.
        cache: Where to keep what was fetched from a URL; a local disk. Default: $MSTAT_CACHE, or ~/.cache/mstat/shards.
        cache_gb: Gigabytes that it may take, about. Default: $MSTAT_CACHE_GB, or 20.

    Raises:
        DataError: Where there is no set, a damaged one, or no connection.
    """
    from shards.read import Reader

    return Reader(path, cache, cache_gb)
