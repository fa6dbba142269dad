"""LS-VID (Li et al., ICCV 2019).

    ROOT/list_sequence/list_seq_{train,val,test}.txt    one line per tracklet: <path prefix> <label>
    ROOT/<path prefix>_*.jpg                            its frames; the third part of the name, between _, is the camera
    ROOT/test/data/info_{val,test}.mat                  query: rows of the list, from 1; info_test: rows of (start, end,
                                                        label, camera); MATLAB v7.3 or v5

The place of lists and info files differs between copies: val/data, test/data, data, info/data, info/list_sequence and
the like, or ROOT itself. The variables of info_val.mat have the names of those in info_test.mat (or info_val). The
end - start + 1 frames of each row are compared with the pictures. A copy without the validation part (no pictures, or
neither list nor info) is complete.

The gallery is the whole part, queries included. Labels begin at 0 in each part: identities are the labels plus 1, plus
10,000 in the validation part and 20,000 in the test part.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path, PurePosixPath

import numpy as np

from shards.records import DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import check_counts, files_of, is_picture, missing_pictures, natural, some
from shards.sources.matlab import IntArray, load_mat
from shards.text import printable_lines

HOME = "it comes with LS-VID"
PLACES = (  # of lists and info files, in known copies
    "list_sequence",
    "info/list_sequence",
    "val/data",
    "test/data",
    "data",
    "info/data",
    "val",
    "test",
    "info",
    ".",
)
LABELS = 10_000  # more than any part has
PARTS = ("train", "val", "test")
PREFIX = re.compile(r"[^_]+_[^_]+_c?(\d+)(_[^_]+)*")
OFFICIAL = Protocol("official", description="all of the test part is the gallery; same identity and camera is ignored")
VALIDATION = Protocol("validation", description="as official, on the validation part")
OFFICIAL_COUNTS = {
    "training identities": 842,
    "training tracklets": 2_831,
    "validation identities": 200,
    "validation tracklets": 779,
    "validation queries": 252,
    "test identities": 2_730,
    "test tracklets": 11_333,
    "queries": 3_504,
    "cameras": 15,
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a list, with its pictures."""

    folder: Path
    prefix: str
    label: int
    camid: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """The tracklets of one part.

    Args:
        rows: One per tracklet; a row without pictures has no names.
        unlisted: Number of pictures in the same folders that the list does not name.
        queries: Numbers of rows, from 0.
        differences: A line for each kind of difference: missing pictures, rows that overlap or leave gaps.
    """

    rows: tuple[_Row, ...]
    unlisted: int
    queries: frozenset[int]
    differences: list[str]


def read(root: Path, *, partial: bool = False) -> Source:
    """Read lists and info files, list the frames of each tracklet, and compare all of them.

    Raises DataError with file, line and way out: a list or info file that is missing, damaged or present in two
    versions, a path out of `root`, an unexpected name, more pictures than a row counts; and, unless `partial`, missing
    pictures, rows that overlap or leave gaps, counts other than the official ones. `partial` leaves out tracklets
    without pictures. The fact `partial` lists everything that it accepts.
    """
    without = _without_validation(root, partial)
    parts = {part: _read_part(root, part) for part in PARTS if part != "val" or not without}
    differences = [difference for part in parts.values() for difference in part.differences]
    if differences and not partial:
        raise DataError(printable_lines([*differences, f"{root}: unpack it again, or accept this with --partial"]))
    counts: dict[str, int] = {}
    cameras: set[int] = set()
    for name, part in parts.items():
        title = {"train": "training", "val": "validation", "test": "test"}[name]
        there = {number: row for number, row in enumerate(part.rows) if row.names}
        counts[f"{title} identities"] = len({row.label for row in there.values()})
        counts[f"{title} tracklets"] = len(there)
        if name != "train":
            counts["queries" if name == "test" else "validation queries"] = len(part.queries & there.keys())
        cameras |= {row.camid for row in there.values()}
    counts["cameras"] = len(cameras)
    official = {what: count for what, count in OFFICIAL_COUNTS.items() if what in counts}
    note = "; ".join(filter(None, [check_counts(root, "LS-VID", counts, official, partial), *differences]))

    facts = {"identities": f"label + 1 of the list, + {LABELS:,} in val, + {2 * LABELS:,} in test"}
    if without:
        facts["validation"] = without
    if unlisted := sum(part.unlisted for part in parts.values()):
        facts["not listed"] = f"{unlisted:,} pictures beside those of the tracklets are in no list, and left out"
    if note:
        facts["partial"] = note
    protocols = (OFFICIAL, VALIDATION) if "val" in parts else (OFFICIAL,)
    tracklets = [
        _tracklet(row, name, number in part.queries, protocols)
        for name, part in parts.items()
        for number, row in enumerate(part.rows)
        if row.names
    ]
    return Source("lsvid", protocols, tuple(tracklets), facts)


