"""One shard: written whole or not at all, and taken up again where its source is still the same. Runs in a worker."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from shards import index, pictures
from shards.parallel import Progress
from shards.records import SourceTracklet

DIGEST = ".source"  # beside a whole shard, while building: SHA-256 of the source's bytes that it was made from
DEFAULT_QUALITY = 95
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
        return pictures.encode(pictures.decode(data, self.size), self.quality), "jpg"


@dataclass(frozen=True, slots=True)
class Job:
    """One shard to write: picklable, and all that a worker needs."""

    path: Path
    number: int
    tracklets: Sequence[SourceTracklet]
    role_names: Sequence[tuple[str, str]]
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Written:
    """What became of it: its record and the rows of its tracklets, or its bad frames, a line each."""

    record: index.ShardRecord | None
    table: pa.Table | None
    faults: list[str]


def write_shard(job: Job, progress: Progress) -> Written:
    """Write one shard unless it is there, and walk it for the index. Runs in a worker."""
    if _is_current(job, progress):
        progress.advance(len(job.tracklets), 0)
    else:
        part = job.path.with_name(f"{job.path.name}.{os.getpid()}.part")
        job.path.unlink(missing_ok=True)
        try:
            digest, faults = _write_tar(part, job, progress)
            if faults:
                return Written(None, None, faults)
            job.path.with_suffix(DIGEST).write_text(digest)
            part.replace(job.path)
        finally:
            part.unlink(missing_ok=True)
    record, members = index.scan(job.path)
    rows = []
    for tracklet in job.tracklets:
        sample = members[tracklet.key, index.JSON_MEMBER]
        frames = [members[tracklet.key, number] for number in range(tracklet.num_frames)]
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
    return Written(record, pa.Table.from_pylist(rows, schema=index.SCHEMA), [])


def _is_current(job: Job, progress: Progress) -> bool:
    """Whether the shard is there, whole, and made from the very bytes that the source has now."""
    made_from = job.path.with_suffix(DIGEST)
    if not (job.path.is_file() and made_from.is_file()):
        return False
    digest = hashlib.sha256()
    try:
        for tracklet in job.tracklets:
            progress.check()
            for frame in tracklet.frames():
                _update(digest, frame.read())
    except BAD_FRAME:
        return False  # the writing names them
    return digest.hexdigest() == made_from.read_text()


def _update(digest: hashlib._Hash, data: bytes) -> None:
    """Add a frame; its length keeps two frames from passing for two others of the same bytes in a row."""
    digest.update(len(data).to_bytes(8))
    digest.update(data)


def _write_tar(path: Path, job: Job, progress: Progress) -> tuple[str, list[str]]:
    """Write the job's tracklets; return the digest of their source and the bad frames, a line each.

    After the first bad frame, the rest is only checked.
    """
    digest = hashlib.sha256()
    faults: list[str] = []
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for tracklet in job.tracklets:
            progress.check()
            _add(tar, f"{tracklet.key}.json", index.sample_json(tracklet, job.role_names))
            count = 0
            for number, frame in enumerate(tracklet.frames()):
                count += 1
                try:
                    came = frame.read()
                    _update(digest, came)
                    data, extension = job.encoding.apply(came)
                except BAD_FRAME as error:
                    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
                    faults.append(f"{frame.name}: {tracklet.key}: {reason}")
                    continue
                if not faults:
                    _add(tar, f"{tracklet.key}.{number:05d}.{extension}", data)
            if count != tracklet.num_frames:
                faults.append(f"{tracklet.key}: {count} frames came where the source promised {tracklet.num_frames}")
            progress.advance(1, count)
        tar.close()
        file.flush()
        os.fsync(file.fileno())  # before the rename says that it is whole
    return digest.hexdigest(), faults


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # time, owner and group are 0 by default: nothing of this machine gets in
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
