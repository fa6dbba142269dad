"""One shard: written whole or not at all, and taken up again where its source is still the same. Runs in a worker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from shards import index, pictures, tar
from shards.parallel import Progress
from shards.records import DataError, SourceTracklet

PART = ".part"  # of a shard that is being written
SIDECAR = ".source"  # beside a whole shard, while building: what it was made from, and what was left out
DEFAULT_QUALITY = 90
WRITE_BYTES = 1 << 20  # at a time
# What speaks of the frame itself; other errors of reading (a disk, a network) may be gone at the next try.
BAD_FRAME = (ValueError, FileNotFoundError, IsADirectoryError, PermissionError)


@dataclass(frozen=True, slots=True)
class Encoding:
    """`size` None keeps each frame's bytes as they came; (H, W) makes a JPEG of that size and `quality` of each."""

    size: tuple[int, int] | None = None
    quality: int = DEFAULT_QUALITY

    def apply(self, data: bytes) -> tuple[bytes, str]:
        """The bytes to store of a frame's, and their extension. Raises ValueError where they are no whole picture."""
        extension = pictures.check(data)
        if self.size is None:
            return data, extension
        pictures.check_pixels(data)  # once encoded again, damage could no longer be seen
        return pictures.encode(
            pictures.resize(pictures.decode(data, self.size)[None], self.size)[0], self.quality
        ), "jpg"


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
    """What became of it: its record and the rows of its tracklets, and its bad frames, a line each.

    Without `drop`, a shard that has bad frames has no record.
    """

    record: index.ShardRecord | None
    table: pa.Table | None
    faults: list[str]


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """`plan` of the build, SHA-256 of the source's bytes, and the frames left out."""

    plan: str
    source: str
    dropped: list[str]

    @staticmethod
    def read(job: Job) -> _Sidecar | None:
        """That of a whole shard of this very build; None where there is none."""
        try:
            sidecar = _Sidecar(**json.loads(job.path.with_suffix(SIDECAR).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return sidecar if sidecar.plan == job.plan and job.path.is_file() else None

    def write(self, job: Job) -> None:
        """Beside the place of the shard, before the shard gets its name."""
        job.path.with_suffix(SIDECAR).write_text(json.dumps(asdict(self)))


def write_shard(job: Job, progress: Progress) -> Written:
    """Write one shard unless it is there and its source is the same. Runs in a worker."""
    made = _Sidecar.read(job)
    if made is None or (made.dropped and not job.drop) or not _is_current(made, job, progress):
        job.path.unlink(missing_ok=True)
        part = job.path.with_name(f"{job.path.name}.{platform.node()}.{os.getpid()}{PART}")
        try:
            made = _write_tar(part, job, progress)
            if made.dropped and not job.drop:
                return Written(None, None, made.dropped)
            made.write(job)
            part.replace(job.path)
        finally:
            part.unlink(missing_ok=True)
    return _walk(job, made)


def join_shard(job: Job, progress: Progress) -> Written:
    """Take a shard as another process has made it, without a look at its source. Runs in a worker."""
    progress.check()
    made = _Sidecar.read(job)
    if made is None or (made.dropped and not job.drop):
        return Written(None, None, [f"{job.path}: not made yet"])
    written = _walk(job, made)
    progress.advance(len(job.tracklets), sum(tracklet.num_frames for tracklet in job.tracklets))
    return written


def _walk(job: Job, made: _Sidecar) -> Written:
    """Record and rows of a whole shard; a tracklet of which no frame was left is in neither."""
    record, members = index.scan(job.path)
    lengths = Counter(key for key, number in members if number != index.JSON_MEMBER)
    rows = []
    for tracklet in job.tracklets:
        if not lengths[tracklet.key]:
            continue
        sample = members[tracklet.key, index.JSON_MEMBER]
        frames = [members[tracklet.key, number] for number in range(lengths[tracklet.key])]
        rows.append(
            {
                "key": tracklet.key,
                "pid": tracklet.pid,
                "camid": tracklet.camid,
                "shard": job.number,
                "json_crc32": sample.crc32,
                "offsets": [frame.offset for frame in frames],
                "sizes": [frame.size for frame in frames],
                "crc32": [frame.crc32 for frame in frames],
                "roles": [int(role) for role in tracklet.roles],
            }
        )
    return Written(record, pa.Table.from_pylist(rows, schema=index.SCHEMA), made.dropped)


def _is_current(made: _Sidecar, job: Job, progress: Progress) -> bool:
    """Whether a shard was made from the very bytes that the source has now."""
    digest = hashlib.sha256()
    for tracklet in job.tracklets:
        progress.check()
        count = 0
        for frame in tracklet.frames():
            with contextlib.suppress(*BAD_FRAME):
                _update(digest, frame.read())
            count += 1
        progress.advance(1, count)
    if digest.hexdigest() == made.source:
        return True
    progress.advance(-len(job.tracklets), 0)  # they are to be written, and counted, again
    return False


def _update(digest: hashlib._Hash, data: bytes) -> None:
    """Add a frame; its length keeps two frames from passing for two others of the same bytes in a row."""
    digest.update(len(data).to_bytes(8))
    digest.update(data)


def _write_tar(path: Path, job: Job, progress: Progress) -> _Sidecar:
    """Write the job's tracklets without their bad frames; if these are errors, the first ends the writing, and the rest
    is only checked."""
    digest = hashlib.sha256()
    faults: list[str] = []
    with path.open("wb", buffering=WRITE_BYTES) as file:
        for tracklet in job.tracklets:
            progress.check()
            good, count = [], 0  # its json stands first, and says how many frames are good
            for frame in tracklet.frames():
                count += 1
                try:
                    came = frame.read()
                    _update(digest, came)
                    good.append(job.encoding.apply(came))
                except BAD_FRAME as error:
                    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                    faults.append(f"{frame.name}: {tracklet.key}: {reason}")
            if count != tracklet.num_frames:
                raise DataError(
                    f"{tracklet.key}: {count} frames came where the source promised {tracklet.num_frames}; "
                    "has the data changed meanwhile? Build again"
                )
            if job.drop and not good:
                faults.append(f"{tracklet.key}: no frame is left of it, so it is left out")
            elif job.drop or not faults:
                stored = replace(tracklet, num_frames=len(good))
                _add(file, f"{tracklet.key}.json", index.sample_json(stored, job.role_names))
                for number, (data, extension) in enumerate(good):
                    _add(file, f"{tracklet.key}.{number:05d}.{extension}", data)
            progress.advance(1, count)
        file.write(tar.end(file.tell()))
        file.flush()
        os.fsync(file.fileno())  # before the rename says that it is whole
    return _Sidecar(job.plan, digest.hexdigest(), faults)


def _add(file: BinaryIO, name: str, data: bytes) -> None:
    file.write(tar.header(name, len(data)))
    file.write(data)
    file.write(tar.padding(len(data)))
