"""Storage of a set: a local folder, or a URL (http, s3, gs, memory, ...) through fsspec.

Remote files are fetched in blocks and kept in a cache folder that all processes and sets share (shards/cache.py). The
frames of a tracklet are adjacent, so that the block of a clip's first frame contains most of the others.

Reading takes bounded time and memory, whatever a folder or server holds under a name.
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

MAX_OPEN = 256  # open shards per set and process
BLOCK_BYTES = 1 << 20
BLOCKS_IN_MEMORY = 16  # per set and process
DEFAULT_CACHE_GB = 20.0
WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each retry
TIMEOUT_SECONDS = 30.0  # per request
R = TypeVar("R")
Place = tuple[int, int]  # offset and size in a file


class Files(Protocol):
    """File operations that a Reader needs. They raise FileNotFoundError if a file does not exist."""

    def where(self, name: str) -> str:
        """Return the path or URL of a file, for messages."""

    def content(self, name: str, max_bytes: int) -> bytes:
        """Return the present content of a small file. Raises DataError if it is larger than `max_bytes`."""

    def local(self, name: str, sha256: str, max_bytes: int) -> Path:
        """Return the path of a local copy of the file with this SHA-256, to map into memory; the caller checks it.

        Raises DataError if a server sends more than `max_bytes`.
        """

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Return the sizes of files in bytes; None if a server does not report one."""

    def read(self, name: str, places: Sequence[Place]) -> list[bytes]:
        """Return the bytes at each place; fewer at the end of the file."""

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, which exist, by one request and without the cache."""

    def forget(self, name: str, offset: int, size: int) -> bool:
        """Remove a range of a file from the cache; return False if the cache held none of it."""

    def close(self) -> None:
        """Close open files and connections; a later read opens them again."""


def open_files(path: str | os.PathLike[str], cache: str | os.PathLike[str] | None, cache_gb: float | None) -> Files:
    """Return the files of a local folder or URL; `cache` and `cache_gb` as in `shards.open`."""
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
    """An open file, closed with its last reference: a thread may still use a descriptor that left the cache."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone when Python exits
        close(self.number)


def _max_open() -> int:
    """Return how many files a Reader keeps open: at most a quarter of the process's limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN if limit == resource.RLIM_INFINITY else max(1, min(MAX_OPEN, limit // 4))


class LocalFiles:
    """Files of a local folder. Files are opened when first read; a bounded number of the latest stay open.

    `os.pread` shares no file position, so that forked processes and threads may read through the same descriptor.
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
            self._open.cache_clear()  # other sets and connections of this process use up the limit
            file = self._open(name)
        if len(places) > 1 and hasattr(os, "posix_fadvise"):
            for offset, size in places:  # the disk can then fetch them all at once
                os.posix_fadvise(file.number, offset, size, os.POSIX_FADV_WILLNEED)
        return [os.pread(file.number, size, offset) for offset, size in places]

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        return self.read(name, [(start, stop - start)])[0]

    def forget(self, name: str, offset: int, size: int) -> bool:
        return False

    def close(self) -> None:
        self._open.cache_clear()


def _open(folder: Path, name: str) -> _Descriptor:
    return _Descriptor(open_regular(folder / name))


class RemoteFiles:
    """Files of a folder behind a URL, read in blocks through a cache. Failed requests are retried, then a DataError."""

    def __init__(self, url: str, cache: Cache) -> None:
        self.url, self.cache = url, cache
        self.blocks = ""  # the folder of this set's blocks in the cache
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._filesystem: tuple[int, Any, str] | None = None

    def name_blocks(self, checksum: str) -> None:
        """Name the blocks after the URL and the checksum of the set.

        A server could claim the checksum of another set. The URL in the name keeps its blocks out of that set.
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
                raise DataError(f"{path}: cannot write the index here; set MSTAT_CACHE to a folder with free space")
        return path

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        filesystem, root = self._connect()
        try:
            result: list[int | None] = self._try_again(
                without_password(self.url),
                lambda: filesystem.sizes([f"{root}/{name}" for name in names], **_timeout(filesystem)),
            )
        except FileNotFoundError as error:  # fsspec raises it for every failure
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

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        return self._fetch_part(name, start, stop, stop - start)

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
        """Return a block of a file. It has at least `size` bytes; the last block may be shorter than the others."""
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
            raise DataError(f"{self.where(name)}: the server sends more than {max_bytes:,} bytes, the limit")
        return data

    def _fetch_part(self, name: str, start: int, end: int, size: int) -> bytes:
        """Fetch the bytes from `start` to `end`, of which at least `size` exist."""
        data = self._fetch(name, start, end, size)
        if len(data) > end - start:
            raise DataError(
                f"{self.where(name)}: the server sent the whole file, not a part: it does not support HTTP Range; use "
                "another server, or copy the set to a local folder"
            )
        return data

    def _fetch(self, name: str, start: int | None, end: int, size: int = 0) -> bytes:
        """Fetch the bytes from `start` to `end`; one byte more if the server sends more.

        Without `start` the request has no range, so that a server without ranges can answer it.
        """
        filesystem, root = self._connect()

        def call() -> bytes:
            result: bytes = filesystem.cat_file(f"{root}/{name}", start=start, end=end, **_timeout(filesystem))
            if len(result) < size:  # without a stated length, a lost connection looks like the end
                raise ConnectionError(f"received {len(result):,} bytes of at least {size:,}")
            return result

        return self._try_again(self.where(name), call)

    def _connect(self) -> tuple[Any, str]:
        """Return the file system and root path; a new one after a fork, which its connections do not survive."""
        if self._filesystem is None or self._filesystem[0] != os.getpid():
            from shards import web  # imports fsspec and aiohttp, which local sets do not need

            self._filesystem = os.getpid(), *web.connect(self.url)
        return self._filesystem[1:]

    def _try_again(self, what: str, call: Callable[[], R]) -> R:
        for seconds in (*WAITS, None):
            try:
                return call()
            except (FileNotFoundError, PermissionError, DataError):
                raise
            except Exception as error:  # each protocol has its own types
                if seconds is None:
                    reason = str(error) or type(error).__name__
                    tries = len(WAITS) + 1
                    raise DataError(
                        f"{what}: cannot be read ({reason}), {tries} times in a row; check the address and the "
                        "connection, then run the same command again"
                    ) from error
                time.sleep(seconds)
        raise AssertionError


def _timeout(filesystem: Any) -> dict[str, float]:
    """Return the timeout option of file systems that use fsspec's event loop; others have their own timeouts."""
    return {"timeout": TIMEOUT_SECONDS} if filesystem.async_impl else {}
