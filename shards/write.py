"""Tracklets in, a folder of shards out: in parallel, the same bytes for any number of workers, whole or not at all.

Everything is made in OUT.building and renamed to OUT at the end. Which tracklet goes into which shard depends on the
source alone; a shard is written under a temporary name and renamed when it is whole, so a build that was stopped, or
that met bad frames, takes up its whole shards when it is started again: those whose source has not changed since.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from shards import index
from shards.parallel import run_jobs
from shards.records import DataError, Source, SourceTracklet, UsageError
from shards.shard import BAD_FRAME, DIGEST, Encoding, Job, write_shard

BUILDING = ".building"
SCRATCH = "scratch"  # in OUT.building: a source's temporary files
PLAN_FILE = "plan"
KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")  # a dot would end a WebDataset key; a tar header holds 100 characters
TAR_BLOCK = 512
SAMPLED_FRAMES = 64


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build in, renamed to `out` at the end.

    Any end but a good one, kill -9 included, leaves it to be taken up again; bad data or usage (DataError, UsageError)
    only where it holds a whole shard. Raises FileExistsError where `out` exists or another build is writing there.
    """
    _check_free(out)
    folder = out.with_name(out.name + BUILDING)
    folder.mkdir(parents=True, exist_ok=True)
    lock_path = folder / "lock"
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FileExistsError(f"{folder}: another build is writing here; wait for it, or stop it") from error
        try:
            _check_free(out)  # the build that held the lock until now may have made it
            yield folder
        except (DataError, UsageError, FileExistsError):
            if not any(folder.glob("shard-*.tar")):
                shutil.rmtree(folder, ignore_errors=True)  # gone already where the other build renamed it
            raise
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        for leftover in (folder / PLAN_FILE, *folder.glob(f"*{DIGEST}")):
            leftover.unlink(missing_ok=True)
        folder.rename(out)
        (out / lock_path.name).unlink()  # only now: whoever waits for the lock finds `out` first


def _check_free(out: Path) -> None:
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or give another --out")


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
    frame_bytes = _mean_frame_bytes(source.tracklets, encoding)
    parts = plan_shards([t.num_frames for t in source.tracklets], frame_bytes, shard_bytes)
    _take_up_or_start_over(folder, _fingerprint(source, encoding, parts))

    role_names = [(protocol.name, split) for protocol in source.protocols for split in protocol.splits]
    jobs = [
        Job(folder / f"shard-{number:06d}.tar", number, source.tracklets[start:stop], role_names, encoding)
        for number, (start, stop) in enumerate(parts)
    ]
    results = run_jobs(write_shard, jobs, workers=workers, total=len(source.tracklets))
    faults = [fault for result in results for fault in result.faults]
    if faults:
        raise DataError("\n".join([*faults, f"{len(faults)} bad frames; replace them and build again"]))

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


def _mean_frame_bytes(tracklets: Sequence[SourceTracklet], encoding: Encoding) -> float:
    """Mean bytes that a frame takes in a tar, from the first frames of some tracklets.

    It replaces a look at every file. Bad frames are left to the writing, which lists them all.
    """
    sizes = []
    for tracklet in tracklets[:: -(-len(tracklets) // SAMPLED_FRAMES)]:
        try:
            data, _ = encoding.apply(next(tracklet.frames()).read())
        except (*BAD_FRAME, StopIteration):
            continue
        sizes.append(TAR_BLOCK * (1 + -(-len(data) // TAR_BLOCK)))
    return sum(sizes) / max(1, len(sizes))


def _fingerprint(source: Source, encoding: Encoding, parts: Sequence[tuple[int, int]]) -> str:
    """Of all that decides the bytes of the shards but the frames; these are compared shard by shard."""
    rows = [(t.key, t.pid, t.camid, t.num_frames, t.roles) for t in source.tracklets]
    protocols = [asdict(protocol) for protocol in source.protocols]
    plan = [source.name, protocols, rows, asdict(encoding), parts, index.VERSION]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()


def _take_up_or_start_over(folder: Path, fingerprint: str) -> None:
    """Keep the whole shards of an earlier try, if it was this very build; remove all else."""
    plan = folder / PLAN_FILE
    same = plan.is_file() and plan.read_text() == fingerprint
    for path in folder.glob("shard-*"):
        if not same or path.suffix not in (".tar", DIGEST):
            path.unlink()
    shutil.rmtree(folder / index.INDEX_FOLDER, ignore_errors=True)
    (folder / index.DESCRIPTION_FILE).unlink(missing_ok=True)
    plan.write_text(fingerprint)
