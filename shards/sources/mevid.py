"""MEVID (Davila et al., WACV 2023; Kitware's repository MEVID): persons in several outfits.

    ROOT/bbox_{train,test}/<pid4>/<pid4>O<outfit3>C<cam>T<tracklet3>F<frame5>.jpg
    ROOT/{train,test}_name.txt            one file name per line
    ROOT/track_{train,test}_info.txt      rows (start, end, pid, outfit, camera): lines of the above, from 0, inclusive
    ROOT/query_IDX.txt                    rows of the test info, from 0

The lists may also stay in ROOT/mevid-v1-annotation-data, the folder that they are published in. Numbers are printed as
floats. Identity, outfit and camera come from the info files, which are compared with every listed name; outfits count
the clothes of one person. Rows that end before they start have no frame and are left out, as in Kitware's loaders.
Protocols are those of Kitware's evaluation by clothes; the gallery does not contain the queries. --partial accepts a
partial download: tracklets with missing pictures are left out and counted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

import numpy as np

from shards.guarded import read_regular
from shards.records import IGNORE_RULES, DataError, Frame, Protocol, Role, Source, SourceTracklet
from shards.sources.common import check_counts, files_of, missing_pictures, some
from shards.sources.matlab import IntArray
from shards.sources.walk import Walk

LISTS = "mevid-v1-annotation-data"
FILES = ("train_name.txt", "test_name.txt", "track_train_info.txt", "track_test_info.txt", "query_IDX.txt")
HOME = f"it comes with MEVID's {LISTS}"
START = re.compile(r"(\d{4})O(\d{3})C(\d{1,4})T(\d{3,})F", re.ASCII)  # of a name: all before the frame number
ENDING = re.compile(r"(\d{5})\.jpg", re.ASCII)
COLUMNS = "start, end, identity, outfit, camera"
PROTOCOLS = (
    Protocol("official", description="same identity and camera is ignored"),
    Protocol(
        "same-clothes",
        description="same identity is ignored on the same camera or in another outfit",
        ignore="same-clothes",
    ),
    Protocol(
        "clothes-changing",
        description="same identity is ignored on the same camera or in the same outfit",
        ignore="clothes-changing",
    ),
)
# The matches of `clothes-changing` are not checked: published counts do not say whether one by the query's own camera
# is among them.
OFFICIAL_COUNTS = {
    "training identities": 104,
    "training outfits": 485,
    "training tracklets": 6_338,
    "test identities": 54,
    "test outfits": 113,
    "test tracklets": 1_754,
    "queries": 316,
    "query identities": 52,
    "gallery identities": 54,
    "gallery tracklets": 1_438,
    "cameras": 33,
    "valid queries (official)": 316,
    "valid queries (same-clothes)": 288,
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of an info file. `frames` are the numbers of its frames, sorted: names of five million frames are large."""

    prefix: str  # of the names of its frames; empty if it has none
    pid: int
    outfit: int
    camid: int
    frames: IntArray
    is_query: bool

    def names(self) -> list[str]:
        return [f"{self.prefix}F{frame:05d}.jpg" for frame in self.frames.tolist()]


def read(
    root: Path,
    *,
    partial: bool = False,
    official: Mapping[str, int] | None = OFFICIAL_COUNTS,
    check_files: bool = True,
) -> Source:
    """Read the lists; compare them with the names, the counts and (`check_files`) the folders.

    Args:
        partial: Accept other counts than the official ones, and leave out tracklets with missing pictures.
        official: Expected counts; None for a set in this layout other than MEVID.

    Raises DataError with file, line and way out: a missing or damaged list, names that differ from the info, a row
    that is listed twice, and, unless `partial`, missing pictures or counts other than the official ones.
    """
    folder = root if any((root / name).is_file() for name in FILES) else root / LISTS
    rows = {"train": _read_part(folder, "train", set()), "test": _read_part(folder, "test", _read_queries(folder))}
    empty = [f"{part} {number}" for part in rows for number, row in enumerate(rows[part]) if not len(row.frames)]
    _check_unique(folder, [row for part in rows.values() for row in part])

    walk, notes, facts = Walk(root), [], {}
    if empty:
        facts["empty rows"] = f"rows that end before they start, left out: {len(empty):,} ({some(empty)})"
    if check_files:
        missing: list[Path] = []
        incomplete: list[_Row] = []
        for part, of_part in rows.items():
            paths, gone = _check_files(root / f"bbox_{part}", of_part, walk)
            missing += paths
            incomplete += [of_part[position] for position in sorted(gone)]
            rows[part] = [row for position, row in enumerate(of_part) if position not in gone]
        if missing and not partial:
            way_out = "unpack them again, or leave out their tracklets with --partial"
            raise missing_pictures(missing, "the info files", way_out)
        if incomplete:
            notes.append(_left_out(incomplete))
    if official is not None and (note := check_counts(root, "MEVID", _counts(**rows), official, partial)):
        notes.insert(0, note)
    if notes:
        facts["partial"] = "; ".join(notes)
    tracklets = tuple(
        _tracklet(row, part, root / f"bbox_{part}") for part in rows for row in rows[part] if len(row.frames)
    )
    if not tracklets:
        raise DataError(f"{root}: no tracklet has all its pictures; unpack bbox_train and bbox_test here")
    return Source("mevid", PROTOCOLS, tracklets, {**facts, **walk.facts()})


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        where = f"{path.parent.parent} or {LISTS} in it" if path.parent.name == LISTS else path.parent
        raise DataError(f"{path.name}: missing in {where}; {HOME}; give the folder that holds bbox_train and bbox_test")
    return read_regular(path).decode(errors="replace").splitlines()


