"""Is a folder of shards what was built? Reads every byte once, and names each fault by file and key.

What the tars hold is found by walking them, as any program that reads a tar does, and compared with the index.

Bytes that were damaged before the build are as they were built; only decoding every picture finds them.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shards import index, pictures, tar
from shards.files import LocalFiles
from shards.parallel import Progress, run_jobs
from shards.records import DataError

INTACT_BUT_UNREACHABLE = "a damaged tar header hides them from tar; the index still reads them"
JSON_MEMBER = -1  # stands for <key>.json where frames have their number


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a tar: where its bytes lie, and their CRC-32."""

    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class _Job:
    path: Path
    record: index.ShardRecord
    rows: list[dict[str, Any]]
    role_names: list[tuple[str, str]]
    decode: bool


def verify(folder: Path, workers: int = 1, *, decode: bool = False) -> list[str]:
    """Return the faults of a set, `file: key: what` a line each; an empty list says that all is as it was built.

    `decode` decodes every picture besides.
    """
    try:
        files = LocalFiles(folder)
        description, _ = index.load_description(files)
        table = index.load_table(files, description.index_sha256)
    except DataError as error:  # without its index nothing else can be told
        return [str(error)]

    rows: list[list[dict[str, Any]]] = [[] for _ in description.shards]
    for row in table.to_pylist():
        rows[row["shard"]].append(row)
    faults: list[str] = []
    jobs = [
        _Job(folder / record.file, record, shard_rows, description.role_names, decode)
        for record, shard_rows in zip(description.shards, rows, strict=True)
    ]
    for found in run_jobs(_verify_shard, jobs, workers=workers, total=len(table)):
        faults += found
    listed = {record.file for record in description.shards}
    faults += [f"{path}: not of this set" for path in sorted(folder.glob("*.tar")) if path.name not in listed]
    return faults


def _verify_shard(job: _Job, progress: Progress) -> list[str]:
    progress.check()
    if not job.path.is_file():
        return [f"{job.path}: missing, with its {len(job.rows)} tracklets"]
    try:
        found, members = _scan(job.path)
    except (DataError, OSError) as error:
        return [f"{job.path}: {error}"]
    faults = []
    if found.bytes != job.record.bytes:
        faults.append(f"{job.path}: {found.bytes:,} bytes where {job.record.bytes:,} were written")
    elif found.sha256 != job.record.sha256:
        faults.append(f"{job.path}: changed since the build (SHA-256)")
    with job.path.open("rb") as file:
        for row in job.rows:
            progress.check()
            found_faults = _verify_row(row, members, job.role_names, file)
            if job.decode:
                found_faults += _undecodable(row, file)
            faults += [f"{job.path}: {row['key']}: {what}" for what in found_faults]
            progress.advance(1, len(row["sizes"]))
    faults += [f"{job.path}: {key}: {_member(number)} is not in the index" for key, number in members]
    return faults


def _verify_row(row: dict[str, Any], members: dict[Any, _Member], role_names: Any, file: Any) -> list[str]:
    """Faults of one tracklet; takes its members out of `members`."""
    faults: list[str] = []
    lost: list[int] = []
    hidden = moved = 0
    content = index.sample_json(row["key"], row["pid"], row["camid"], len(row["sizes"]), row["roles"], role_names)
    expected = {
        number: _Member(*member)
        for number, member in enumerate(zip(row["offsets"], row["sizes"], row["crc32"], strict=True))
    }
    for number, member in expected.items():
        found = members.pop((row["key"], number), None)
        if found is None:
            file.seek(member.offset)
            if index.crc32(file.read(member.size)) == member.crc32:
                hidden += 1
            else:
                lost.append(number)
        elif found.crc32 != member.crc32:
            faults.append(f"frame {number} has changed (CRC-32)")
        elif found.offset != member.offset:
            moved += 1
    sample = members.pop((row["key"], JSON_MEMBER), None)
    if index.crc32(content) != row["json_crc32"]:
        faults.append("the index disagrees with the json it was made with")
    if sample is None:
        faults.append("its json is missing")
    elif sample.crc32 != row["json_crc32"]:
        faults.append("its json has changed (CRC-32)")
    if lost:
        faults.append(f"{_member(lost[0])} is missing" if len(lost) == 1 else f"{len(lost)} frames are missing: {lost}")
    if hidden:
        faults.append(f"{hidden} frames: {INTACT_BUT_UNREACHABLE}")
    if moved:
        faults.append(f"{moved} frames lie elsewhere than the index says")
    return faults


def _undecodable(row: dict[str, Any], file: BinaryIO) -> Iterator[str]:
    """Frames that are as they were built, and no whole pictures."""
    for number, (offset, size, checksum) in enumerate(zip(row["offsets"], row["sizes"], row["crc32"], strict=True)):
        file.seek(offset)
        data = file.read(size)
        if index.crc32(data) == checksum:
            try:
                pictures.check(data)
                pictures.check_pixels(data)
            except ValueError as error:
                yield f"{_member(number)}: {error}"


def _member(number: int) -> str:
    return "its json" if number == JSON_MEMBER else f"frame {number}"


def _scan(path: Path) -> tuple[index.ShardRecord, dict[tuple[str, int], _Member]]:
    """Walk a tar: its record, and each member by (key, frame number or JSON_MEMBER), in order.

    A tar that breaks off gives the members before the break. Raises DataError on a member that is none of ours.
    """
    members: dict[tuple[str, int], _Member] = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return index.ShardRecord(path.name, 0, hashlib.sha256().hexdigest()), members
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            record = index.ShardRecord(path.name, size, hashlib.sha256(data).hexdigest())
            for name, offset, length in tar.walk(data):
                checksum = index.crc32(data[offset : offset + length])
                members[_member_id(path, name)] = _Member(offset, length, checksum)
    return record, members


def _member_id(path: Path, name: str) -> tuple[str, int]:
    key, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    if rest == "json" and "/" not in key:
        return key, JSON_MEMBER
    if not number.isdecimal() or "/" in key:
        raise DataError(f"{path}: member {name!r} is none that the writer makes; build the set again")
    return key, int(number)
