"""Write the tracklets of a source to a folder of shards: atomically, with the same bytes for any number of workers.

A build works in OUT.building, which it renames to OUT at the end. The source alone decides which tracklet goes into
which shard. A shard is written under a temporary name and renamed when it is whole. So a build that was stopped, or
that failed on bad frames, resumes: it keeps the shards whose source and bytes have not changed.
For the same reason several hosts can each make a part of the shards, which a last step joins.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards import index, tar
from shards.columns import to_numpy
from shards.guarded import open_lock
from shards.records import BAD_FRAME, NO_OUTFIT, DataError, Role, Source, SourceTracklet, UsageError
from shards.shard import SIDECAR, Encoding, Job, Written, join_shard, write_shard
from shards.terminal import print_line
from shards.text import counted, printable_lines
from shards.workers import Progress, run_jobs

BUILDING = ".building"
SCRATCH = "scratch"  # in OUT.building: temporary files of a source
LOCK = "lock"
KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")  # a dot would end a WebDataset key; a tar header holds 100 characters
SAMPLED_FRAMES = 64
MAX_NUMBER = 2**63 - 1  # of an identity or camera: the index has 64 bits


@dataclass(frozen=True, slots=True)
class Part:
    """Task `number` (from 1) of the `count` tasks that make the shards of one build, on one or several hosts."""

    number: int
    count: int


@contextmanager
def building(out: Path, *, part: Part | None = None) -> Iterator[Path]:
    """Yield a folder beside `out` to build in, and rename it to `out` at the end, unless this is a part of a build.

    After an interruption, kill -9 included, the folder stays, so that the build can resume. After bad data or usage
    (DataError, UsageError) it stays only if it holds a finished shard. Raises FileExistsError if `out` exists and is
    not an empty folder, or if another build is writing there; parts of one build may write at the same time.
    """
    _check_free(out)
    out = out.resolve()  # of a link to an empty folder, the folder: a rename cannot replace the link
    folder = out.with_name(out.name + BUILDING)
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_lock(folder / LOCK), "r+b") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if part else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(f"{folder}: another build is writing here; wait for it, or stop it") from error
        try:
            _check_free(out)  # the build that held the lock may have made it
            yield folder
        except (DataError, UsageError, FileExistsError):
            if not part and not any(folder.glob("shard-*.tar")):
                shutil.rmtree(folder, ignore_errors=True)  # gone if the other build has renamed it
            raise
        if part:
            return
        for scratch in folder.glob(f"{SCRATCH}*"):
            shutil.rmtree(scratch, ignore_errors=True)
        sidecars = set(folder.glob(f"*{SIDECAR}"))
        # Data before the rename: after a power cut, OUT must be complete.
        for path in set(folder.rglob("*")) - sidecars:
            _wait_for_disk(path)
        for sidecar in sidecars:  # last: the disk may take minutes, and resuming needs the sidecars
            sidecar.unlink(missing_ok=True)
        _wait_for_disk(folder)
        folder.rename(out)
        (out / LOCK).unlink()  # last: a build that waits for the lock must find `out` first


def scratch_folder(folder: Path, part: Part | None = None) -> Path:
    """Return the folder for a source's temporary files, in the folder of `building`. Each part has its own."""
    return folder / (f"{SCRATCH}-{part.number}" if part else SCRATCH)