def _read_numbers(path: Path, columns: int, form: str) -> list[tuple[int, ...]]:
    """Return the rows of a list of whole numbers, which may be printed as floats. Empty lines are ignored."""
    rows = []
    for number, line in enumerate(_read_lines(path), start=1):
        texts = line.split()
        if not texts:
            continue
        where = f"{path}: line {number}"
        if len(texts) != columns:
            raise DataError(f"{where}: {len(texts)} columns instead of {columns} ({form}); take the original")
        try:
            values = [float(text) for text in texts]
            if any(value != int(value) or abs(value) > 1e9 for value in values):
                raise ValueError("no whole number")
        except (ValueError, OverflowError):  # of inf
            raise DataError(f"{where}: {line.strip()[:80]!r}: not whole numbers ({form}); take the original") from None
        rows.append(tuple(map(int, values)))
    if not rows:
        raise DataError(f"{path}: empty; take the original")
    return rows


def _read_queries(folder: Path) -> set[int]:
    """Return the rows of the test info that are queries."""
    path = folder / "query_IDX.txt"
    queries: set[int] = set()
    for (row,) in _read_numbers(path, 1, "a row of track_test_info.txt"):
        if row in queries:
            raise DataError(f"{path}: names row {row} twice; take the original")
        queries.add(row)
    return queries


def _read_part(folder: Path, part: str, queries: Set[int]) -> list[_Row]:
    info, names_path = folder / f"track_{part}_info.txt", folder / f"{part}_name.txt"
    table = _read_numbers(info, 5, COLUMNS)
    outside = sorted(row for row in queries if not 0 <= row < len(table))
    if outside:
        last = len(table) - 1
        raise DataError(
            f"{folder / 'query_IDX.txt'}: row {outside[0]}, but {info.name} has rows 0 to {last}; take the originals"
        )
    lines = [line.strip() for line in _read_lines(names_path)]
    while lines and not lines[-1]:
        lines.pop()
    rows = [_row(info, names_path, number, row, lines, number in queries) for number, row in enumerate(table)]
    if without := [number for number in sorted(queries) if not len(rows[number].frames)]:
        raise DataError(f"{folder / 'query_IDX.txt'}: row {without[0]} of {info.name} has no frame; take the original")
    return rows


def _row(info: Path, names_path: Path, number: int, row: Sequence[int], lines: list[str], is_query: bool) -> _Row:
    """Return one row with the numbers of its frames in order of time, checked against their names."""
    start, end, pid, outfit, camid = row
    where = f"{info}: row {number}"
    if pid < 1 or outfit < 0 or camid < 0:
        raise DataError(f"{where}: identity {pid}, outfit {outfit}, camera {camid}; take the original")
    if start < 0 or end >= len(lines):
        raise DataError(
            f"{where}: lines {start} to {end}, but {names_path} has lines 0 to {len(lines) - 1}; take the original of "
            "both"
        )
    frames: set[int] = set()
    prefixes: list[str] = []
    for name in lines[start : end + 1]:
        if not prefixes or not name.startswith(prefixes[-1]):  # parse only the first name of a tracklet
            match = START.match(name)
            if match is None:
                raise _no_name(names_path, name)
            if tuple(map(int, match.group(1, 2, 3))) != (pid, outfit, camid):
                raise DataError(
                    f"{where}: identity {pid}, outfit {outfit}, camera {camid}, but it lists {name} of {names_path}; "
                    "take the originals"
                )
            prefixes.append(match[0])
        ending = ENDING.fullmatch(name, len(prefixes[-1]))
        if ending is None:
            raise _no_name(names_path, name)
        frames.add(int(ending[1]))
    if len(frames) != max(end + 1 - start, 0) or len(prefixes) > 1:
        raise DataError(
            f"{where}: {names_path} lines {start} to {end} are not the frames of one tracklet; take the originals"
        )
    prefix = prefixes[0].removesuffix("F") if prefixes else ""
    return _Row(prefix, pid, outfit, camid, np.array(sorted(frames), np.int64), is_query)


