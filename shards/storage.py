"""Storage of a set: a local folder, or a URL (http, s3, gs, memory, ...) through fsspec.

From afar, whole blocks are fetched and kept in a cache folder that all processes and sets share: frames of a tracklet
lie side by side, so that the first frame of a clip brings most of the others. Blocks are plain files, renamed into
place when whole; nothing is locked, and whoever finds one may use it.

Whatever a folder or a server has under a name, reading it takes a bounded time and a bounded memory.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shards.cache import Cache
from shards.guarded import open_regular, read_regular, sha256_of
from shards.paths import check_url, expand, without_password
from shards.records import DataError

MAX_OPEN = 256  # shards of a set, in a process
BLOCK_BYTES = 1 << 20
BLOCKS_IN_MEMORY = 16  # of a process
DEFAULT_CACHE_GB = 20.0
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each new try
TIMEOUT_SECONDS = 30.0  # of one request
R = TypeVar("R")
Place = tuple[int, int]  # offset and size in a file


class Files(Protocol):
    """The file operations that a Reader needs. FileNotFoundError says that there is no file of that name."""

    def where(self, name: str) -> str:
        """The path or URL of a file, for messages."""

    def content(self, name: str, max_bytes: int) -> bytes:
        """All of a small file, as it is now. Raises DataError where it is larger than `max_bytes`."""

    def local(self, name: str, sha256: str, max_bytes: int) -> Path:
        """A local file with the content of that SHA-256, to map into memory; the caller checks it.

        Raises DataError where more than `max_bytes` come from afar.
        """

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of files; None where a server does not say."""

    def read(self, name: str, places: Sequence[Place]) -> list[bytes]:
        """The bytes at each place, fewer where the file ends."""

    def forget(self, name: str, offset: int, size: int) -> bool:
        """Drop what a cache holds of that range; False where nothing of it came out of one."""

    def close(self) -> None:
        """Close what is open; a later read opens it again."""


def open_files(path: str | os.PathLike[str], cache: str | os.PathLike[str] | None, cache_gb: float | None) -> Files:
    """The files of a local folder or URL; `cache` and `cache_gb` as in `shards.open`."""
    text = expand(os.fspath(path))
    if "://" not in text:
        return LocalFiles(Path(text))
    check_url(text)
    if text.startswith("file://"):
        return LocalFiles(Path(text.removeprefix("file://")))
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mstat" / "shards"
    folder = Path(expand(os.fspath(cache or os.environ.get("MSTAT_CACHE") or default)))
    gigabytes = cache_gb if cache_gb is not None else _gigabytes(os.environ.get("MSTAT_CACHE_GB"))
    return RemoteFiles(text.rstrip("/"), Cache(folder, round(gigabytes * 1e9)))


def _gigabytes(text: str | None) -> float:
    try:
        return DEFAULT_CACHE_GB if text is None else float(text)
    except ValueError:
        raise DataError(f"MSTAT_CACHE_GB={text}: not a number of gigabytes") from None


class _Descriptor:
    """An open file. It closes when nobody holds it: a thread may still read through one that gave way to another."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # at Python's end, the module `os` may be gone
        close(self.number)


def _max_open() -> int:
    """Return the number of files that a Reader keeps open: a quarter of the process's limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN if limit == resource.RLIM_INFINITY else max(1, min(MAX_OPEN, limit // 4))