def _wait_for_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a foreign pipe must not block
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_free(out: Path) -> None:
    """Raise FileExistsError unless `out` is missing, or an empty folder that a rename can replace."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():  # also a broken link, which a rename to `out` cannot replace
        raise FileExistsError(f"{out} exists; remove it, or give another --out")
    if any(out.iterdir()):
        raise FileExistsError(f"{out} exists and is not empty; remove it, or give another --out")
    if out.resolve().is_mount():
        raise FileExistsError(f"{out} is a mount point, which cannot be replaced; give a folder in it as --out")
    if out.samefile(Path.cwd()):
        raise FileExistsError(f"{out} is the current folder, which would be replaced; start the build from another one")


@dataclass(frozen=True, slots=True)
class Build:
    """Settings of a build.

    Args:
        source: The data set.
        folder: The folder from `building`.
        shard_bytes: Approximate size of a shard.
        encoding: Encoding of frames.
        drop: Leave out bad frames, and tracklets without good frames, instead of failing.
        workers: Number of processes.
    """

    source: Source
    folder: Path
    shard_bytes: int = 256 << 20
    encoding: Encoding = field(default_factory=Encoding)
    drop: bool = False
    workers: int = 1

    def write(self) -> index.Description:
        """Write the missing shards, the index and the description.

        Unless bad frames are dropped, raises DataError with a line for each: `file: tracklet key: reason`.
        """
        jobs = self._jobs()
        self._remove_all_but(jobs)
        return self._describe(self._run(write_shard, jobs))

    def write_part(self, part: Part) -> int:
        """Write the missing shards of one part; return how many shards it has. Raises the exceptions of `write`."""
        jobs = self._jobs()[part.number - 1 :: part.count]
        self._run(write_shard, jobs)
        return len(jobs)

    def join(self) -> index.Description:
        """Write index and description for the shards of all parts. Raises DataError if a shard is missing."""
        jobs = self._jobs()
        results = self._run(join_shard, jobs)
        self._remove_all_but(jobs)  # only if all exist: options given by mistake must not delete finished shards
        return self._describe(results)

    def _remove_all_but(self, jobs: Sequence[Job]) -> None:
        """Remove the files of killed builds, and of builds with other data or options."""
        expected = {job.path.with_suffix(suffix) for job in jobs for suffix in (".tar", SIDECAR)}
        for path in self.folder.glob("shard-*"):
            if path not in expected:
                path.unlink()

    def _jobs(self) -> list[Job]:
        source = self.source
        _check(source)
        frame_bytes = _mean_frame_bytes(source.tracklets, self.encoding)
        bounds = plan_shards([t.num_frames for t in source.tracklets], frame_bytes, self.shard_bytes)
        role_names = [(protocol.name, split) for protocol in source.protocols for split in protocol.splits]
        plan = _fingerprint(source, self.encoding, bounds)
        return [
            Job(
                self.folder / f"shard-{number:06d}.tar",
                number,
                source.tracklets[start:stop],
                role_names,
                self.encoding,
                plan,
                self.drop,
                source.has_outfits,
            )
            for number, (start, stop) in enumerate(bounds)
        ]

    def _run(self, work: Callable[[Job, Progress], Written], jobs: Sequence[Job]) -> list[Written]:
        total = sum(len(job.tracklets) for job in jobs)
        results = run_jobs(work, jobs, workers=self.workers, total=total)
        faults = [fault for result in results for fault in result.faults]
        if any(result.record is None for result in results):
            raise DataError(printable_lines([*faults, _way_out(work, len(faults))]))
        for fault in faults:
            print_line(f"left out: {fault}", file=sys.stderr)
        return results

    def _describe(self, results: Sequence[Written]) -> index.Description:
        for path in (self.folder / index.INDEX_FOLDER, self.folder / index.DESCRIPTION_FILE):
            shutil.rmtree(path, ignore_errors=True)
        table = pa.concat_tables([result.table for result in results])
        if not len(table):
            raise DataError(f"{self.source.name}: no tracklet has a good frame")
        facts = dict(self.source.facts)
        kept = int(pc.sum(pc.list_value_length(table["sizes"])).as_py())
        lost = sum(t.num_frames for t in self.source.tracklets) - kept
        if lost:
            gone = sorted({t.key for t in self.source.tracklets} - set(table["key"].to_pylist()))
            facts["left out"] = counted(lost, "bad frame")
            facts["left out"] += f"; no frame is left of {', '.join(gone)}" if gone else ""
        if turned := sum(result.turned for result in results):
            facts["turned"] = f"{turned:,} pictures, upright as their EXIF orientation says"
        pids = to_numpy(table["pid"])
        description = index.Description(
            name=self.source.name,
            protocols=self.source.protocols,
            facts=facts,
            counts={
                "tracklets": len(table),
                "frames": kept,
                "identities": len(np.unique(pids[pids > 0])),
                "cameras": len(table["camid"].unique()),
            },
            encoding=asdict(self.encoding) if self.encoding.size else {},
            shards=tuple(result.record for result in results if result.record),
            index_sha256=index.write_index(self.folder, table),
            index_files=index.beside_index(self.folder),
            has_outfits=self.source.has_outfits,
        )
        (self.folder / index.DESCRIPTION_FILE).write_text(json.dumps(description.to_json(), indent=1) + "\n")
        return description


def write(source: Source, folder: Path, **options: Any) -> index.Description:
    """Write a source: `Build(source, folder, **options).write()`."""
    return Build(source, folder, **options).write()


def _way_out(work: Callable[[Job, Progress], Written], faults: int) -> str:
    if work is join_shard:
        return f"{counted(faults, 'shard')} missing; run the other tasks, or build without --join to make the rest here"
    them = "it" if faults == 1 else "them"
    what = counted(faults, "bad frame")
    return f"{what}; replace {them} and build again, or leave {them} out with --bad-frames drop"


def plan_shards(num_frames: Sequence[int], frame_bytes: float, shard_bytes: int) -> list[tuple[int, int]]:
    """Divide the tracklets into ranges (start, stop) of about `shard_bytes`; a tracklet is never divided."""
    parts: list[tuple[int, int]] = []
    start, filled = 0, 0.0
    for position, frames in enumerate(num_frames):
        size = 2 * tar.BLOCK + frames * frame_bytes
        if position > start and filled + size > shard_bytes:
            parts.append((start, position))
            start, filled = position, 0.0
        filled += size
    return [*parts, (start, len(num_frames))]


def _check(source: Source) -> None:
    if not source.tracklets:
        raise DataError(f"{source.name}: no tracklet; is this the right folder?")
    num_roles = sum(len(protocol.splits) for protocol in source.protocols)
    by_outfit = [protocol.needs_outfits for protocol in source.protocols for _ in protocol.splits]
    seen: set[str] = set()
    for tracklet in source.tracklets:
        if tracklet.key in seen:
            raise DataError(f"{source.name}: two tracklets have the key {tracklet.key}; keys must differ")
        if not KEY.fullmatch(tracklet.key):
            raise DataError(f"{source.name}: key {tracklet.key!r}: at most 80 letters, digits, - and _")
        if not 0 < tracklet.num_frames < 100_000:
            raise DataError(f"{source.name}: {tracklet.key}: {tracklet.num_frames} frames; 1 to 99,999 can be stored")
        if max(abs(tracklet.pid), abs(tracklet.camid)) > MAX_NUMBER:
            raise DataError(
                f"{source.name}: {tracklet.key}: identity {tracklet.pid}, camera {tracklet.camid}; {MAX_NUMBER:,} is "
                "the largest number that can be stored"
            )
        assert len(tracklet.roles) == num_roles, tracklet.key
        assert NO_OUTFIT <= tracklet.outfit <= MAX_NUMBER, tracklet.key
        if any(by_outfit) and tracklet.outfit == NO_OUTFIT and tracklet.pid > 0:
            compared = (role & (Role.QUERY | Role.GALLERY) and not role & Role.JUNK for role in tracklet.roles)
            if any(needed and is_compared for needed, is_compared in zip(by_outfit, compared, strict=True)):
                raise DataError(
                    f"{source.name}: {tracklet.key} has no outfit, but a protocol decides by outfits which tracklets a "
                    "query ignores; give it one"
                )
        seen.add(tracklet.key)


def _mean_frame_bytes(tracklets: Sequence[SourceTracklet], encoding: Encoding) -> float:
    """Estimate the mean size of a frame in a tar from the first frames of some tracklets.

    Bad frames are ignored here: writing lists them all.
    """
    sizes = []
    for tracklet in tracklets[:: -(-len(tracklets) // SAMPLED_FRAMES)]:
        try:
            data, *_ = encoding.apply(next(tracklet.frames()).read())
        except (*BAD_FRAME, StopIteration):
            continue
        sizes.append(tar.BLOCK * (1 + -(-len(data) // tar.BLOCK)))
    return sum(sizes) / max(1, len(sizes))


def _fingerprint(source: Source, encoding: Encoding, parts: Sequence[tuple[int, int]]) -> str:
    """Return a digest of everything but the frames that determines the shards. Frames are compared per shard."""
    rows: list[tuple[Any, ...]] = [(t.key, t.pid, t.camid, t.num_frames, t.roles) for t in source.tracklets]
    if source.has_outfits:
        rows = [(*row, t.outfit) for row, t in zip(rows, source.tracklets, strict=True)]
    protocols = [index.protocol_json(protocol) for protocol in source.protocols]
    # "upright": a build does not resume one of an older version that turned no pictures.
    plan = [source.name, protocols, rows, asdict(encoding), parts, index.VERSION, "upright"]
    return hashlib.sha256(json.dumps(plan).encode()).hexdigest()
