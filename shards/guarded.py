"""Files of folders that somebody else may have made: regular files alone, of a bounded size.

A pipe or a device that bears the name of a picture, a shard or a lock would be waited for without end, or read without
end.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from shards.records import DataError

MAX_BYTES = 1 << 30  # of a file that is read whole
READ_BYTES = 1 << 16


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a regular file. Raises DataError where it is none, OSError as `os.open` does."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise DataError(f"{os.fspath(path)}: a link, where only a file of its own may be; remove it") from None
        if error.errno == errno.ENXIO:  # a socket
            raise DataError(f"{os.fspath(path)}: no regular file; remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{os.fspath(path)}: no regular file (a pipe, a device or a folder); remove it")
    return descriptor


def read_regular(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """All of a regular file. Raises DataError where it is none, or larger than `max_bytes`."""
    descriptor = open_regular(path)
    try:
        data = os.read(descriptor, READ_BYTES)  # a small file in a quarter of the time of Path.read_bytes
        if len(data) == READ_BYTES:
            parts = [data]
            size = len(data)
            while size <= max_bytes and (more := os.read(descriptor, 16 * READ_BYTES)):
                parts.append(more)
                size += len(more)
            data = b"".join(parts)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise DataError(f"{os.fspath(path)}: larger than {max_bytes:,} bytes, the most that is read of such a file")
    return data


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, in hex. Raises DataError where it is none."""
    with os.fdopen(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_lock(path: Path) -> int:
    """Return a descriptor of the file at `path`, made where there is none, to be locked with `fcntl.flock`.

    It is open to read and to write: over NFS a shared lock needs the one, an exclusive lock the other. Raises DataError
    where `path` is a link or no regular file.
    """
    return open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
