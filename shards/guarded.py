"""Read files from untrusted folders: only regular files of a bounded size.

A pipe or device under the name of a picture, a shard or a lock would block a read, or feed it without end.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from shards.records import DataError

MAX_BYTES = 1 << 30  # of a file that is read into memory
READ_BYTES = 1 << 16


def open_regular(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a regular file. Raises DataError on other types, OSError as `os.open` does."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise DataError(f"{os.fspath(path)}: a link where a regular file belongs; remove it") from None
        if error.errno == errno.ENXIO:  # a socket
            raise DataError(f"{os.fspath(path)}: no regular file; remove it") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{os.fspath(path)}: no regular file (a pipe, a device or a folder); remove it")
    return descriptor


def read_regular(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Read a regular file. Raises DataError if it is of another type, or larger than `max_bytes`."""
    descriptor = open_regular(path)
    try:
        data = os.read(descriptor, READ_BYTES)  # four times as fast as Path.read_bytes for a small file
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
        raise DataError(f"{os.fspath(path)}: larger than {max_bytes:,} bytes, the limit for such a file")
    return data


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file, in hex. Raises DataError on other types."""
    with os.fdopen(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_lock(path: Path) -> int:
    """Return a descriptor of the file at `path`, for `fcntl.flock`. Creates a missing file.

    The file is open for reading and writing: over NFS a shared lock requires the former, an exclusive lock the latter.
    Raises DataError if `path` is a link or not a regular file.
    """
    return open_regular(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
