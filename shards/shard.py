"""One shard: written whole or not at all, and taken up again where its source is still the same. Runs in a worker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from shards import images, index, tar
from shards.guarded import read_regular, sha256_of
from shards.records import DataError, SourceTracklet
from shards.workers import Progress

PART = ".part"  # of a shard that is being written
SIDECAR = ".made"  # beside a whole shard, while building: what it was made from, and its rows of the index
DIGEST_BYTES = hashlib.sha256().digest_size
DEFAULT_QUALITY = 90
# What speaks of the frame itself; other errors of reading (a disk, a network) may be gone at the next try.
BAD_FRAME = (ValueError, FileNotFoundError, IsADirectoryError, PermissionError)


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of frames: with `size` (H, W) as JPEGs of that size and `quality`, without it unchanged.

    What readers of shards could not show rightly becomes a PNG, which loses nothing: other formats, and pictures that
    lie on their side with EXIF to say so.
    """

    size: tuple[int, int] | None = None
    quality: int = DEFAULT_QUALITY

    def apply(self, data: bytes) -> tuple[bytes, str, bool]:
        """Return the bytes to store of a frame's, their extension, and whether the picture was turned upright.

        Raises ValueError where the frame is no whole picture.
        """
        extension, orientation = images.check(data)
        turned = orientation != 1
        if self.size:
            image_HW3 = images.resize(images.decode(data, self.size)[None], self.size)[0]
            return images.encode(image_HW3, self.quality), "jpg", turned
        if turned or extension not in images.STORED:
            return images.encode_png(images.decode(data)), "png", turned
        return data, extension, False


@dataclass(frozen=True, slots=True)
class Job:
    """One shard to write: picklable, and all that a worker needs. `plan` is the fingerprint of the whole build."""

    path: Path
    number: int
    tracklets: Sequence[SourceTracklet]
    role_names: Sequence[tuple[str, str]]
    encoding: Encoding
    plan: str
    drop: bool = False  # bad frames are left out; otherwise they are an error


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of writing a shard: its record, the rows of its tracklets, and a line for each bad frame.

    Without `drop`, a shard that has bad frames has no record. A tracklet of which no frame is left has no row.
    `turned` counts the pictures that were turned by their EXIF orientation.
    """

    record: index.ShardRecord | None
    table: pa.Table | None
    faults: list[str]
    turned: int = 0


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """The note of a finished shard: `plan` of its build, digest of its source frames, and the outcome."""

    plan: str
    source: str
    written: Written

    @staticmethod
    def read(job: Job) -> _Sidecar | None:
        """That of a shard of this very build, both with the very bytes that were written; None where there is none."""
        try:
            content = read_regular(job.path.with_suffix(SIDECAR))
            digest, stream = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
            if hashlib.sha256(stream).digest() != digest:
                return None
            table = pa.ipc.open_stream(stream).read_all()
            facts = json.loads(table.schema.metadata[b"facts"])
            record = index.ShardRecord(**facts["record"])
            usable = facts["plan"] == job.plan and (job.drop or not facts["faults"])
            if not usable or sha256_of(job.path) != record.sha256:
                return None
        except FileNotFoundError:
            return None
        written = Written(record, table.replace_schema_metadata(), facts["faults"], facts["turned"])
        return _Sidecar(facts["plan"], facts["source"], written)

    def write(self, job: Job) -> None:
        """Before the shard gets its name."""
        record, table, faults = self.written.record, self.written.table, self.written.faults
        assert record is not None
        assert table is not None
        facts = {
            "plan": self.plan,
            "source": self.source,
            "record": asdict(record),
            "faults": faults,
            "turned": self.written.turned,
        }
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema.with_metadata({"facts": json.dumps(facts)})) as stream:
            stream.write_table(table)
        content = sink.getvalue().to_pybytes()
        job.path.with_suffix(SIDECAR).write_bytes(hashlib.sha256(content).digest() + content)


def write_shard(job: Job, progress: Progress) -> Written:
    """Write one shard unless it is there and its source is the same. Runs in a worker."""
    sidecar = _Sidecar.read(job)
    if sidecar is None or not _is_current(sidecar, job, progress):
        job.path.unlink(missing_ok=True)
        part = job.path.with_name(f"{job.path.name}.{platform.node()}.{os.getpid()}{PART}")
        try:
            sidecar = _write_tar(part, job, progress)
            if sidecar.written.record:
                sidecar.write(job)
                part.replace(job.path)
        finally:
            part.unlink(missing_ok=True)
    return sidecar.written


def join_shard(job: Job, progress: Progress) -> Written:
    """Take a shard as another process has made it, without a look at its source. Runs in a worker."""
    progress.check()
    sidecar = _Sidecar.read(job)
    if sidecar is None:
        other = (
            " as it is asked for: what is there is damaged, or of other options or data" if job.path.exists() else ""
        )
        return Written(None, None, [f"{job.path}: not made yet{other}"])
    progress.advance(len(job.tracklets), sum(tracklet.num_frames for tracklet in job.tracklets))
    return sidecar.written


class _Digest:
    """Return the digest of frames by length and CRC-32, which changes when a frame is replaced."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> int:
        """Return the frame's CRC-32."""
        checksum = index.crc32(data)
        self._hash.update(struct.pack("<QI", len(data), checksum))
        return checksum

    def hex(self) -> str:
        return self._hash.hexdigest()