def _no_name(names_path: Path, name: str) -> DataError:
    return DataError(f"{names_path}: {name[:80]!r} is not a name like 0201O003C330T004F00192.jpg; take the original")


def _check_unique(folder: Path, rows: Sequence[_Row]) -> None:
    prefixes = [row.prefix for row in rows if row.prefix]
    if len(set(prefixes)) != len(prefixes):
        twice = next(prefix for prefix in prefixes if prefixes.count(prefix) > 1)
        raise DataError(f"{folder}: two rows of the info files list frames of {twice}; take the originals")


def _check_files(folder: Path, rows: Sequence[_Row], walk: Walk) -> tuple[list[Path], frozenset[int]]:
    """Return the listed pictures that are missing, and the positions of the incomplete rows.

    Lists each folder once instead of testing millions of files. Notes unlisted files in `walk`.
    """
    of_identity: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        if row.prefix:
            of_identity.setdefault(row.prefix[:4], []).append(position)
    if not folder.is_dir():
        return [folder], frozenset(position for positions in of_identity.values() for position in positions)
    for name in sorted(set(os.listdir(folder)).difference(of_identity)):
        walk.skip("pictures that the info files do not list", folder / name)
    missing: list[Path] = []
    incomplete: set[int] = set()
    for identity, positions in of_identity.items():
        home = folder / identity
        if not home.is_dir():
            missing.append(home)
            incomplete.update(positions)
            continue
        unlisted = set(os.listdir(home))
        for position in positions:
            names = rows[position].names()
            if gone := [home / name for name in names if name not in unlisted]:
                missing += gone
                incomplete.add(position)
            unlisted.difference_update(names)
        for name in sorted(unlisted):
            walk.skip("pictures that the info files do not list", home / name)
    return missing, frozenset(incomplete)


def _left_out(rows: Sequence[_Row]) -> str:
    """Describe the tracklets with missing pictures, for the fact `partial`."""
    return (
        f"tracklets left out, since pictures of them are missing: {len(rows):,} "
        f"({some([row.prefix for row in rows])}), queries among them: {sum(row.is_query for row in rows):,}"
    )


def _counts(train: Sequence[_Row], test: Sequence[_Row]) -> dict[str, int]:
    query, gallery = ([row for row in test if row.is_query is is_query] for is_query in (True, False))
    counts = {}
    for title, rows in (("training", train), ("test", test), ("query", query), ("gallery", gallery)):
        counts[f"{title} identities"] = len({row.pid for row in rows})
        counts[f"{title} outfits"] = len({(row.pid, row.outfit) for row in rows})
        counts["queries" if title == "query" else f"{title} tracklets"] = len(rows)
    counts["cameras"] = len({row.camid for row in (*train, *test)})
    labels = [
        np.array([(row.pid, row.camid, row.outfit) for row in rows]).reshape(-1, 3).T for rows in (query, gallery)
    ]
    pids, camids, outfits = (of_query[:, None] == of_gallery for of_query, of_gallery in zip(*labels, strict=True))
    for protocol in PROTOCOLS:
        matches = pids & ~IGNORE_RULES[protocol.ignore].ignores(camids, outfits)
        counts[f"valid queries ({protocol.name})"] = int(matches.any(axis=1).sum())
    return counts


def _tracklet(row: _Row, part: str, folder: Path) -> SourceTracklet:
    role = Role.TRAIN if part == "train" else Role.QUERY if row.is_query else Role.GALLERY
    return SourceTracklet(
        key=row.prefix,
        pid=row.pid,
        camid=row.camid,
        num_frames=len(row.frames),
        roles=(role,) * len(PROTOCOLS),
        frames=bind(_frames, folder / row.prefix[:4], row),
        outfit=row.outfit,
    )


def _frames(folder: Path, row: _Row) -> Iterator[Frame]:
    yield from files_of(folder, row.names())
