"""Write small files under a temporary name and rename them, so that no reader sees half of one; read them safely."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mstat.errors import UserError

MOST_BYTES = 64 << 20  # of a small file
MOST_JOURNAL_BYTES = 1 << 30  # of metrics.jsonl: about three million steps


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """Open a text file under a temporary name, and give it its own name when the block ends without an error."""
    tmp = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        with tmp.open("w", encoding="utf-8", errors="backslashreplace") as file:  # file names need not be UTF-8
            yield file
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with writing(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def why_not_writable(folder: Path) -> OSError | None:
    """Make a folder if it is missing, and return the error of writing a file to it, or None."""
    probe = folder / f".probe.{platform.node()}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        return error
    return None


def read_plain(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a file of an untrusted folder: follow no link, and wait for no pipe or device.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is not a regular file, or larger than `most_bytes`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path.name} is a link, which mstat does not follow: replace it by the file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path.name} is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise UserError(f"{path.name} has more than {most_bytes:,} bytes")
    return data


def read_plain_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Return the JSON value of such a file. Raises the errors of `read_plain`, and ValueError for invalid JSON."""
    try:
        return json.loads(read_plain(path, most_bytes))
    except RecursionError:
        raise UserError(f"{path.name} is nested too deeply") from None


def write_plain(path: Path, data: bytes) -> None:
    """Write a file to an untrusted folder; replace a link of the file's name instead of following it.

    Raises:
        UserError: If the folder is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise UserError(f"{path.parent} is a link, which mstat does not follow: remove it")
    tmp = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(tmp, flags, 0o666), "wb") as file:
            file.write(data)
        tmp.replace(path)  # replaces a link of that name
    finally:
        tmp.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a run.

    Raises:
        UserError: If the file holds no object, such as after an incomplete copy.
    """
    try:
        content = read_plain_json(path)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}): copy the file again, or make it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object: copy the file again, or make it again")
    return content