def _without_validation(root: Path, partial: bool) -> str:
    """Return the reason for a missing validation part, for the facts; empty if there is a validation part.

    Raises DataError if only its list is missing, or only its info file (unless `partial`).
    """
    path, info_path = _find(root, "list_seq_val.txt"), _find(root, "info_val.mat")
    if path is None:
        if info_path:
            raise DataError(
                f"list_seq_val.txt: missing in {root}, but {info_path} exists; {HOME}; or move that file away, too"
            )
        return "none in this copy: no list_seq_val.txt, no info_val.mat"
    rows, _ = _read_list(root, path)
    if not any(row.names for row in rows):
        return f"none in this copy: no picture of {path}"
    if info_path is None and not partial:
        raise DataError(
            f"info_val.mat: missing in {root}, but list and pictures of the validation part exist; {HOME}; or leave "
            "that part out with --partial"
        )
    return "" if info_path else "left out: info_val.mat is missing"


def _find(root: Path, name: str) -> Path | None:
    """Return the path of a list or info file. Raises DataError if two files of that name differ."""
    paths = [root / place / name for place in PLACES if (root / place / name).is_file()]
    for path in paths[1:]:
        if not filecmp.cmp(paths[0], path, shallow=False):
            raise DataError(f"{paths[0]} and {path} differ; keep the original, and move the other away")
    return paths[0] if paths else None


def _find_or_fail(root: Path, name: str) -> Path:
    path = _find(root, name)
    if path is None:
        raise DataError(
            f"{name}: missing in {root} ({', '.join(PLACES[:-1])}, or {root} itself); {HOME}; give the folder LS-VID "
            "that holds list_sequence"
        )
    return path


def _read_part(root: Path, part: str) -> _Part:
    path = _find_or_fail(root, f"list_seq_{part}.txt")
    rows, unlisted = _read_list(root, path)
    if part == "train":  # there is no info file of the training part
        missing = [row.folder / f"{row.prefix}_*" for row in rows if not row.names]
        differences = [str(missing_pictures(missing, str(path)))] if missing else []
        return _Part(rows, unlisted, frozenset(), differences)
    info_path = _find_or_fail(root, f"info_{part}.mat")
    info, queries = _read_info(info_path, part, rows)
    return _Part(rows, unlisted, queries, _differences(info_path, info, rows))


def _read_list(root: Path, path: Path) -> tuple[tuple[_Row, ...], int]:
    """Return the rows of a list, and the number of pictures in their folders that no line names."""
    rows = []
    listed: dict[Path, Mapping[str, list[str]]] = {}
    for line, text in enumerate(path.read_text("utf-8-sig", errors="replace").rstrip().splitlines(), start=1):
        where = PurePosixPath(text.rpartition(" ")[0].strip())
        label = text.rpartition(" ")[2]
        match = PREFIX.fullmatch(where.name)
        if match is None or not label.isdecimal() or int(label) >= LABELS:
            raise DataError(f"{path}:{line}: {text!r} is not a line like train/0001/0001_0001_3 0; take the original")
        if where.is_absolute() or ".." in where.parts:
            raise DataError(f"{path}:{line}: {text!r} leads out of {root}; take the original")
        folder = root / where.parent
        if folder not in listed:
            listed[folder] = _by_prefix(folder)
        names = listed[folder].get(where.name, [])
        rows.append(_Row(folder, where.name, int(label), int(match[1]), tuple(names)))
    num_listed = sum(len(row.names) for row in rows)
    return tuple(rows), sum(len(names) for by_prefix in listed.values() for names in by_prefix.values()) - num_listed


