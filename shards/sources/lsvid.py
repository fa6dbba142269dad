"""LS-VID (Li et al., ICCV 2019).

    ROOT/list_sequence/list_seq_{train,val,test}.txt    a tracklet a line: <path prefix> <label>
    ROOT/<path prefix>_*.jpg                            its frames; the third part of the name, between _, is the camera
    ROOT/{val,test}/data/info_{val,test}.mat            query: rows of the list, from 1; info_<part>: a row each of
                                                        (start, end, label, camera); MATLAB v7.3 or v5

Gallery is the whole part, queries included. Each part has labels of its own, from 0: identities are the labels plus 1,
plus 10,000 in the validation part and 20,000 in the test part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path, PurePosixPath

from shards.records import DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import PICTURES, check_counts, files_of, load_mat, missing_pictures, natural

HOME = "it comes with LS-VID"
LABELS = 10_000  # more than a part has
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
    """A line of a list, resolved."""

    folder: Path
    prefix: str
    label: int
    camid: int
    names: tuple[str, ...]


def read(root: Path, *, partial: bool = False) -> Source:
    """Read lists and info files, find each tracklet's frames, and check all against each other.

    Raises DataError with file, line and way out: a list or info file missing or damaged, a path that leads out of
    `root`, a name of another form, a tracklet without frames, counts that are not the official ones (unless `partial`).
    """
    if not (root / "list_sequence").is_dir():
        raise DataError(f"{root}: no folder list_sequence here; give the folder LS-VID that holds it")
    rows = {part: _read_list(root, part) for part in PARTS}
    queries = {part: _read_queries(root, part, rows[part]) for part in ("val", "test")}
    counts = {
        "training identities": len({row.label for row in rows["train"]}),
        "training tracklets": len(rows["train"]),
        "validation identities": len({row.label for row in rows["val"]}),
        "validation tracklets": len(rows["val"]),
        "validation queries": len(queries["val"]),
        "test identities": len({row.label for row in rows["test"]}),
        "test tracklets": len(rows["test"]),
        "queries": len(queries["test"]),
        "cameras": len({row.camid for part in rows.values() for row in part}),
    }
    note = check_counts(root, "LS-VID", counts, OFFICIAL_COUNTS, partial)
    facts = {"identities": f"label + 1 of the list, + {LABELS:,} in val, + {2 * LABELS:,} in test"}
    tracklets = [
        _tracklet(row, part, offset, number in queries.get(part, ()))
        for offset, part in enumerate(PARTS)
        for number, row in enumerate(rows[part])
    ]
    return Source("lsvid", (OFFICIAL, VALIDATION), tuple(tracklets), {**facts, **({"partial": note} if note else {})})


def _read_list(root: Path, part: str) -> list[_Row]:
    path = root / "list_sequence" / f"list_seq_{part}.txt"
    if not path.is_file():
        raise DataError(f"{path}: missing; {HOME}")
    rows, missing = [], []
    listed: dict[Path, Mapping[str, list[str]]] = {}
    for line, text in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        where = PurePosixPath(text.rpartition(" ")[0].strip())
        label = text.rpartition(" ")[2]
        match = PREFIX.fullmatch(where.name)
        if match is None or not label.isdecimal() or int(label) >= LABELS:
            raise DataError(f"{path}:{line}: {text!r} is no line like train/0001/0001_0001_3 0; take the original")
        if where.is_absolute() or ".." in where.parts:
            raise DataError(f"{path}:{line}: {text!r} leads out of {root}; take the original")
        folder = root / where.parent
        if folder not in listed:
            listed[folder] = _by_prefix(folder)
        names = listed[folder].get(where.name, [])
        if not names:
            missing.append(root / f"{where}_*")
        rows.append(_Row(folder, where.name, int(label), int(match[1]), tuple(names)))
    if missing:
        raise missing_pictures(missing, str(path))
    return rows


def _by_prefix(folder: Path) -> dict[str, list[str]]:
    """The pictures of a folder by all that stands before their last _, in the order of time."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder), key=natural) if folder.is_dir() else ():
        if name.lower().endswith(PICTURES) and not name.startswith("."):
            names.setdefault(name.rpartition("_")[0], []).append(name)
    return names


def _read_queries(root: Path, part: str, rows: Sequence[_Row]) -> frozenset[int]:
    path = root / part / "data" / f"info_{part}.mat"
    info, query = load_mat(path, f"info_{part}", HOME), load_mat(path, "query", HOME).ravel() - 1
    if info.shape != (len(rows), 4):
        raise DataError(f"{path}: info_{part} of shape {info.shape}, but the list has {len(rows)} lines of 4 numbers")
    for line, (row, (_, _, label, camid)) in enumerate(zip(rows, info.tolist(), strict=True), start=1):
        if (row.label, row.camid) != (label, camid):
            raise DataError(
                f"{path}: row {line}: label {label}, camera {camid}, but the list has {row.prefix} with label "
                f"{row.label}; take the originals of both"
            )
    outside = query[(query < 0) | (query >= len(rows))]
    if len(outside):
        raise DataError(f"{path}: query {outside[0] + 1}, but the list has lines 1 to {len(rows)}; take the original")
    return frozenset(query.tolist())


def _tracklet(row: _Row, part: str, offset: int, is_query: bool) -> SourceTracklet:
    tested = Role.QUERY | Role.GALLERY if is_query else Role.GALLERY
    return SourceTracklet(
        key=f"{part}-{row.prefix}",
        pid=offset * LABELS + row.label + 1,
        camid=row.camid,
        num_frames=len(row.names),
        roles=tuple(Role.TRAIN if part == "train" else tested if part == own else Role.NONE for own in ("test", "val")),
        frames=bind(files_of, row.folder, row.names),
    )
