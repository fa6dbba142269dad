"""Any data set in a layout of folders.

    ROOT/<split>/<identity>/<camera>/<tracklet>/*.jpg|png

Splits are `train` and either `test`, or `query` and `gallery`. In `test`, the first tracklet of each identity and
camera is a query, and all tracklets are the gallery. `val` is optional and divided like `test`. A query with a copy in
the gallery (same identity, camera and bytes) is stored once, as both. Identities and cameras are numbers from 1, or
names, which are numbered in sorted order. The identities `distractor` (`0000` in MARS) and `junk` (`-1`, `00-1`) are
not persons. Frames are ordered by the numbers in their names, 2 before 10. Pictures are bmp, jpg (jpeg, jpe, jfif),
png, tif (tiff) and webp; other files are counted and named.

With --unlabelled, tracklets have neither identity nor camera:

    ROOT/<tracklet>/*.jpg|png

Nobody knows who they are, so they are the gallery, as distractors of camera 0, and nothing can be trained or scored.
The key of a tracklet is the name of its folder.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from shards.paths import path
from shards.records import DISTRACTOR_PID, JUNK_PID, DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import UNLABELLED, files_of, natural, numbered, printable, some
from shards.sources.copies import Pictures, are_copies
from shards.sources.walk import Walk

LAYOUT = "<split>/<identity>/<camera>/<tracklet>/*.jpg"
NAMES = {DISTRACTOR_PID: "distractor", JUNK_PID: "junk"}
SPECIAL = {DISTRACTOR_PID: re.compile("distractors?|0000", re.I), JUNK_PID: re.compile("junk|0*-0*1", re.I)}
LAYOUTS = ({"train", "test"}, {"train", "query", "gallery"}, {"test"}, {"query", "gallery"}, {"train"})
TEST = Protocol("test", description="the gallery is all of the test part; same identity and camera is ignored")
VALIDATION = Protocol("validation", description="as test, on the validation part")
UNKNOWN_CAMERA = 0


@dataclass(frozen=True, slots=True)
class _Tracklet:
    """A tracklet: the names of its folder and its parents, and of its pictures."""

    split: str
    identity: str
    camera: str
    tracklet: str
    names: tuple[str, ...]

    def folder(self, root: Path) -> Path:
        return root / self.split / self.identity / self.camera / self.tracklet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build folder`."""
    parser.add_argument(
        "--source", type=path, required=True, metavar="DIR", help="folder of <split>/<identity>/<camera>/<tracklet>"
    )
    parser.add_argument("--name", metavar="NAME", help="name of the data set (default: the folder's name)")
    parser.add_argument(
        "--unlabelled", action="store_true", help="DIR is a folder of <tracklet>, without identities and cameras"
    )
    parser.set_defaults(read=lambda args: (read_unlabelled if args.unlabelled else read)(args.source, name=args.name))


def read(root: Path, *, name: str | None = None) -> Source:
    """Walk the folders; number identities and cameras.

    Raises DataError with folder and way out: an unknown combination of splits, a missing level, no pictures, a broken
    link, names that may mean the same identity, a distractor in `train`.
    """
    walk = Walk(root)
    splits = set(walk.folders(root))
    if splits - {"val"} not in LAYOUTS:
        raise DataError(
            f"{root}: folders {', '.join(sorted(splits)) or 'none'}; expected train and test, or train, query and "
            "gallery, and optionally val"
        )
    result: dict[str, list[_Tracklet]] = {
        split: _walk(walk, root, split) for split in ("train", "query", "gallery", "test", "val") if split in splits
    }
    special, facts_of_special = _special(root, result)
    everything = [tracklet for part in result.values() for tracklet in part]
    persons = sorted({t.identity for t in everything} - set(special), key=natural)
    pids, facts_of_pids = numbered(root, persons, "identities")
    pids |= special
    camids, facts_of_camids = numbered(root, sorted({t.camera for t in everything}, key=natural), "cameras")
    copies, facts_of_copies = _copies(root, result.get("query", []), result.get("gallery", []))
    copied = set(copies.values())
    protocols = (TEST, VALIDATION) if "val" in splits else (TEST,)
    tracklets = []
    for split, part in result.items():
        numbers: dict[tuple[int, int], int] = {}
        for tracklet in part:
            pid, camid = pids[tracklet.identity], camids[tracklet.camera]
            number = numbers[pid, camid] = numbers.get((pid, camid), 0) + 1
            if split == "query" and tracklet in copies:
                continue
            is_query = tracklet in copied if split == "gallery" else number == 1 and pid > 0
            tracklets.append(
                SourceTracklet(
                    key=f"{split}-{NAMES.get(pid, f'{pid:04d}')}C{camid}T{number:04d}",
                    pid=pid,
                    camid=camid,
                    num_frames=len(tracklet.names),
                    roles=tuple(_role(split, pid, is_query) if _takes(p, split) else Role.NONE for p in protocols),
                    frames=bind(files_of, tracklet.folder(root), tracklet.names),
                )
            )
    facts = {**facts_of_pids, **facts_of_camids, **facts_of_special, **facts_of_copies, **walk.facts()}
    return Source(name or root.resolve().name, protocols, tuple(tracklets), facts)