def _is_current(sidecar: _Sidecar, job: Job, progress: Progress) -> bool:
    """Return whether a shard was made from the very frames that the source has now."""
    digest = _Digest()
    for tracklet in job.tracklets:
        progress.check()
        count = 0
        for frame in tracklet.frames():
            with contextlib.suppress(*BAD_FRAME):
                digest.add(frame.read())
            count += 1
        progress.advance(1, count)
    if digest.hex() == sidecar.source:
        return True
    progress.advance(-len(job.tracklets), 0)  # they are to be written, and counted, again
    return False


class _Picture(NamedTuple):  # made in half the time of a frozen dataclass, a million times in a build
    """A frame as it is stored."""

    data: bytes
    extension: str
    turned: bool
    crc32: int


def _write_tar(path: Path, job: Job, progress: Progress) -> _Sidecar:
    """Write the job's tracklets without their bad frames.

    If bad frames are errors, the first one ends the writing, and the remaining frames are only checked.
    """
    digest = _Digest()
    faults: list[str] = []
    turned = 0
    with path.open("wb") as file:
        shard = _Shard(file, job)
        for tracklet in job.tracklets:
            progress.check()
            good = list(_good_pictures(tracklet, job.encoding, digest, faults))
            turned += sum(picture.turned for picture in good)
            if job.drop and not good:
                faults.append(f"{tracklet.key}: no frame is left of it, so it is left out")
            elif job.drop or not faults:
                shard.add(tracklet, good)
            progress.advance(1, tracklet.num_frames)
        if faults and not job.drop:
            return _Sidecar(job.plan, digest.hex(), Written(None, None, faults))
        record, table = shard.end()
        if hasattr(os, "posix_fadvise"):  # starts the writing to disk; the build waits for it, once, at its end
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _Sidecar(job.plan, digest.hex(), Written(record, table, faults, turned))


def _good_pictures(
    tracklet: SourceTracklet, encoding: Encoding, digest: _Digest, faults: list[str]
) -> Iterator[_Picture]:
    """A tracklet's pictures, encoded; a line in `faults` for each that is none."""
    count = 0
    for frame in tracklet.frames():
        count += 1
        try:
            came = frame.read()
            checksum = digest.add(came)
            data, extension, turned = encoding.apply(came)
        except BAD_FRAME as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            faults.append(f"{frame.name}: {tracklet.key}: {reason}")
        else:
            yield _Picture(data, extension, turned, checksum if data is came else index.crc32(data))
    if count != tracklet.num_frames:
        raise DataError(
            f"{tracklet.key}: {count} frames came where the source promised {tracklet.num_frames}; "
            "has the data changed meanwhile? Build again"
        )


class _Shard:
    """A tar that is being written: its bytes go to the file, and what the index needs to know of them is kept."""

    def __init__(self, file: BinaryIO, job: Job) -> None:
        self._file, self._job = file, job
        self._hash, self._size = hashlib.sha256(), 0
        self._rows: list[dict[str, Any]] = []

    def add(self, tracklet: SourceTracklet, pictures: Sequence[_Picture]) -> None:
        """Write a tracklet: its json first, then its pictures."""
        key, pid, camid, roles = tracklet.key, tracklet.pid, tracklet.camid, [int(role) for role in tracklet.roles]
        content = index.sample_json(key, pid, camid, len(pictures), roles, self._job.role_names)
        members = [(f"{key}.json", content)]
        members += [(f"{key}.{number:05d}.{p.extension}", p.data) for number, p in enumerate(pictures)]
        block, offsets = tar.pack(members)
        self._rows.append(
            {
                "key": key,
                "pid": pid,
                "camid": camid,
                "shard": self._job.number,
                "json_crc32": index.crc32(content),
                "offsets": [self._size + offset for offset in offsets[1:]],
                "sizes": [len(p.data) for p in pictures],
                "crc32": [p.crc32 for p in pictures],
                "roles": roles,
            }
        )
        self._write(block)

    def end(self) -> tuple[index.ShardRecord, pa.Table]:
        """Write the end; return the record of the shard and the rows of its tracklets."""
        self._write(tar.end(self._size))
        self._file.flush()
        record = index.ShardRecord(self._job.path.name, self._size, self._hash.hexdigest())
        return record, pa.Table.from_pylist(self._rows, schema=index.SCHEMA)

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._hash.update(block)
        self._size += len(block)
