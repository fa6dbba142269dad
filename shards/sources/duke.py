"""DukeMTMC-VideoReID (Wu et al., CVPR 2018), from an existing copy: its authors have withdrawn the data.

    ROOT/{train,query,gallery}/<pid4>/<tracklet4>/<pid4>_C<cam>_F<frame4>_X<frame of the video>.jpg

Old copies lack the underscores. Distractors, which match no query, have D instead of X. Frames may start after F0001.
The gallery contains a copy of each query. Both are stored once, as query and gallery: scores ignore matches of the same
identity on the same camera, so that no query finds itself.
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
class _Tracklet:
    """A folder of a tracklet, and the content of its names."""

    folder: Path
    pid: int
    camid: int
    frames: dict[int, str]  # number: name, sorted by number

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.frames.values())

    @property
    def key(self) -> str:
        return f"{self.pid:04d}C{self.camid}T{int(self.folder.name):04d}"


def read(root: Path, *, partial: bool = False) -> Source:
    """Walk the three folders; check names, counts and copies of queries.

    Raises DataError with folder and way out: a missing folder, an unexpected name, frames of several tracklets in one
    folder, a query that differs from its copy in names or bytes, and, unless `partial`, counts other than the official
    ones.
    """
    walk = Walk(root)
    parts = ("train", "query", "gallery")
    train, query, gallery = (
        {tracklet.folder.parts[-2:]: tracklet for tracklet in _walk(walk, root / part)} for part in parts
    )
    _check_copies([(tracklet, gallery[place]) for place, tracklet in query.items() if place in gallery])
    counts = {
        "training identities": len({tracklet.pid for tracklet in train.values()}),
        "training tracklets": len(train),
        "training frames": sum(len(tracklet.names) for tracklet in train.values()),
        "query identities": len({tracklet.pid for tracklet in query.values()}),
        "queries": len(query),
        "query frames": sum(len(tracklet.names) for tracklet in query.values()),
        "gallery identities": len({tracklet.pid for tracklet in gallery.values()}),
        "gallery tracklets": len(gallery),
        "gallery frames": sum(len(tracklet.names) for tracklet in gallery.values()),
        "cameras": len({tracklet.camid for part in (train, query, gallery) for tracklet in part.values()}),
    }
    note = check_counts(root, "DukeMTMC-VideoReID", counts, OFFICIAL_COUNTS, partial)
    tracklets = [_tracklet(tracklet, Role.TRAIN) for tracklet in train.values()]
    tracklets += [_tracklet(tracklet, Role.QUERY) for place, tracklet in query.items() if place not in gallery]
    tracklets += [
        _tracklet(tracklet, Role.QUERY | Role.GALLERY if place in query else Role.GALLERY)
        for place, tracklet in gallery.items()
    ]
    facts = walk.facts()
    if note:  # a whole data set has the official number of frames, so that its gaps are no loss
        frames = {tracklet.key: list(tracklet.frames) for part in (train, query, gallery) for tracklet in part.values()}
        facts = {"partial": note, **check_gaps(frames), **facts}
    return Source("duke", (OFFICIAL,), tuple(tracklets), facts)


def _check_copies(pairs: Sequence[tuple[_Tracklet, _Tracklet]]) -> None:
    same = are_copies([(Pictures(one.folder, one.names), Pictures(two.folder, two.names)) for one, two in pairs])
    for (query, copy), equal in zip(pairs, same, strict=True):
        if not equal or query.names != copy.names:
            raise DataError(
                f"{query.folder} and {copy.folder} should hold the same frames, but differ; unpack both again"
            )


def _walk(walk: Walk, part: Path) -> Iterator[_Tracklet]:
    empty = []
    for identity in walk.folders(part):
        numbers = walk.folders(part / identity)
        if not numbers:
            empty.append(part / identity)
        for number in numbers:
            folder = part / identity / number
            if not (identity.isdecimal() and number.isdecimal()):
                raise DataError(f"{folder}: not a folder like {part.name}/0005/2200; is this DukeMTMC-VideoReID?")
            frames: dict[int, str] = {}
            labels: set[tuple[int, int]] = set()
            for name in walk.pictures(folder):
                match = NAME.fullmatch(name)
                if match is None:
                    raise DataError(f"{folder / name}: not a name like 0005_C2_F0001_X000123.jpg; remove it")
                labels.add((int(match[1]), int(match[2])))
                if frames.setdefault(int(match[3]), name) != name:
                    raise DataError(f"{folder / name}: frame {int(match[3])} is {frames[int(match[3])]}; remove one")
            if len(labels) != 1 or min(labels)[0] != int(identity):
                raise DataError(f"{folder}: its names are of (identity, camera) {sorted(labels)}; unpack it again")
            pid, camid = labels.pop()
            yield _Tracklet(folder, pid, camid, {frame: frames[frame] for frame in sorted(frames)})
    if empty:
        raise DataError(f"{some(empty)}: contains no folders of tracklets; unpack it again, or remove the folder")


def _tracklet(tracklet: _Tracklet, role: Role) -> SourceTracklet:
    return SourceTracklet(
        key=tracklet.key,
        pid=tracklet.pid,
        camid=tracklet.camid,
        num_frames=len(tracklet.names),
        roles=(role,),
        frames=bind(files_of, tracklet.folder, tracklet.names),
    )