class LocalFiles:
    """A folder. Files are opened when first read; those read last stay open, a bounded number.

    `os.pread` has no file position to share, so forked processes and threads may read through the same descriptor.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; make it with `python -m shards build ... --out {folder}`")
        self.folder = folder
        self._open = lru_cache(_max_open())(partial(_open, folder))

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def content(self, name: str, max_bytes: int) -> bytes:
        return read_regular(self.folder / name, max_bytes)

    def local(self, name: str, sha256: str, max_bytes: int) -> Path:
        return self.folder / name

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        return [(self.folder / name).stat().st_size for name in names]

    def read(self, name: str, places: Sequence[Place]) -> list[bytes]:
        try:
            file = self._open(name)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            self._open.cache_clear()  # other sets and connections of this process have taken the rest
            file = self._open(name)
        if len(places) > 1 and hasattr(os, "posix_fadvise"):
            for offset, size in places:  # a disk then looks for all of them at once
                os.posix_fadvise(file.number, offset, size, os.POSIX_FADV_WILLNEED)
        return [os.pread(file.number, size, offset) for offset, size in places]

    def forget(self, name: str, offset: int, size: int) -> bool:
        return False

    def close(self) -> None:
        self._open.cache_clear()


def _open(folder: Path, name: str) -> _Descriptor:
    return _Descriptor(open_regular(folder / name))


class RemoteFiles:
    """A folder behind a URL, read in blocks through a cache. A lost connection is tried again, then a DataError."""

    def __init__(self, url: str, cache: Cache) -> None:
        self.url, self.cache = url, cache
        self.blocks = ""  # folder of this set's blocks in the cache
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._filesystem: tuple[int, Any, str] | None = None

    def name_blocks(self, checksum: str) -> None:
        """Name the blocks after the URL and the checksum of the set.

        A server could claim another set's checksum: its blocks must not stand in for those of another URL.
        """
        self.blocks = hashlib.sha256(f"{self.url}\n{checksum}".encode()).hexdigest()

    def where(self, name: str) -> str:
        return f"{without_password(self.url)}/{name}"

    def content(self, name: str, max_bytes: int) -> bytes:
        return self._fetch_whole(name, max_bytes)

    def local(self, name: str, sha256: str, max_bytes: int) -> Path:
        cached = f"{sha256}/{Path(name).name}"
        path = self.cache.path(cached)
        if not path.is_file() or sha256_of(path) != sha256:
            data = self._fetch_whole(name, max_bytes)
            if not self.cache.put(cached, data):
                raise DataError(f"{path}: the index cannot be kept here; set MSTAT_CACHE to a folder with room")
        return path

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        filesystem, root = self._connect()
        try:
            result: list[int | None] = self._try_again(
                without_password(self.url),
                lambda: filesystem.sizes([f"{root}/{name}" for name in names], **_timeout(filesystem)),
            )
        except FileNotFoundError as error:  # fsspec says so of every failure
            if isinstance(error.__cause__, DataError):
                raise error.__cause__ from None
            raise
        return result

    def read(self, name: str, places: Sequence[Place]) -> list[bytes]:
        return [self._read(name, offset, size) for offset, size in places]

    def _read(self, name: str, offset: int, size: int) -> bytes:
        first, last = offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES
        joined = b"".join(
            self._block(name, number, min(BLOCK_BYTES, offset + size - number * BLOCK_BYTES))
            for number in range(first, last + 1)
        )
        start = offset - first * BLOCK_BYTES
        return joined[start : start + size]

    def forget(self, name: str, offset: int, size: int) -> bool:
        dropped = False
        for number in range(offset // BLOCK_BYTES, (offset + size - 1) // BLOCK_BYTES + 1):
            self._recent.pop(self._block_name(name, number), None)
            dropped |= self.cache.drop(self._block_name(name, number))
        return dropped

    def close(self) -> None:
        self._recent.clear()
        self._filesystem = None

    def _block_name(self, name: str, number: int) -> str:
        return f"{self.blocks}/{name}/{number:06d}"

    def _block(self, name: str, number: int, size: int) -> bytes:
        """A block of a file, of which `size` bytes are there for certain; the last may have fewer than the others."""
        key = self._block_name(name, number)
        data = self._recent.pop(key, None)
        if data is None:
            data = self.cache.get(key, BLOCK_BYTES)
        if data is None or len(data) < size:
            data = self._fetch_part(name, number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES, size)
            self.cache.put(key, data)
        self._recent[key] = data
        if len(self._recent) > BLOCKS_IN_MEMORY:
            self._recent.popitem(last=False)
        return data

    def _fetch_whole(self, name: str, max_bytes: int) -> bytes:
        data = self._fetch(name, None, max_bytes + 1)
        if len(data) > max_bytes:
            raise DataError(f"{self.where(name)}: more than {max_bytes:,} bytes come, the most that are read of it")
        return data

    def _fetch_part(self, name: str, start: int, end: int, size: int) -> bytes:
        """The bytes from `start` to `end`, of which `size` are there for certain."""
        data = self._fetch(name, start, end, size)
        if len(data) > end - start:
            raise DataError(
                f"{self.where(name)}: a part was asked for and all of it came: this server knows no ranges (HTTP "
                "Range); use another, or copy the set to a local folder"
            )
        return data

    def _fetch(self, name: str, start: int | None, end: int, size: int = 0) -> bytes:
        """The bytes from `start` to `end`, and perhaps one more where a server sends more.

        Without `start` no part is asked for, which a server without ranges sends, too.
        """
        filesystem, root = self._connect()

        def call() -> bytes:
            result: bytes = filesystem.cat_file(f"{root}/{name}", start=start, end=end, **_timeout(filesystem))
            if len(result) < size:  # a server that says no length may lose the connection without a sign
                raise ConnectionError(f"{len(result):,} bytes came of {size:,} or more")
            return result

        return self._try_again(self.where(name), call)

    def _connect(self) -> tuple[Any, str]:
        """The file system of this process: its connections and threads do not outlive a fork."""
        if self._filesystem is None or self._filesystem[0] != os.getpid():
            from shards import web  # with fsspec and aiohttp, which local sets do not need

            self._filesystem = os.getpid(), *web.connect(self.url)
        return self._filesystem[1:]

    def _try_again(self, what: str, call: Callable[[], R]) -> R:
        for seconds in (*WAITS, None):
            try:
                return call()
            except (FileNotFoundError, PermissionError, DataError):
                raise
            except Exception as error:  # each protocol has its own
                if seconds is None:
                    reason = str(error) or type(error).__name__
                    tries = len(WAITS) + 1
                    raise DataError(
                        f"{what}: cannot be read ({reason}), {tries} times in a row; is the address right, the "
                        "connection up? The same command goes on"
                    ) from error
                time.sleep(seconds)
        raise AssertionError


def _timeout(filesystem: Any) -> dict[str, float]:
    """For file systems that wait on fsspec's own loop; others have timeouts of their own."""
    return {"timeout": TIMEOUT_SECONDS} if filesystem.async_impl else {}
