"""Is a folder of shards what was built? Reads every byte once, and names each fault by file and key.

What the tars hold is found by walking them, as any program that reads a tar does, and compared with the index.

Bytes that were damaged before the build are as they were built; only decoding every picture finds them.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards import index, pictures, tar
from shards.files import LocalFiles
from shards.parallel import Progress, run_jobs
from shards.records import DataError

INTACT_BUT_UNREACHABLE = "a damaged tar header hides them from tar; the index still reads them"
JSON_MEMBER = -1  # stands for <key>.json where frames have their number
MEMBER = re.compile(r"([A-Za-z0-9_-]{1,80})\.(?:json|([0-9]{5})\.(?:jpg|png))")  # every name that the writer makes


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

    faults = list(_index_faults(folder, description))
    rows: list[list[dict[str, Any]]] = [[] for _ in description.shards]
    for row in table.to_pylist():
        rows[row["shard"]].append(row)
    jobs = [
        _Job(folder / record.file, record, shard_rows, description.role_names, decode)
        for record, shard_rows in zip(description.shards, rows, strict=True)
    ]
    for found in run_jobs(_verify_shard, jobs, workers=workers, total=len(table)):
        faults += found
    listed = {record.file for record in description.shards}
    faults += [f"{path}: not of this set" for path in sorted(folder.glob("*.tar")) if path.name not in listed]
    return faults


def _index_faults(folder: Path, description: index.Description) -> Iterator[str]:
    """What `datasets` reads of the index beside its rows."""
    for name, sha256 in description.index_files.items():
        path = folder / index.INDEX_FOLDER / name
        if not path.is_file():
            yield f"{path}: missing"
        elif index.file_sha256(path) != sha256:
            yield f"{path}: changed since the build (SHA-256)"


def _verify_shard(job: _Job, progress: Progress) -> list[str]:
    progress.check()
    if not job.path.is_file():
        return [f"{job.path}: missing, with its {len(job.rows)} tracklets"]
    try:
        with _mapped(job.path) as data:
            return [f"{job.path}: {what}" for what in _faults(job, data, progress)]
    except OSError as error:
        return [f"{job.path}: {error}"]


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        if not file.read(1):  # nothing cannot be mapped
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            yield data


def _faults(job: _Job, data: memoryview, progress: Progress) -> list[str]:
    """Faults of one tar, `key: what`."""
    faults, intact = [], False
    if len(data) != job.record.bytes:
        faults.append(f"{len(data):,} bytes where {job.record.bytes:,} were written")
    elif hashlib.sha256(data).hexdigest() != job.record.sha256:
        faults.append("changed since the build (SHA-256)")
    else:
        intact = True
    members, foreign = _scan(data)
    for row in job.rows:
        progress.check()
        found_faults = _verify_row(row, members, job.role_names, data)
        if not intact:
            found_faults += _unframed(row, job.role_names, data)
        if job.decode:
            found_faults += _undecodable(row, data)
        faults += [f"{row['key']}: {what}" for what in found_faults]
        progress.advance(1, len(row["sizes"]))
    faults += foreign
    faults += [f"{key}: {_member(number)} is not in the index" for key, number in members]
    return faults


def _verify_row(row: dict[str, Any], members: dict[Any, _Member], role_names: Any, data: memoryview) -> list[str]:
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
            if index.crc32(data[member.offset : member.offset + member.size]) == member.crc32:
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


def _unframed(row: dict[str, Any], role_names: Any, data: memoryview) -> Iterator[str]:
    """Members whose bytes are whole where they should be, and not what lies around them: tar header and padding."""
    key, sizes = row["key"], row["sizes"]
    content = index.sample_json(key, row["pid"], row["camid"], len(sizes), row["roles"], role_names)
    json_offset = row["offsets"][0] - tar.BLOCK - len(content) - -len(content) % tar.BLOCK
    expected = [(JSON_MEMBER, f"{key}.json", json_offset, len(content), row["json_crc32"])]
    for number, (offset, size, checksum) in enumerate(zip(row["offsets"], sizes, row["crc32"], strict=True)):
        extension = "jpg" if data[offset : offset + 2] == pictures.JPEG_START else "png"
        expected.append((number, f"{key}.{number:05d}.{extension}", offset, size, checksum))
    for number, name, offset, size, checksum in expected:
        end = offset + size
        if index.crc32(data[offset:end]) == checksum:
            if data[offset - tar.BLOCK : offset] != tar.header(name, size):
                yield f"{_member(number)}: its tar header has changed"
            if any(data[end : end + -size % tar.BLOCK]):
                yield f"{_member(number)}: the zeros behind it have changed"


def _undecodable(row: dict[str, Any], data: memoryview) -> Iterator[str]:
    """Frames that are as they were built, and no whole pictures."""
    for number, (offset, size, checksum) in enumerate(zip(row["offsets"], row["sizes"], row["crc32"], strict=True)):
        picture = bytes(data[offset : offset + size])
        if index.crc32(picture) == checksum:
            try:
                pictures.check(picture)
                pictures.check_pixels(picture)
            except ValueError as error:
                yield f"{_member(number)}: {error}"


def _member(number: int) -> str:
    return "its json" if number == JSON_MEMBER else f"frame {number}"


def _scan(data: memoryview) -> tuple[dict[tuple[str, int], _Member], list[str]]:
    """Walk a tar: each member by (key, frame number or JSON_MEMBER), in order, and those that are none of ours.

    A tar that breaks off gives the members before the break.
    """
    members: dict[tuple[str, int], _Member] = {}
    foreign: list[str] = []
    for name, offset, length in tar.walk(data):
        match = MEMBER.fullmatch(name)
        if match is None:
            foreign.append(f"member {name!r} is none that the writer makes; build the set again")
            continue
        member = match[1], JSON_MEMBER if match[2] is None else int(match[2])
        if member in members:
            foreign.append(f"{match[1]}: member {name!r} is one too many: {_member(member[1])} stands before it")
        else:
            members[member] = _Member(offset, length, index.crc32(data[offset : offset + length]))
    return members, foreign
