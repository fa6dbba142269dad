"""Verify that a folder of shards has not changed since its build. Reads every byte once; names faults by file and key.

The tars are walked, as any program reads a tar, and their members are compared with the index.

Damage from before the build is no change: only decoding every picture reveals it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards import images, index, tar
from shards.guarded import sha256_of
from shards.records import DataError
from shards.storage import LocalFiles
from shards.workers import Progress, run_jobs

INTACT_BUT_UNREACHABLE = "a damaged tar header hides them from tar; the index still reads them"
JSON_MEMBER = -1  # in place of a frame number: <key>.json
MEMBER = re.compile(r"([A-Za-z0-9_-]{1,80})\.(?:json|([0-9]{5})\.(?:jpg|png))")  # all names that the writer gives


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in a tar: place and CRC-32 of its bytes."""

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
    """Return the faults of a set, each as a line `file: key: fault`; an empty list if nothing has changed.

    `decode` also decodes every picture.
    """
    try:
        files = LocalFiles(folder)
        description, _ = index.load_description(files)
        table = index.load_table(files, description)
    except DataError as error:  # nothing else can be checked without the index
        return [str(error)]

    faults = [*_description_faults(folder), *_index_faults(folder, description)]
    rows: list[list[dict[str, Any]]] = [[] for _ in description.shards]
    for row in table.to_pylist():
        rows[row["shard"]].append(row)
    jobs = [
        _Job(folder / record.file, record, shard_rows, description.role_names, decode)
        for record, shard_rows in zip(description.shards, rows, strict=True)
    ]
    for result in run_jobs(_verify_shard, jobs, workers=workers, total=len(table)):
        faults += result
    listed = {record.file for record in description.shards}
    faults += [f"{path}: not part of this set" for path in sorted(folder.glob("*.tar")) if path.name not in listed]
    return faults


def _description_faults(folder: Path) -> Iterator[str]:
    """Compare the bytes of `dataset.json`: its checksum covers the values, not their format."""
    text = (folder / index.DESCRIPTION_FILE).read_bytes()
    if json.dumps(json.loads(text), indent=1).encode() + b"\n" != text:
        yield f"{folder / index.DESCRIPTION_FILE}: the values are as built, but their bytes have changed"


def _index_faults(folder: Path, description: index.Description) -> Iterator[str]:
    """Compare the files of `datasets` beside the rows of the index."""
    for name, sha256 in description.index_files.items():
        path = folder / index.INDEX_FOLDER / name
        if not path.is_file():
            yield f"{path}: missing"
        elif sha256_of(path) != sha256:
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
        if not file.read(1):  # mmap refuses an empty file
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            yield data


def _faults(job: _Job, data: memoryview, progress: Progress) -> list[str]:
    """Return the faults of one tar, as `key: fault`."""
    faults, intact = [], False
    if len(data) != job.record.bytes:
        faults.append(f"{len(data):,} bytes, but {job.record.bytes:,} were written")
    elif hashlib.sha256(data).hexdigest() != job.record.sha256:
        faults.append("changed since the build (SHA-256)")
    else:
        intact = True
    num_frames = sum(len(row["sizes"]) for row in job.rows)
    if not intact and num_frames > 1 and not any(_in_place(row, data) for row in job.rows):
        progress.check()
        progress.advance(len(job.rows), num_frames)
        what = f"no frame of its {len(job.rows):,} tracklets is where it was written: another file, or overwritten"
        return [f"{faults[0]}; {what}; bring it back, or build the set again"]
    members, foreign, end = _scan(data)
    if intact and not _is_zero(data[end:]):
        foreign.append(f"bytes after the last member, from {end:,} on, are not zero; build the set again")
    for row in job.rows:
        progress.check()
        row_faults = _verify_row(row, members, job.role_names, data)
        if not intact:
            row_faults += _unframed(row, job.role_names, data)
        if job.decode:
            row_faults += _undecodable(row, data)
        faults += [f"{row['key']}: {what}" for what in row_faults]
        progress.advance(1, len(row["sizes"]))
    faults += foreign
    unknown: dict[str, list[int]] = {}
    for key, number in members:
        unknown.setdefault(key, []).append(number)
    return faults + [f"{key}: {_members(numbers, 'not in the index')}" for key, numbers in unknown.items()]


def _in_place(row: dict[str, Any], data: memoryview) -> bool:
    """Return whether at least one frame of a tracklet is intact at its place in the index."""
    frames = zip(row["offsets"], row["sizes"], row["crc32"], strict=True)
    return any(zlib.crc32(data[offset : offset + size]) == checksum for offset, size, checksum in frames)


def _sample_json(row: dict[str, Any], role_names: Any) -> bytes:
    """Return the json that the writer gave a tracklet."""
    labels = (row["key"], row["pid"], row["camid"], len(row["sizes"]), row["roles"])
    return index.sample_json(*labels, role_names, row.get("outfit"))


