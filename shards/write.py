"""Tracklets in, a folder of shards out: in parallel, the same bytes for any number of workers, whole or not at all.

Everything is made in OUT.building and renamed to OUT at the end. Which tracklet goes into which shard depends on the
source alone; a shard is written under a temporary name and renamed when it is whole, so a build that was killed goes
on after its last whole shard when it is started again.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from shards import index, pictures
from shards.parallel import Progress, run_jobs
from shards.records import DataError, Frame, Source, SourceTracklet

BUILDING = ".building"
SCRATCH = "scratch"  # in OUT.building: a source's temporary files
PLAN_FILE = "plan"
KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")  # a dot would end a WebDataset key; a tar header holds 100 characters
TAR_BLOCK = 512
SAMPLED_FRAMES = 64
DEFAULT_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Encoding:
    """`size` None keeps each frame's bytes as they came; (H, W) makes a JPEG of that size and `quality` of each."""

    size: tuple[int, int] | None = None
    quality: int = DEFAULT_QUALITY

    def apply(self, frame: Frame) -> tuple[bytes, str]:
        """The frame's bytes and extension. Raises ValueError or OSError where it is no whole picture."""
        data = frame.read()
        extension = pictures.check(data)
        if self.size is None:
            return data, extension
        return pictures.encode(pictures.decode(data, self.size), self.quality), "jpg"


@dataclass(frozen=True, slots=True)
class _Job:
    """One shard to write: picklable, and all that a worker needs."""

    path: Path
    number: int
    tracklets: Sequence[SourceTracklet]
    role_names: Sequence[tuple[str, str]]
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class _Written:
    record: index.ShardRecord | None
    table: pa.Table | None
    faults: list[str]


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build in, renamed to `out` at the end.

    Bad data (DataError) removes it; any other end, Ctrl-C and kill -9 included, leaves it to be taken up again.
    Raises FileExistsError where `out` exists, DataError where another build is writing there.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or give another --out")
    folder = out.with_name(out.name + BUILDING)
    folder.mkdir(parents=True, exist_ok=True)
    lock_path = folder / "lock"
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FileExistsError(f"{folder}: another build is writing here; wait for it, or stop it") from error
        try:
            yield folder
        except DataError:
            shutil.rmtree(folder)
            raise
        for leftover in (folder / PLAN_FILE, lock_path):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        folder.rename(out)


def write(
    source: Source,
    folder: Path,
    *,
    workers: int = 1,
    shard_bytes: int = 256 << 20,
    encoding: Encoding | None = None,
) -> index.Description:
    """Write shards, index and description of a source into `folder` (of `building`).

    Raises DataError that lists every frame that is no whole picture: `file: tracklet key: reason`, a line each.
    """
    encoding = encoding or Encoding()
    _check(source)
    frame_bytes, sample_sha256 = _sample(source.tracklets, encoding)
    parts = plan_shards([t.num_frames for t in source.tracklets], frame_bytes, shard_bytes)
    _take_up_or_start_over(folder, _fingerprint(source, encoding, shard_bytes, sample_sha256))

    role_names = [(protocol.name, split) for protocol in source.protocols for split in protocol.splits]
    jobs = [
        _Job(folder / f"shard-{number:06d}.tar", number, source.tracklets[start:stop], role_names, encoding)
        for number, (start, stop) in enumerate(parts)
    ]
    results = run_jobs(_write_shard, jobs, workers=workers, total=len(source.tracklets))
    faults = [fault for result in results for fault in result.faults]
    if faults:
        raise DataError(
            "\n".join([*faults, f"{len(faults)} bad frames, nothing written; replace them and build again"])
        )

    table = pa.concat_tables([result.table for result in results])
    index_sha256 = index.write_index(folder, table)
    description = index.Description(
        name=source.name,
        protocols=source.protocols,
        facts=dict(source.facts),
        counts={
            "tracklets": len(source.tracklets),
            "frames": sum(t.num_frames for t in source.tracklets),
            "identities": len({t.pid for t in source.tracklets if t.pid > 0}),
            "cameras": len({t.camid for t in source.tracklets}),
        },
        encoding=asdict(encoding) if encoding.size else {},
        shards=tuple(result.record for result in results if result.record),
        index_sha256=index_sha256,
    )
    (folder / index.DESCRIPTION_FILE).write_text(json.dumps(description.to_json(), indent=1) + "\n")
    return description


