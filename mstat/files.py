"""Small files that a reader never sees half of: written under another name, renamed when whole. And their reading."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
from pathlib import Path
from typing import Any

from mstat.errors import UserError

MOST_BYTES = 64 << 20  # of a small file
MOST_JOURNAL_BYTES = 1 << 30  # of metrics.jsonl: some three million steps


def write_text(path: Path, text: str) -> None:
    tmp = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        tmp.write_text(text, encoding="utf-8", errors="backslashreplace")  # names on a disk need not be UTF-8
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def why_not_writable(folder: Path) -> OSError | None:
    """Return the error that keeps files from being written to a folder, or None. Make the folder if it is missing."""
    probe = folder / f".probe.{platform.node()}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        return error
    return None


def read_plain(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a file of a folder that somebody else may have made: no link is followed, no pipe or device is waited for.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is no regular file, or larger than `most_bytes`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path.name} is a link, which is not followed") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path.name} is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise UserError(f"{path.name} has more than {most_bytes:,} bytes")
    return data


def read_plain_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The JSON value in such a file. Raises as `read_plain`, and ValueError where the file holds none."""
    try:
        return json.loads(read_plain(path, most_bytes))
    except RecursionError:
        raise UserError(f"{path.name} is nested too deeply") from None


def write_plain(path: Path, data: bytes) -> None:
    """Write a file into a folder that somebody else may have made: neither the folder nor the file may be a link.

    Raises:
        UserError: If the folder is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise UserError(f"{path.parent} is a link, which is not followed; remove it")
    tmp = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(tmp, flags, 0o666), "wb") as file:
            file.write(data)
        tmp.replace(path)  # a link of that name is replaced, not followed
    finally:
        tmp.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file of a run holds.

    Raises:
        UserError: If it holds none, as after a copy that was cut.
    """
    try:
        content = read_plain_json(path)
    except ValueError as error:
        raise UserError(f"{path}: damaged, or no JSON ({error}): copy or make it anew") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: no JSON object, but a {type(content).__name__}: copy or make it anew")
    return content