def _verify_row(row: dict[str, Any], members: dict[Any, _Member], role_names: Any, data: memoryview) -> list[str]:
    """Return the faults of one tracklet; remove its members from `members`."""
    faults: list[str] = []
    lost: list[int] = []
    changed: list[int] = []
    hidden = moved = 0
    content = _sample_json(row, role_names)
    expected = {
        number: _Member(*member)
        for number, member in enumerate(zip(row["offsets"], row["sizes"], row["crc32"], strict=True))
    }
    for number, member in expected.items():
        result = members.pop((row["key"], number), None)
        if result is None:
            if zlib.crc32(data[member.offset : member.offset + member.size]) == member.crc32:
                hidden += 1
            else:
                lost.append(number)
        elif (result.crc32, result.size) != (member.crc32, member.size):
            changed.append(number)
        elif result.offset != member.offset:
            moved += 1
    sample = members.pop((row["key"], JSON_MEMBER), None)
    if changed:
        faults.append(_members(changed, "changed (CRC-32)", "has", "have"))
    if zlib.crc32(content) != row["json_crc32"]:
        faults.append("the index does not match the json of its build")
    if sample is None:
        faults.append("its json is missing")
    elif (sample.crc32, sample.size) != (row["json_crc32"], len(content)):
        faults.append("its json has changed (CRC-32)")
    if lost:
        faults.append(_members(lost, "missing"))
    if hidden:
        faults.append(f"{hidden} frames: {INTACT_BUT_UNREACHABLE}")
    if moved:
        faults.append(f"{moved} frames are not at their places in the index")
    return faults


def _unframed(row: dict[str, Any], role_names: Any, data: memoryview) -> list[str]:
    """Return the faults of tar headers and padding around intact members."""
    key, sizes = row["key"], row["sizes"]
    content = _sample_json(row, role_names)
    json_offset = row["offsets"][0] - tar.BLOCK - len(content) - -len(content) % tar.BLOCK
    expected = [(JSON_MEMBER, f"{key}.json", json_offset, len(content), row["json_crc32"])]
    for number, (offset, size, checksum) in enumerate(zip(row["offsets"], sizes, row["crc32"], strict=True)):
        extension = "jpg" if data[offset : offset + 2] == images.JPEG_START else "png"
        expected.append((number, f"{key}.{number:05d}.{extension}", offset, size, checksum))
    headers, zeros = [], []
    for number, name, offset, size, checksum in expected:
        end = offset + size
        if zlib.crc32(data[offset:end]) == checksum:
            if data[offset - tar.BLOCK : offset] != tar.header(name, size):
                headers.append(number)
            if any(data[end : end + -size % tar.BLOCK]):
                zeros.append(number)
    faults = []
    for numbers, one, many in (
        (headers, "its tar header has changed", "their tar headers have changed"),
        (zeros, "the zeros after it have changed", "the zeros after them have changed"),
    ):
        if len(numbers) == 1:
            faults.append(f"{_member(numbers[0])}: {one}")
        elif numbers:
            faults.append(f"{', '.join(map(_member, numbers[:3]))}{' ...' * (len(numbers) > 3)}: {many}")
    return faults


def _undecodable(row: dict[str, Any], data: memoryview) -> Iterator[str]:
    """Yield the faults of frames that have not changed since the build and are not whole pictures."""
    for number, (offset, size, checksum) in enumerate(zip(row["offsets"], row["sizes"], row["crc32"], strict=True)):
        picture = bytes(data[offset : offset + size])
        if zlib.crc32(picture) == checksum:
            try:
                images.check(picture)
                images.check_pixels(picture)
            except ValueError as error:
                yield f"{_member(number)}: {error}"


def _member(number: int) -> str:
    return "its json" if number == JSON_MEMBER else f"frame {number}"


def _members(numbers: list[int], what: str, singular: str = "is", plural: str = "are") -> str:
    """Describe members with the same fault in one line."""
    if len(numbers) == 1:
        return f"{_member(numbers[0])} {singular} {what}"
    frames = [number for number in numbers if number != JSON_MEMBER]
    also = " and its json" if len(frames) < len(numbers) else ""
    return f"{len(frames)} frames{also} {plural} {what}: {frames}"


def _is_zero(data: memoryview) -> bool:
    return not len(data) or not np.frombuffer(data, np.uint8).any()


def _scan(data: memoryview) -> tuple[dict[tuple[str, int], _Member], list[str], int]:
    """Walk a tar, up to its end or its first damaged header.

    Returns:
        Members by (key, frame number or JSON_MEMBER), in order; faults of foreign members; the end of the last member.
    """
    end = 0
    members: dict[tuple[str, int], _Member] = {}
    foreign: list[str] = []
    for name, offset, length in tar.walk(data):
        end = offset + length
        match = MEMBER.fullmatch(name)
        if match is None:
            foreign.append(f"member {name!r} is not one that the writer makes; build the set again")
            continue
        member = match[1], JSON_MEMBER if match[2] is None else int(match[2])
        if member in members:
            foreign.append(f"{match[1]}: member {name!r} is a duplicate: {_member(member[1])} precedes it")
        else:
            members[member] = _Member(offset, length, zlib.crc32(data[offset : offset + length]))
    return members, foreign, end
