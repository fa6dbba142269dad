"""MARS (Zheng et al., ECCV 2016), and any data set in its layout, such as the synthetic one.

    ROOT/bbox_train/<pid4>/<pid4>C<cam>T<tracklet4>F<frame3>.jpg
    ROOT/bbox_test/{00-1,0000,<pid4>}/...
    ROOT/info/{train,test}_name.txt               one file name per line
    ROOT/info/tracks_{train,test}_info.mat        rows (start, end, pid, camera): lines of the above, from 1, inclusive
    ROOT/info/query_IDX.mat                       rows of the test info, from 1

A validation part is optional (bbox_val, val_name.txt, tracks_val_info.mat, query_val_IDX.mat); MARS has none. Identity
and camera come from the info files, which are compared with every listed name. --partial accepts a partial download:
tracklets with missing pictures are left out and counted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial as bind
from pathlib import Path

import numpy as np

from shards.records import JUNK_PID, DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import check_counts, files_of, missing_pictures, some
from shards.sources.matlab import IntArray, load_mat
from shards.sources.walk import Walk

START = re.compile(r"(\d{4}|00-1)C(\d)T\d{4,}F")  # of a name: all before the frame number
INFO_HOME = "it comes with the official evaluation code (MARS-evaluation, folder info)"

OFFICIAL = Protocol("official", description="the queries stand in the gallery; same identity and camera is ignored")
QUERIES_REMOVED = Protocol(
    "queries-removed",
    description="the gallery without the queries, as some toolkits have it; not comparable with official figures",
)
VALIDATION = Protocol("validation", description="as official, on the validation part")

OFFICIAL_COUNTS = {
    "training identities": 625,
    "training tracklets": 8_298,
    "training frames": 509_914,
    "test identities": 634,
    "test tracklets": 12_180,
    "test frames": 681_089,
    "junk tracklets": 870,
    "queries": 1_980,
    "query identities": 626,
}


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of the set: its rows (start, end, pid, camera), the frame names of each row, and the rows of queries."""

    name: str
    folder: Path
    rows: IntArray
    names: list[tuple[str, ...]]
    queries: frozenset[int]

    def without(self, positions: frozenset[int]) -> _Part:
        """Return the part without some rows; positions count from 0."""
        kept = [position for position in range(len(self.names)) if position not in positions]
        names = [self.names[position] for position in kept]
        queries = frozenset(new for new, old in enumerate(kept) if old in self.queries)
        return replace(self, rows=self.rows[kept], names=names, queries=queries)


def read(
    root: Path,
    *,
    name: str = "mars",
    partial: bool = False,
    official: Mapping[str, int] | None = OFFICIAL_COUNTS,
    check_files: bool = True,
) -> Source:
    """Read the info files; compare them with the names, the counts and (`check_files`) the folders.

    Args:
        partial: Accept other counts than the official ones, and leave out tracklets with missing pictures.
        official: Expected counts; None for a set other than MARS.

    Raises DataError with file and way out: a wrong folder, a missing or damaged file, names that differ from the info,
    and, unless `partial`, missing pictures or counts other than the official ones.
    """
    if not (root / "info").is_dir():
        raise DataError(f"{root}: contains no folder info; give the folder that holds bbox_train, bbox_test and info")
    parts = [_read_part(root, "train", None), _read_part(root, "test", "query_IDX")]
    protocols = [OFFICIAL, QUERIES_REMOVED]
    if (root / "info" / "tracks_val_info.mat").is_file():
        parts.append(_read_part(root, "val", "query_val_IDX"))
        protocols.append(VALIDATION)

    walk, notes = Walk(root), []
    if check_files:
        checked = [_check_files(part, walk) for part in parts]
        missing = [path for paths, _ in checked for path in paths]
        if missing and not partial:
            choice = "" if official is None else ", or leave out their tracklets with --partial"
            raise missing_pictures(missing, "the info files", f"unpack them again{choice}")
        incomplete = [numbers for _, numbers in checked]
        if any(incomplete):
            notes.append(_left_out(parts, incomplete))
        parts = [part.without(numbers) for part, numbers in zip(parts, incomplete, strict=True)]
    if official is not None and (note := check_counts(root, "MARS", _counts(*parts[:2]), official, partial)):
        notes.insert(0, note)
    tracklets = [tracklet for part in parts for tracklet in _tracklets(part, protocols)]
    if not tracklets:
        raise DataError(f"{root}: no tracklet has all its pictures; unpack bbox_train and bbox_test here")
    facts = {"partial": "; ".join(notes)} if notes else {}
    return Source(name, tuple(protocols), tuple(tracklets), {**facts, **walk.facts()})


def _read_part(root: Path, part: str, query_key: str | None) -> _Part:
    info, names_path = root / "info" / f"tracks_{part}_info.mat", root / "info" / f"{part}_name.txt"
    rows = load_mat(info, f"track_{part}_info", INFO_HOME)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise DataError(f"{info}: shape {rows.shape} instead of rows of (start, end, pid, camera); take the original")
    if not names_path.is_file():
        raise DataError(f"{names_path}: missing; {INFO_HOME}")
    lines = names_path.read_text(errors="replace").split()
    names = [_row_names(info, names_path, number, row, lines) for number, row in enumerate(rows.tolist(), start=1)]
    queries: frozenset[int] = frozenset()
    if query_key:
        query_path = root / "info" / f"{query_key}.mat"
        positions = load_mat(query_path, query_key, INFO_HOME).ravel() - 1
        outside = positions[(positions < 0) | (positions >= len(rows))]
        if len(outside):
            raise DataError(f"{query_path}: row {outside[0] + 1}, but {info.name} has rows 1 to {len(rows)}")
        queries = frozenset(positions.tolist())
    return _Part(part, root / f"bbox_{part}", rows, names, queries)


