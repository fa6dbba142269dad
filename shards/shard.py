"""Write one shard atomically, or keep it if its source has not changed. Runs in a worker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from shards import images, index, tar
from shards.guarded import read_regular, sha256_of
from shards.records import BAD_FRAME, DataError, SourceTracklet
from shards.workers import Progress

PART = ".part"  # suffix of a shard that is being written
SIDECAR = ".made"  # beside a finished shard, during the build: digest of its source, and its rows of the index
DIGEST_BYTES = hashlib.sha256().digest_size
DEFAULT_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Encoding:
    """Encoding of frames: JPEGs of `size` (H, W) and `quality`; without `size`, frames are stored unchanged.

    Frames that are neither JPEG nor PNG, and pictures with an EXIF orientation, become upright PNGs, without loss.
    """

    size: tuple[int, int] | None = None
    quality: int = DEFAULT_QUALITY

    def apply(self, data: bytes) -> tuple[bytes, str, bool]:
        """Return a frame's bytes as stored, their extension, and whether the picture was turned upright.

        Raises ValueError if the frame is not a whole picture.
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
    """A shard to write; picklable. `plan` is the fingerprint of the whole build."""

    path: Path
    number: int
    tracklets: Sequence[SourceTracklet]
    role_names: Sequence[tuple[str, str]]
    encoding: Encoding
    plan: str
    drop: bool = False  # leave out bad frames instead of failing
    has_outfits: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A written shard: its record, the rows of its tracklets, and a line for each bad frame.

    Without `drop`, a shard with bad frames has no record. A tracklet without good frames has no row. `turned` counts
    the pictures that were turned by their EXIF orientation.
    """

    record: index.ShardRecord | None
    table: pa.Table | None
    faults: list[str]
    turned: int = 0


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """Notes on a finished shard: `plan` of its build, digest of its source frames, and the result."""

    plan: str
    source: str
    written: Written

    @staticmethod
    def read(job: Job) -> _Sidecar | None:
        """Return the sidecar of a finished shard of this build; None if it is missing, or shard or sidecar changed."""
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
        """Write the sidecar; call this before the shard gets its name."""
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
    """Write one shard, unless it exists and its source has not changed. Runs in a worker."""
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
    """Return a shard that another process has written, without reading its source. Runs in a worker."""
    progress.check()
    sidecar = _Sidecar.read(job)
    if sidecar is None:
        reason = "damaged, or made with other options or data" if job.path.exists() else "not made yet"
        return Written(None, None, [f"{job.path}: {reason}"])
    progress.advance(len(job.tracklets), sum(tracklet.num_frames for tracklet in job.tracklets))
    return sidecar.written


class _Digest:
    """Digest of frames by length and CRC-32; it changes when a frame is replaced."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> int:
        """Add a frame; return its CRC-32."""
        checksum = zlib.crc32(data)
        self._hash.update(struct.pack("<QI", len(data), checksum))
        return checksum

    def hex(self) -> str:
        return self._hash.hexdigest()


def _is_current(sidecar: _Sidecar, job: Job, progress: Progress) -> bool:
    """Return whether the source still has the frames that the shard was made from."""
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
    progress.advance(-len(job.tracklets), 0)  # they will be written and counted again
    return False


class _Picture(NamedTuple):  # of which a build makes a million: twice as fast as a frozen dataclass
    """A frame to store."""

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
                faults.append(f"{tracklet.key}: left out: it has no good frame")
            elif job.drop or not faults:
                shard.add(tracklet, good)
            progress.advance(1, tracklet.num_frames)
        if faults and not job.drop:
            return _Sidecar(job.plan, digest.hex(), Written(None, None, faults))
        record, table = shard.end()
        if hasattr(os, "posix_fadvise"):  # starts writing to the disk; the build waits for the disk once, at its end
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _Sidecar(job.plan, digest.hex(), Written(record, table, faults, turned))


def _good_pictures(
    tracklet: SourceTracklet, encoding: Encoding, digest: _Digest, faults: list[str]
) -> Iterator[_Picture]:
    """Yield the encoded pictures of a tracklet; append a line to `faults` for each bad frame."""
    count = 0
    for frame in tracklet.frames():
        count += 1
        try:
            original = frame.read()
            checksum = digest.add(original)
            data, extension, turned = encoding.apply(original)
        except BAD_FRAME as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            faults.append(f"{frame.name}: {tracklet.key}: {reason}")
        else:
            yield _Picture(data, extension, turned, checksum if data is original else zlib.crc32(data))
    if count != tracklet.num_frames:
        raise DataError(
            f"{tracklet.key}: {count} frames, but the source had {tracklet.num_frames} when the build started; build "
            "again"
        )


class _Shard:
    """Write a tar; collect its hash, and the rows of its tracklets for the index."""

    def __init__(self, file: BinaryIO, job: Job) -> None:
        self._file, self._job = file, job
        self._hash, self._size = hashlib.sha256(), 0
        self._rows: list[dict[str, Any]] = []

    def add(self, tracklet: SourceTracklet, pictures: Sequence[_Picture]) -> None:
        """Write a tracklet: json, then pictures."""
        key, pid, camid, roles = tracklet.key, tracklet.pid, tracklet.camid, [int(role) for role in tracklet.roles]
        outfit = tracklet.outfit if self._job.has_outfits else None
        content = index.sample_json(key, pid, camid, len(pictures), roles, self._job.role_names, outfit)
        members = [(f"{key}.json", content)]
        members += [(f"{key}.{number:05d}.{p.extension}", p.data) for number, p in enumerate(pictures)]
        block, offsets = tar.pack(members)
        self._rows.append(
            {
                "key": key,
                "pid": pid,
                "camid": camid,
                "shard": self._job.number,
                "json_crc32": zlib.crc32(content),
                "offsets": [self._size + offset for offset in offsets[1:]],
                "sizes": [len(p.data) for p in pictures],
                "crc32": [p.crc32 for p in pictures],
                "roles": roles,
                "outfit": tracklet.outfit,
            }
        )
        self._write(block)

    def end(self) -> tuple[index.ShardRecord, pa.Table]:
        """Write the end of the tar; return the shard's record and the rows of its tracklets."""
        self._write(tar.end(self._size))
        self._file.flush()
        record = index.ShardRecord(self._job.path.name, self._size, self._hash.hexdigest())
        schema = index.OUTFITS_SCHEMA if self._job.has_outfits else index.SCHEMA
        return record, pa.Table.from_pylist(self._rows, schema=schema)

    def _write(self, block: bytes) -> None:
        self._file.write(block)
        self._hash.update(block)
        self._size += len(block)
