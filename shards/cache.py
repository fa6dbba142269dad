"""Local cache of remote sets: a folder of bounded size, shared by all processes.

Blocks are plain files, written under a temporary name and then renamed, so that no process needs a lock.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from pathlib import Path

from shards.guarded import MAX_BYTES, read_regular
from shards.records import DataError

TRIM_EVERY = 64 << 20  # bytes that a process writes between two checks of the cache's size
TRIM_SHARE = 64  # of a small cache, this part: the writes of many processes between two checks must fit
OURS = re.compile(r"[0-9a-f]{64}")  # folders in a cache: checksums of sets and indices


class Cache:
    """Named files in a folder, of about `limit` bytes in total. The oldest are removed first.

    A name begins with a checksum, which is its folder. The cache leaves all other files in its folder alone.

    Many processes may use a cache at once. If it cannot be written (a full disk), it warns once, and reading goes on.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._written = 0
        self._warned = False

    def path(self, name: str) -> Path:
        """Return the path of a file, which may not exist."""
        return self.folder / name

    def get(self, name: str, max_bytes: int = MAX_BYTES) -> bytes | None:
        """Return the content of a file; None unless it is a regular file of at most `max_bytes`."""
        try:
            return read_regular(self.path(name), max_bytes)
        except (OSError, DataError):
            return None

    def put(self, name: str, data: bytes) -> bool:
        """Write a file; return False if that fails."""
        path = self.path(name)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)  # left by a killed process of the same number; or a link or pipe
            with part.open("xb") as file:
                file.write(data)
            part.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            if not self._warned:
                warnings.warn(
                    f"{self.folder}: cannot write the cache ({error}); reading goes on without it", stacklevel=2
                )
            self._warned = True
            return False
        self._written += len(data)
        if self._written >= min(TRIM_EVERY, self.limit // TRIM_SHARE):
            self._trim()
        return True

    def drop(self, name: str) -> bool:
        """Remove a file; return whether it existed."""
        try:
            self.path(name).unlink()
            return True
        except OSError:
            return False

    def _trim(self) -> None:
        """Remove the oldest files, down to three quarters of the limit: other processes write meanwhile."""
        self._written = 0
        files = []
        ours = [folder for folder in self.folder.iterdir() if OURS.fullmatch(folder.name)]
        for path in (path for folder in ours for path in folder.rglob("*")):
            try:
                status = path.stat()
            except OSError:  # removed by another process
                continue
            if path.is_file():
                files.append((status.st_mtime_ns, status.st_size, path))
        excess = sum(size for _, size, _ in files) - self.limit * 3 // 4
        for _, size, path in sorted(files):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size
