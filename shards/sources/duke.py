"""DukeMTMC-VideoReID (Wu et al., CVPR 2018), from a copy you have: its authors have withdrawn the data.

    ROOT/{train,query,gallery}/<pid4>/<tracklet4>/<pid4>_C<cam>_F<frame4>_X<frame of the video>.jpg

Old copies lack the underscores; distractors, whom nobody asks for, have D for X. Frames need not start at F0001. Each
query lies in the gallery once more: it is stored once, as query and gallery, and the rule that ignores the same
identity on the same camera keeps it from finding itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from shards.records import DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import check_counts, check_gaps, files_of, some
from shards.sources.copies import Pictures, are_copies
from shards.sources.walk import Walk

NAME = re.compile(r"(\d{4})_?C(\d)_?F(\d{4,})_?[XD](\d+)\.jpg")
OFFICIAL = Protocol("official", description="queries stand in the gallery; same identity and camera is ignored")
OFFICIAL_COUNTS = {
    "training identities": 702,
    "training tracklets": 2_196,
    "training frames": 369_656,
    "query identities": 702,
    "queries": 702,
    "query frames": 111_848,
    "gallery identities": 1_110,
    "gallery tracklets": 2_636,
    "gallery frames": 445_764,
    "cameras": 8,
}


@dataclass(frozen=True, slots=True)
class _Found:
    """A tracklet's folder, and what the names in it say."""

    folder: Path
    pid: int
    camid: int
    frames: dict[int, str]  # name of each number, rising

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.frames.values())

    @property
    def key(self) -> str:
        return f"{self.pid:04d}C{self.camid}T{int(self.folder.name):04d}"


def read(root: Path, *, partial: bool = False) -> Source:
    """Walk the three folders and check names, counts and the queries' copies.

    Raises DataError with folder and way out: a folder missing, a name of another form, frames of several tracklets in
    one folder, a query whose names or bytes differ from its copy's, counts that are not the official ones (unless
    `partial`).
    """
    walk = Walk(root)
    parts = ("train", "query", "gallery")
    train, query, gallery = ({_place(result): result for result in _walk(walk, root / part)} for part in parts)
    _check_copies([(result, gallery[place]) for place, result in query.items() if place in gallery])
    counts = {
        "training identities": len({result.pid for result in train.values()}),
        "training tracklets": len(train),
        "training frames": sum(len(result.names) for result in train.values()),
        "query identities": len({result.pid for result in query.values()}),
        "queries": len(query),
        "query frames": sum(len(result.names) for result in query.values()),
        "gallery identities": len({result.pid for result in gallery.values()}),
        "gallery tracklets": len(gallery),
        "gallery frames": sum(len(result.names) for result in gallery.values()),
        "cameras": len({result.camid for part in (train, query, gallery) for result in part.values()}),
    }
    note = check_counts(root, "DukeMTMC-VideoReID", counts, OFFICIAL_COUNTS, partial)
    tracklets = [_tracklet(result, Role.TRAIN) for result in train.values()]
    tracklets += [_tracklet(result, Role.QUERY) for place, result in query.items() if place not in gallery]
    tracklets += [
        _tracklet(result, Role.QUERY | Role.GALLERY if place in query else Role.GALLERY)
        for place, result in gallery.items()
    ]
    facts = walk.facts()
    if note:  # the whole data set has the official number of frames, so no gap in it is a loss
        frames = {result.key: list(result.frames) for part in (train, query, gallery) for result in part.values()}
        facts = {"partial": note, **check_gaps(frames), **facts}
    return Source("duke", (OFFICIAL,), tuple(tracklets), facts)


def _check_copies(pairs: Sequence[tuple[_Found, _Found]]) -> None:
    same = are_copies([(Pictures(one.folder, one.names), Pictures(two.folder, two.names)) for one, two in pairs])
    for (query, copy), equal in zip(pairs, same, strict=True):
        if not equal or query.names != copy.names:
            raise DataError(
                f"{query.folder} and {copy.folder} should hold the same frames and do not; unpack both again"
            )


def _place(result: _Found) -> tuple[str, str]:
    return result.folder.parent.name, result.folder.name


def _walk(walk: Walk, part: Path) -> Iterator[_Found]:
    empty = []
    for identity in walk.folders(part):
        numbers = walk.folders(part / identity)
        if not numbers:
            empty.append(part / identity)
        for number in numbers:
            folder = part / identity / number
            if not (identity.isdecimal() and number.isdecimal()):
                raise DataError(f"{folder}: no folder like {part.name}/0005/2200; is this DukeMTMC-VideoReID?")
            frames: dict[int, str] = {}
            said: set[tuple[int, int]] = set()
            for name in walk.pictures(folder):
                match = NAME.fullmatch(name)
                if match is None:
                    raise DataError(f"{folder / name}: no name like 0005_C2_F0001_X000123.jpg; remove it")
                said.add((int(match[1]), int(match[2])))
                if frames.setdefault(int(match[3]), name) != name:
                    raise DataError(f"{folder / name}: frame {int(match[3])} is {frames[int(match[3])]}; remove one")
            if len(said) != 1 or min(said)[0] != int(identity):
                raise DataError(f"{folder}: its names are of (identity, camera) {sorted(said)}; unpack it again")
            pid, camid = said.pop()
            yield _Found(folder, pid, camid, {frame: frames[frame] for frame in sorted(frames)})
    if empty:
        raise DataError(f"{some(empty)}: no folders of tracklets in it; unpack it again, or remove the folder")


def _tracklet(result: _Found, role: Role) -> SourceTracklet:
    return SourceTracklet(
        key=result.key,
        pid=result.pid,
        camid=result.camid,
        num_frames=len(result.names),
        roles=(role,),
        frames=bind(files_of, result.folder, result.names),
    )
