"""Read tracklets in the order of their tars, for a set that is read once: object storage is fast for long requests.

A Reader behind a URL fetches blocks of 1 MiB when their frames are needed, and keeps them in a cache. A StreamedReader
fetches long pieces, the next ones while the present one is decoded, and keeps nothing. Tars become samples by a
pipeline of `webdataset`. A stream ends where the part of another worker or node begins, so that each byte is requested
once.
"""

from __future__ import annotations

import io
import os
import tarfile
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from webdataset.pipeline import DataPipeline
from webdataset.tariterators import group_by_keys

from shards import images
from shards.read import Reader
from shards.records import DataError
from shards.storage import Files
from shards.tar import BLOCK

PIECE = 8 << 20  # bytes of one request
AHEAD = 2  # requests at a time, so that a server's delay costs nothing


class Span(NamedTuple):
    """Consecutive bytes of a tar: file name, first byte, end."""

    file: str
    start: int
    stop: int


class StreamedReader(Reader):
    """A Reader whose tracklets are read in ascending order.

    A stream begins at the first tracklet that is read, and goes on to the next of `ends`. A read of an earlier
    tracklet, or of one behind that end, starts a new stream.

    Args:
        ends: Numbers of tracklets at which streams end, ascending.
    """

    def __init__(self, path: str | os.PathLike[str], ends: Sequence[int]) -> None:
        super().__init__(path)
        self.ends = list(ends)
        self._samples: Iterator[dict[str, Any]] = iter(())
        self._at, self._end = -1, -1  # row of the present sample, and end of its stream
        self._frames: list[bytes] = []

    def __reduce__(self) -> tuple[type[Reader], tuple[Any, ...]]:
        return StreamedReader, (self.path, self.ends)

    def _fetch(self, row: int, numbers: Sequence[int], places: Sequence[tuple[int, int]]) -> list[bytes]:
        if row != self._at:
            end = self._end
            if not self._at < row < end:
                end = next((end for end in self.ends[bisect_right(self.ends, row) :]), len(self))
                self._samples = samples(self._files, self._spans(row, end))
            self._at = self._end = -1  # after an error, the next read starts a new request
            self._frames = self._advance(self._key(row))
            self._at, self._end = row, end
        if len(self._frames) <= max(numbers):
            raise DataError(f"{self.path}: {self._key(row)}: its tar has {len(self._frames)} frames of it, not all")
        return [self._frames[number] for number in numbers]

    def _advance(self, key: str) -> list[bytes]:
        """Return the frames of a sample that is the next one, or a later one."""
        try:
            for sample in self._samples:
                if sample["__key__"] == key:
                    return [sample[name] for name in sorted(sample) if name[:1].isdigit()]
        except ValueError as error:  # of `group_by_keys`, on a member that is there twice
            raise DataError(f"{self.path}: {key}: {error}; build the set again") from error
        raise DataError(f"{self.path}: {key}: its tar does not have it where the index says; build the set again")

    def _spans(self, first: int, end: int) -> Iterator[Span]:
        """Yield the bytes of tracklets `first` to `end` in each tar, from the end of the tracklet before them on."""
        while first < end:
            shard = self._shards[first]
            last = first  # of this tar
            while last + 1 < end and self._shards[last + 1] == shard:
                last += 1
            follows = first > 0 and self._shards[first - 1] == shard
            yield Span(self._shard(first), self._stop(first - 1) if follows else 0, self._stop(last))
            first = last + 1

    def _stop(self, row: int) -> int:
        """Return the end of a tracklet's last member in its tar, padding included."""
        offset, size, _ = self._stored(row, [int(self.num_frames[row]) - 1])[0]
        return -(-(offset + size) // BLOCK) * BLOCK


def samples(files: Files, spans: Iterable[Span]) -> Iterator[dict[str, Any]]:
    """Yield the samples of spans as webdataset yields them: `__key__`, and the bytes of each member by its suffix."""
    pipeline = DataPipeline(lambda: iter(spans), partial(_expand, files), group_by_keys)
    return iter(pipeline)


def _expand(files: Files, spans: Iterable[Span]) -> Iterator[dict[str, Any]]:
    """Yield the members of tars. webdataset's own function would decompress, and read members of any size."""
    for span in spans:
        try:
            with _Pieces(files, span) as pieces, tarfile.open(fileobj=pieces, mode="r|") as tar:
                for member in tar:
                    if member.isreg():
                        if member.size > images.max_bytes():
                            what = f"{member.name} has {member.size:,} bytes, more than a picture may have"
                            raise DataError(f"{files.where(span.file)}: {what}; {images.MORE_PIXELS}")
                        content = tar.extractfile(member)
                        assert content is not None
                        yield {"fname": member.name, "data": content.read(), "__url__": span.file}
                    tar.members = []  # type: ignore[attr-defined]
        except tarfile.TarError as error:
            raise DataError(f"{files.where(span.file)}: not a tar from byte {span.start:,} on: {error}") from error
        yield {}  # the end of a tar, for `group_by_keys`


class _Pieces(io.RawIOBase):
    """The bytes of a span as a file, requested in pieces, AHEAD of them at a time."""

    def __init__(self, files: Files, span: Span) -> None:
        self.files, self.span = files, span
        self.position = span.start
        self.piece = memoryview(b"")
        self.pool = ThreadPoolExecutor(AHEAD)
        self.requests = deque(self._request() for _ in range(AHEAD))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.piece:
            self.piece = memoryview(self.requests.popleft().result())
            self.requests.append(self._request())
        size = min(len(buffer), len(self.piece))
        buffer[:size], self.piece = self.piece[:size], self.piece[size:]
        return size

    def _request(self) -> Future[bytes]:
        start, stop = self.position, min(self.position + PIECE, self.span.stop)
        self.position = stop
        return self.pool.submit(self._get, start, stop)

    def _get(self, start: int, stop: int) -> bytes:
        return self.files.fetch(self.span.file, start, stop) if start < stop else b""

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        super().close()
