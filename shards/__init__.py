"""Data sets as tar shards with random access: `shards.open(DIR)` returns a Reader.

This package knows nothing about models. Importing it loads neither torch nor numpy; opening a folder loads numpy.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from shards.records import DataError, Protocol, Role, Tracklet

if TYPE_CHECKING:
    from shards.read import Reader

__all__ = ["DataError", "Protocol", "Role", "Tracklet", "open"]


def open(path: str | PathLike[str], cache: str | PathLike[str] | None = None, cache_gb: float | None = None) -> Reader:
    """Open a folder made by `python -m shards build`, local or behind a URL (http, s3, ...).

    Args:
        path: Folder or URL.
        cache: Local folder for data fetched from a URL. Default: $MSTAT_CACHE, or ~/.cache/mstat/shards.
        cache_gb: Approximate limit of the cache in gigabytes. Default: $MSTAT_CACHE_GB, or 20.

    Raises:
        DataError: The set is missing or damaged, or the connection fails.
    """
    from shards.read import Reader

    return Reader(path, cache, cache_gb)