def _row_names(info: Path, names_path: Path, number: int, row: Sequence[int], lines: list[str]) -> tuple[str, ...]:
    """Return the names of one tracklet in order of time, checked against its row."""
    start, end, pid, camid = row
    where = f"{info}: row {number}"
    if not 1 <= start <= end:
        raise DataError(f"{where}: lines {start} to {end} are not a range; take the original")
    if end > len(lines):
        raise DataError(
            f"{where}: lines {start} to {end}, but {names_path} has {len(lines)}; take the original of both"
        )
    frames: dict[int, str] = {}
    starts: list[str] = []
    for name in lines[start - 1 : end]:
        if not starts or not name.startswith(
            starts[-1]
        ):  # parse only the first name of a tracklet: there are a million
            match = START.match(name)
            if match is None:
                raise _no_name(names_path, name)
            if (_pid(match[1]), int(match[2])) != (pid, camid):
                raise DataError(f"{where}: identity {pid}, camera {camid}, but it lists {name} of {names_path}")
            starts.append(match[0])
        digits, extension = name[len(starts[-1]) : -4], name[-4:]
        if len(digits) < 3 or not digits.isdecimal() or extension != ".jpg":
            raise _no_name(names_path, name)
        frames[int(digits)] = name
    if len(frames) != end - start + 1 or len(starts) != 1:
        raise DataError(f"{where}: {names_path} lines {start} to {end} are not the frames of one tracklet")
    return tuple(frames[frame] for frame in sorted(frames))


def _no_name(names_path: Path, name: str) -> DataError:
    return DataError(f"{names_path}: {name!r} is not a name like 0002C1T0001F001.jpg; take the original")


def _pid(text: str) -> int:
    return JUNK_PID if text == "00-1" else int(text)


def _key(name: str) -> str:
    return name.rpartition("F")[0]


def _counts(train: _Part, test: _Part) -> dict[str, int]:
    test_pids = test.rows[:, 2]
    return {
        "training identities": len(np.unique(train.rows[:, 2])),
        "training tracklets": len(train.rows),
        "training frames": sum(map(len, train.names)),
        "test identities": len(np.unique(test_pids[test_pids > 0])),
        "test tracklets": len(test.rows),
        "test frames": sum(map(len, test.names)),
        "junk tracklets": int((test_pids == JUNK_PID).sum()),
        "queries": len(test.queries),
        "query identities": len(np.unique(test_pids[sorted(test.queries)])),
    }


def _check_files(part: _Part, walk: Walk) -> tuple[list[Path], frozenset[int]]:
    """Return the listed pictures that are missing, and the positions of the incomplete tracklets.

    Lists each folder once instead of testing a million files. Notes unlisted files in `walk`.
    """
    of_identity: dict[str, list[int]] = {}
    for position, names in enumerate(part.names):
        of_identity.setdefault(names[0][:4], []).append(position)
    if not part.folder.is_dir():
        return [part.folder], frozenset(range(len(part.names)))
    for name in sorted(set(os.listdir(part.folder)).difference(of_identity)):
        walk.skip("pictures that the info files do not list", part.folder / name)
    missing: list[Path] = []
    incomplete: set[int] = set()
    for identity, positions in of_identity.items():
        folder = part.folder / identity
        if not folder.is_dir():
            missing.append(folder)
            incomplete.update(positions)
            continue
        unlisted = set(os.listdir(folder))
        for position in positions:
            names = part.names[position]
            gone = [folder / name for name in names if name not in unlisted]
            unlisted.difference_update(names)
            if gone:
                missing += gone
                incomplete.add(position)
        for name in sorted(unlisted):
            walk.skip("pictures that the info files do not list", folder / name)
    return missing, frozenset(incomplete)


def _left_out(parts: Sequence[_Part], incomplete: Sequence[frozenset[int]]) -> str:
    """Describe the tracklets with missing pictures, for the fact `partial`."""
    gone = [
        (part, position) for part, positions in zip(parts, incomplete, strict=True) for position in sorted(positions)
    ]
    queries = sum(position in part.queries for part, position in gone)
    return (
        f"tracklets left out, since pictures of them are missing: {len(gone):,} "
        f"({some([_key(part.names[position][0]) for part, position in gone])}), queries among them: {queries:,}"
    )


def _tracklets(part: _Part, protocols: Sequence[Protocol]) -> Iterator[SourceTracklet]:
    for number, ((_, _, pid, camid), names) in enumerate(zip(part.rows.tolist(), part.names, strict=True)):
        yield SourceTracklet(
            key=_key(names[0]),
            pid=pid,
            camid=camid,
            num_frames=len(names),
            roles=tuple(_role(protocol, part.name, pid, number in part.queries) for protocol in protocols),
            frames=bind(files_of, part.folder / names[0][:4], names),
        )


def _role(protocol: Protocol, part: str, pid: int, is_query: bool) -> Role:
    if part == "train":
        return Role.TRAIN
    if part != ("val" if protocol is VALIDATION else "test"):
        return Role.NONE
    if pid == JUNK_PID:
        return Role.GALLERY | Role.JUNK
    if not is_query:
        return Role.GALLERY
    return Role.QUERY if protocol is QUERIES_REMOVED else Role.QUERY | Role.GALLERY
