"""CCVID (Gu et al., CVPR 2022): persons who change clothes.

    ROOT/{train,query,gallery}.txt                one line per tracklet: <session>/<pid>_<number> <pid> <clothes>
    ROOT/session{1,2,3}/<pid>_<number>/*.jpg      its frames, sorted by the numbers in their names

Camera is the number of the tracklet (1 to 12), plus 12 in session3, as in the authors' loader (Simple-CCReID), whose
evaluation the protocols follow. Labels of clothes, such as u1_l1_s1_c1_a1, count the clothes of one person: the same
label means other clothes of another person. The fact `outfits` numbers the labels, sorted, of all three lists. The
gallery does not contain the queries.

--partial accepts a partial download: tracklets without a folder are left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from shards.guarded import read_regular
from shards.records import DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import check_counts, check_gaps, files_of, missing_pictures, natural, numbered, some
from shards.sources.walk import Walk

ROLES = {"train": Role.TRAIN, "query": Role.QUERY, "gallery": Role.GALLERY}
SESSIONS = ("session1", "session2", "session3")
CAMERAS = 12  # of a session; session3 was recorded elsewhere, so that its cameras are others
PLACE = re.compile(r"(session[123])/(\d{1,9})_(\d{1,9})", re.ASCII)
LINE = "session1/001_01 001 u0_l0_s0_c0_a0"
PROTOCOLS = (
    Protocol("standard", description="same identity and camera is ignored"),
    Protocol(
        "clothes-changing",
        description="same identity is ignored on the same camera or in the same clothes",
        ignore="clothes-changing",
    ),
    Protocol(
        "same-clothes",
        description="same identity is ignored on the same camera or in other clothes",
        ignore="same-clothes",
    ),
)
OFFICIAL_COUNTS = {
    "training identities": 75,
    "training tracklets": 948,
    "query identities": 151,
    "queries": 834,
    "gallery identities": 151,
    "gallery tracklets": 1_074,
    "frames": 347_833,
}


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a list."""

    part: str
    place: str  # path of its folder in ROOT
    pid: int
    camid: int
    clothes: str

    @property
    def key(self) -> str:
        return self.place.replace("/", "-")


def read(root: Path, *, partial: bool = False, official: Mapping[str, int] | None = OFFICIAL_COUNTS) -> Source:
    """Read the lists, and list the frames of each tracklet.

    Args:
        partial: Accept other counts than the official ones, and leave out tracklets without a folder.
        official: Expected counts; None for a set in this layout other than CCVID.

    Raises DataError with file, line and way out: a list that is missing or of another form, a line that contradicts
    itself or repeats another, a folder without pictures; and, unless `partial`, a missing folder or counts other than
    the official ones.
    """
    rows = [row for part in ROLES for row in _read_list(root, part)]
    _check_unique(root, rows)
    outfits, facts = numbered(root, sorted({row.clothes for row in rows}, key=natural), "outfits")
    missing = [root / row.place for row in rows if not (root / row.place).is_dir()]
    if missing and not partial:
        raise missing_pictures(missing, "the lists", "unpack them again, or leave out their tracklets with --partial")
    walk = Walk(root)
    gone = set(missing)
    rows = [row for row in rows if root / row.place not in gone]
    if not rows:
        raise DataError(f"{root}: no tracklet has its folder; unpack {', '.join(SESSIONS)} here")
    names = {row.place: tuple(walk.pictures(root / row.place)) for row in rows}
    _note_unlisted(walk, root, names)

    notes = []
    if official is not None and (note := check_counts(root, "CCVID", _counts(rows, names), official, partial)):
        notes.append(note)
        facts |= check_gaps({row.key: numbers for row in rows if (numbers := _numbers(names[row.place]))})
    if missing:
        shown = some([str(path.relative_to(root)) for path in missing])
        notes.append(f"tracklets left out, since their folders are missing: {len(missing):,} ({shown})")
    if notes:
        facts["partial"] = "; ".join(notes)
    tracklets = [
        SourceTracklet(
            key=row.key,
            pid=row.pid,
            camid=row.camid,
            num_frames=len(names[row.place]),
            roles=(ROLES[row.part],) * len(PROTOCOLS),
            frames=bind(files_of, root / row.place, names[row.place]),
            outfit=outfits[row.clothes],
        )
        for row in rows
    ]
    return Source("ccvid", PROTOCOLS, tuple(tracklets), {**facts, **walk.facts()})


def _read_list(root: Path, part: str) -> list[_Row]:
    path = root / f"{part}.txt"
    if not path.is_file():
        raise DataError(f"{path}: missing; give the folder CCVID that holds train.txt, query.txt and gallery.txt")
    rows = []
    for number, line in enumerate(read_regular(path).decode("utf-8-sig", errors="replace").splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        where = f"{path}: line {number}"
        match = PLACE.fullmatch(columns[0])
        if len(columns) != 3 or match is None or not columns[1].isdecimal():
            raise DataError(f"{where}: {line.strip()!r} is not a line like {LINE!r}; take the original")
        session, pid, camid = match[1], int(match[2]), int(match[3])
        if pid != int(columns[1]) or pid == 0:
            raise DataError(f"{where}: identity {columns[1]}, but the folder is {columns[0]}; take the original")
        if not 1 <= camid <= CAMERAS:
            raise DataError(
                f"{where}: {columns[0]}: number {camid}, but a session has 1 to {CAMERAS}; take the original"
            )
        rows.append(_Row(part, columns[0], pid, camid + CAMERAS * (session == "session3"), columns[2]))
    if not rows:
        raise DataError(f"{path}: empty; take the original")
    return rows


def _check_unique(root: Path, rows: Sequence[_Row]) -> None:
    first: dict[str, _Row] = {}
    for row in rows:
        other = first.setdefault(row.place, row)
        if other is not row:
            lists = sorted({f"{other.part}.txt", f"{row.part}.txt"})
            raise DataError(f"{root}: {row.place} is listed twice ({', '.join(lists)}); take the original lists")


def _note_unlisted(walk: Walk, root: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Note folders and loose files that the lists do not name."""
    for folder in walk.folders(root):
        if folder not in SESSIONS:
            walk.skip("", root / folder)
            continue
        for name in walk.folders(root / folder):
            if f"{folder}/{name}" not in names:
                walk.skip("", root / folder / name)


def _numbers(names: Sequence[str]) -> list[int]:
    """Return the numbers of frames by their names; empty if a name is not a number."""
    stems = [name.rpartition(".")[0] for name in names]
    return [int(stem) for stem in stems] if all(map(str.isdecimal, stems)) else []


def _counts(rows: Sequence[_Row], names: Mapping[str, Sequence[str]]) -> dict[str, int]:
    counts = {"frames": sum(map(len, names.values()))}
    for part, title in (("train", "training"), ("query", "query"), ("gallery", "gallery")):
        of_part = [row for row in rows if row.part == part]
        counts[f"{title} identities"] = len({row.pid for row in of_part})
        counts["queries" if part == "query" else f"{title} tracklets"] = len(of_part)
    return counts