def plan_shards(num_frames: Sequence[int], frame_bytes: float, shard_bytes: int) -> list[tuple[int, int]]:
    """Cut the tracklets, in order, into runs (start, stop) of about `shard_bytes`; a tracklet is never cut."""
    parts: list[tuple[int, int]] = []
    start, filled = 0, 0.0
    for position, frames in enumerate(num_frames):
        size = 2 * TAR_BLOCK + frames * frame_bytes
        if position > start and filled + size > shard_bytes:
            parts.append((start, position))
            start, filled = position, 0.0
        filled += size
    return [*parts, (start, len(num_frames))]


def _check(source: Source) -> None:
    if not source.tracklets:
        raise DataError(f"{source.name}: not one tracklet; is this the right folder?")
    num_roles = sum(len(protocol.splits) for protocol in source.protocols)
    seen: set[str] = set()
    for tracklet in source.tracklets:
        if tracklet.key in seen:
            raise DataError(f"{source.name}: two tracklets have the key {tracklet.key}; keys must differ")
        if not KEY.fullmatch(tracklet.key):
            raise DataError(f"{source.name}: key {tracklet.key!r}: only letters, digits, - and _, 80 at most")
        if not 0 < tracklet.num_frames < 100_000:
            raise DataError(f"{source.name}: {tracklet.key}: {tracklet.num_frames} frames; 1 to 99,999 can be stored")
        assert len(tracklet.roles) == num_roles, tracklet.key
        seen.add(tracklet.key)


def _sample(tracklets: Sequence[SourceTracklet], encoding: Encoding) -> tuple[float, str]:
    """Mean bytes that a frame takes in a tar, and a digest, from the first frames of some tracklets.

    It replaces a look at every file. Frames that cannot be read are left to the writing, which lists them all.
    """
    sizes, digest = [], hashlib.sha256()
    for tracklet in tracklets[:: -(-len(tracklets) // SAMPLED_FRAMES)]:
        try:
            data, _ = encoding.apply(next(tracklet.frames()))
        except (OSError, ValueError, StopIteration):
            continue
        sizes.append(TAR_BLOCK * (1 + -(-len(data) // TAR_BLOCK)))
        digest.update(data)
    return sum(sizes) / max(1, len(sizes)), digest.hexdigest()


def _fingerprint(source: Source, encoding: Encoding, shard_bytes: int, sample_sha256: str) -> str:
    """Of all that decides the bytes of the shards, as far as it is known before they are read."""
    rows = [(t.key, t.pid, t.camid, t.num_frames, t.roles) for t in source.tracklets]
    protocols = [asdict(protocol) for protocol in source.protocols]
    plan = [source.name, protocols, rows, asdict(encoding), shard_bytes, sample_sha256, index.VERSION]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def _take_up_or_start_over(folder: Path, fingerprint: str) -> None:
    """Keep the whole shards of a build that was killed, if it was this very build; remove all else."""
    plan = folder / PLAN_FILE
    same = plan.is_file() and plan.read_text() == fingerprint
    for path in folder.glob("shard-*"):
        if not same or path.suffix != ".tar":
            path.unlink()
    shutil.rmtree(folder / index.INDEX_FOLDER, ignore_errors=True)
    (folder / index.DESCRIPTION_FILE).unlink(missing_ok=True)
    plan.write_text(fingerprint)


def _write_shard(job: _Job, progress: Progress) -> _Written:
    """Write one shard unless it is there, and walk it for the index. Runs in a worker."""
    if job.path.exists():
        progress.advance(len(job.tracklets), 0)
    else:
        part = job.path.with_name(f"{job.path.name}.{os.getpid()}.part")
        try:
            faults = _write_tar(part, job, progress)
            if faults:
                return _Written(None, None, faults)
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
    return _Written(record, pa.Table.from_pylist(rows, schema=index.SCHEMA), [])


def _write_tar(path: Path, job: _Job, progress: Progress) -> list[str]:
    """Write the job's tracklets; return its bad frames, a line each. After the first, the rest is only checked."""
    faults: list[str] = []
    with path.open("wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for tracklet in job.tracklets:
            progress.check()
            _add(tar, f"{tracklet.key}.json", index.sample_json(tracklet, job.role_names))
            count = 0
            for number, frame in enumerate(tracklet.frames()):
                count += 1
                try:
                    data, extension = job.encoding.apply(frame)
                except (OSError, ValueError) as error:
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
    return faults


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # time, owner and group are 0 by default: nothing of this machine gets in
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
