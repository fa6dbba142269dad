"""A folder on this machine that keeps blocks of sets from afar, bounded in size and shared by all processes.

Blocks are plain files, renamed into place when whole; nothing is locked, and whoever finds one may use it.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from pathlib import Path

from shards.guarded import MAX_BYTES, read_regular
from shards.records import DataError

TRIM_EVERY = 64 << 20  # bytes that a process writes between two looks at the size of the cache
TRIM_SHARE = 64  # or this part of a small cache: what many processes write between two looks must fit, too
OURS = re.compile(r"[0-9a-f]{64}")  # folders of a cache: checksums of sets and indices


class Cache:
    """Files of a folder, by name, of about `limit` bytes in all: the oldest go first.

    A name begins with a checksum, as a folder; all else that lies in the folder is somebody's, and left alone.

    Many processes use it at once. A cache that cannot be written (a full disk) is told once and done without.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._written = 0
        self._warned = False

    def path(self, name: str) -> Path:
        """Return the path of a file of that name, which need not exist."""
        return self.folder / name

    def get(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        """Its content, if it is there, a regular file and not larger."""
        try:
            return read_regular(self.path(name), max_bytes)
        except (OSError, DataError):
            return None

    def put(self, name: str, data: bytes) -> bool:
        """Keep it; False where that is not possible."""
        path = self.path(name)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)  # a process of that number was killed here; or somebody has put a link or pipe
            with part.open("xb") as file:
                file.write(data)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if not self._warned:
                warnings.warn(
                    f"{self.folder}: nothing can be kept here ({error}); reading goes on without", stacklevel=2
                )
            self._warned = True
            return False
        self._written += len(data)
        if self._written >= min(TRIM_EVERY, self.limit // TRIM_SHARE):
            self._trim()
        return True

    def drop(self, name: str) -> bool:
        """Remove it; whether it was there."""
        try:
            self.path(name).unlink()
            return True
        except OSError:
            return False

    def _trim(self) -> None:
        """Remove the oldest files until three quarters of the limit are left: others write meanwhile."""
        self._written = 0
        result = []
        ours = [folder for folder in self.folder.iterdir() if OURS.fullmatch(folder.name)]
        for path in (path for folder in ours for path in folder.rglob("*")):
            try:
                status = path.stat()
            except OSError:  # another process has removed it
                continue
            if path.is_file():
                result.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in result) - self.limit * 3 // 4
        for _, size, path in sorted(result):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size