def read_unlabelled(root: Path, *, name: str | None = None) -> Source:
    """Walk the folders of tracklets that have no labels.

    Raises DataError with folder and way out: no folder, one without pictures, or a name that cannot be a key.
    """
    from shards.write import KEY  # not at the top: it imports pyarrow

    walk = Walk(root)
    folders = sorted(walk.folders(root), key=natural)
    if not folders:
        raise DataError(f"{root}: contains no folder; the layout is <tracklet>/*.jpg")
    if odd := [folder for folder in folders if not KEY.fullmatch(folder)]:
        raise DataError(
            f"{root}: {some(list(map(printable, odd)))}: the name of a tracklet has at most 80 letters (a-z), digits, "
            "- and _; rename the folders"
        )
    tracklets = []
    for folder in folders:
        names = tuple(walk.pictures(root / folder))
        tracklets.append(
            SourceTracklet(
                key=folder,
                pid=DISTRACTOR_PID,
                camid=UNKNOWN_CAMERA,
                num_frames=len(names),
                roles=(Role.GALLERY,),
                frames=bind(files_of, root / folder, names),
            )
        )
    facts = {"labels": "none: nobody is identified", **walk.facts()}
    return Source(name or root.resolve().name, (UNLABELLED,), tuple(tracklets), facts)


def _walk(walk: Walk, root: Path, split: str) -> list[_Tracklet]:
    result = []
    empty: dict[str, list[Path]] = {"cameras": [], "tracklets": []}
    for identity in walk.folders(root / split):
        cameras = walk.folders(root / split / identity)
        if not cameras:
            empty["cameras"].append(root / split / identity)
        for camera in cameras:
            tracklets = walk.folders(root / split / identity / camera)
            if not tracklets:
                empty["tracklets"].append(root / split / identity / camera)
            for tracklet in sorted(tracklets, key=natural):
                names = tuple(walk.pictures(root / split / identity / camera / tracklet))
                result.append(_Tracklet(split, identity, camera, tracklet, names))
    missing = [f"{some(folders)}: contains no folders of {level}" for level, folders in empty.items() if folders]
    if not result:
        missing.append(f"{root / split}: no tracklet")
    if missing:
        raise DataError(
            f"{'; '.join(missing)}; the layout is {LAYOUT}; add what is missing, or remove the empty folders"
        )
    return result


def _special(root: Path, result: Mapping[str, Sequence[_Tracklet]]) -> tuple[dict[str, int], dict[str, str]]:
    """Return the identities that are not persons, and a fact about the reading of MARS's names.

    Raises DataError if one of them is in `train` or `query`, or if it is unknown whether an identity 0 is a person.
    """
    special: dict[str, int] = {}
    persons = {t.identity: t for split in ("query", "train") for t in reversed(result.get(split, ()))}
    for name in sorted({t.identity for part in result.values() for t in part}, key=natural):
        pid = next((pid for pid, pattern in SPECIAL.items() if pattern.fullmatch(name)), None)
        if pid is not None:
            special[name] = pid
            if name in persons:
                raise DataError(
                    f"{persons[name].folder(root)}: {name} can be neither trained on nor queried; move it to the "
                    "gallery or test, or rename it if it is a person"
                )
        elif name.isdecimal() and int(name) == 0 and name not in persons:
            raise DataError(
                f"{root}: identity {name}: a person, or MARS's distractors? Rename it to distractor, or number persons "
                "from 1"
            )
    readings = [f"{name} is {NAMES[pid]}" for name, pid in special.items() if name != NAMES[pid]]
    return special, {"distractors and junk": ", ".join(readings)} if readings else {}


def _copies(
    root: Path, query: Sequence[_Tracklet], gallery: Sequence[_Tracklet]
) -> tuple[dict[_Tracklet, _Tracklet], dict[str, str]]:
    """Return the gallery copy of each query that has one (same identity, camera and bytes), and the fact."""
    places: dict[tuple[str, str], list[_Tracklet]] = {}
    for tracklet in gallery:
        places.setdefault((tracklet.identity, tracklet.camera), []).append(tracklet)
    pairs = [(one, other) for one in query for other in places.get((one.identity, one.camera), ())]
    pairs.sort(
        key=lambda pair: pair[0].tracklet != pair[1].tracklet
    )  # of several copies, prefer the one of the same name
    same = are_copies([(Pictures(a.folder(root), a.names), Pictures(b.folder(root), b.names)) for a, b in pairs])
    copies: dict[_Tracklet, _Tracklet] = {}
    taken: set[_Tracklet] = set()
    for (one, other), equal in zip(pairs, same, strict=True):
        if equal and one not in copies and other not in taken:
            copies[one] = other
            taken.add(other)
    differ = sum(one.tracklet == other.tracklet and one not in copies for one, other in pairs)
    facts = []
    if copies:
        facts.append(f"queries with the same bytes in the gallery, stored once: {len(copies):,}")
    if differ:
        facts.append(f"queries with a namesake of other pictures in the gallery, both stored: {differ:,}")
    return copies, {"copies": "; ".join(facts)} if facts else {}


def _takes(protocol: Protocol, split: str) -> bool:
    return split == "train" or (split == "val") == (protocol is VALIDATION)


def _role(split: str, pid: int, is_query: bool) -> Role:
    if split == "train":
        return Role.TRAIN
    if split == "query":
        return Role.QUERY
    if pid == JUNK_PID:
        return Role.GALLERY | Role.JUNK
    return Role.QUERY | Role.GALLERY if is_query else Role.GALLERY