def _by_prefix(folder: Path) -> dict[str, list[str]]:
    """Return the pictures of a folder by the prefix before their last _, in order of time."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder), key=natural) if folder.is_dir() else ():
        if is_picture(name) and not name.startswith("."):
            names.setdefault(name.rpartition("_")[0], []).append(name)
    return names


def _read_info(path: Path, part: str, rows: Sequence[_Row]) -> tuple[IntArray, frozenset[int]]:
    """Return the rows of an info file and the numbers (from 0) of its queries, checked against the list."""
    # The official info_val.mat also names its variable info_test; other tools write info_val.
    info = load_mat(path, "info_test", HOME, "info_val" if part == "val" else None)
    query = load_mat(path, "query", HOME).ravel() - 1
    if info.shape != (len(rows), 4):
        raise DataError(f"{path}: rows of shape {info.shape}, but the list has {len(rows)} lines of 4 numbers")
    for line, (row, (start, end, label, camid)) in enumerate(zip(rows, info.tolist(), strict=True), start=1):
        if not 1 <= start <= end:
            raise DataError(f"{path}: row {line}: {start} to {end} is not a range of frames; take the original")
        if (row.label, row.camid) != (label, camid):
            raise DataError(
                f"{path}: row {line}: label {label}, camera {camid}, but the list has {row.prefix} with label "
                f"{row.label}; take the originals of both"
            )
        if len(row.names) > end - start + 1:
            raise DataError(
                f"{path}: row {line}: {start} to {end} are {end - start + 1} frames, but {row.folder / row.prefix}_* "
                f"are {len(row.names)} pictures; remove those of other tracklets, or unpack it again"
            )
    outside = query[(query < 0) | (query >= len(rows))]
    if len(outside):
        raise DataError(f"{path}: query {outside[0] + 1}, but the list has lines 1 to {len(rows)}; take the original")
    if len(np.unique(query)) != len(query):
        raise DataError(f"{path}: query names a row twice; take the original")
    return info, frozenset(query.tolist())


def _differences(path: Path, info: IntArray, rows: Sequence[_Row]) -> list[str]:
    """Return a line for each kind of difference: missing pictures, rows that overlap, rows that leave a gap."""
    lines = []
    short = {row: end - start + 1 for row, (start, end, _, _) in zip(rows, info.tolist(), strict=True)}
    short = {row: frames for row, frames in short.items() if len(row.names) < frames}
    if short:
        named = [f"{row.folder / row.prefix}_* ({len(row.names)} of {frames})" for row, frames in short.items()]
        lost = sum(frames - len(row.names) for row, frames in short.items())
        lines.append(f"{path}: pictures of {len(named):,} tracklets are missing, {lost:,} in all: {some(named)}")
    by_start = info[np.argsort(info[:, 0], kind="stable")]
    gaps = by_start[:, 0] - 1 - np.concatenate([[0], np.maximum.accumulate(by_start[:-1, 1])])
    for what, wrong in (("overlap", gaps < 0), ("leave a gap before them", gaps > 0)):
        if wrong.any():
            start, end = by_start[wrong][0, :2]
            lines.append(f"{path}: {wrong.sum():,} rows {what}, the first is {start} to {end}")
    return lines


def _tracklet(row: _Row, part: str, is_query: bool, protocols: Sequence[Protocol]) -> SourceTracklet:
    tested = Role.QUERY | Role.GALLERY if is_query else Role.GALLERY
    return SourceTracklet(
        key=f"{part}-{row.prefix}",
        pid=PARTS.index(part) * LABELS + row.label + 1,
        camid=row.camid,
        num_frames=len(row.names),
        roles=tuple(
            Role.TRAIN
            if part == "train"
            else tested
            if part == ("val" if protocol is VALIDATION else "test")
            else Role.NONE
            for protocol in protocols
        ),
        frames=bind(files_of, row.folder, row.names),
    )
