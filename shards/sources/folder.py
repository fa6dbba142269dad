"""Any data set laid out as folders, for all that has no source of its own.

    ROOT/<split>/<identity>/<camera>/<tracklet>/*.jpg|png

Splits are `train` and either `test`, where the first tracklet of each identity and camera is a query and all are the
gallery, or `query` and `gallery`; `val` may stand beside them, divided as `test` is. A query that lies in the gallery
under the same identity, camera and tracklet is stored once, as both. Identities and cameras are numbers from 1, or
names, which get numbers in their order; the identities `distractor` and `junk` are special. Frames go by the numbers
in their names, 2 before 10.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from shards.paths import path
from shards.records import DISTRACTOR_PID, JUNK_PID, DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import files_of, natural, numbered, pictures_of, subfolders

SPECIAL = {"distractor": DISTRACTOR_PID, "junk": JUNK_PID}
LAYOUTS = ({"train", "test"}, {"train", "query", "gallery"}, {"test"}, {"query", "gallery"}, {"train"})
TEST = Protocol("test", description="the gallery is all of the test part; same identity and camera is ignored")
VALIDATION = Protocol("validation", description="as test, on the validation part")


@dataclass(frozen=True, slots=True)
class _Found:
    """A tracklet's folder by its names on the way there."""

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
    parser.add_argument("--name", metavar="NAME", help="of the data set (default: that of the folder)")
    parser.set_defaults(read=lambda args: read(args.source, name=args.name))


def read(root: Path, *, name: str | None = None) -> Source:
    """Walk the folders and number identities and cameras.

    Raises DataError with folder and way out: splits that make no layout, a level missing, no pictures, a query that
    differs from its copy in the gallery.
    """
    splits = set(subfolders(root))
    if splits - {"val"} not in LAYOUTS:
        raise DataError(
            f"{root}: folders {', '.join(sorted(splits)) or 'none'}; train and test belong here, or train, query and "
            "gallery; val besides"
        )
    found = {split: _walk(root, split) for split in ("train", "query", "gallery", "test", "val") if split in splits}
    for wrong in (t for split in ("train", "query") for t in found.get(split, ()) if t.identity in SPECIAL):
        raise DataError(
            f"{wrong.folder(root)}: {wrong.identity} neither trains nor asks; move it to the gallery or test"
        )
    everything = [tracklet for part in found.values() for tracklet in part]
    pids, told_pids = numbered(sorted({t.identity for t in everything} - set(SPECIAL), key=natural), "identities")
    camids, told_camids = numbered(sorted({t.camera for t in everything}, key=natural), "cameras")
    both = _both(root, found.get("query", []), found.get("gallery", []))
    protocols = (TEST, VALIDATION) if "val" in splits else (TEST,)
    tracklets = []
    for split, part in found.items():
        numbers: dict[tuple[str, str], int] = {}
        for tracklet in part:
            track = tracklet.identity, tracklet.camera, tracklet.tracklet
            number = numbers[track[:2]] = numbers.get(track[:2], 0) + 1
            if split == "query" and track in both:
                continue
            pid = {**pids, **SPECIAL}[tracklet.identity]
            camid = camids[tracklet.camera]
            is_query = track in both if split == "gallery" else number == 1 and pid > 0
            tracklets.append(
                SourceTracklet(
                    key=f"{split}-{tracklet.identity if pid <= 0 else f'{pid:04d}'}C{camid}T{number:04d}",
                    pid=pid,
                    camid=camid,
                    num_frames=len(tracklet.names),
                    roles=tuple(_role(split, pid, is_query) if _takes(p, split) else Role.NONE for p in protocols),
                    frames=bind(files_of, tracklet.folder(root), tracklet.names),
                )
            )
    return Source(name or root.resolve().name, protocols, tuple(tracklets), {**told_pids, **told_camids})


def _walk(root: Path, split: str) -> list[_Found]:
    found = []
    for identity in subfolders(root / split):
        for camera in subfolders(root / split / identity):
            tracklets = subfolders(root / split / identity / camera)
            if not tracklets:
                raise DataError(
                    f"{root / split / identity / camera}: no folders of tracklets in it; the layout is "
                    "<split>/<identity>/<camera>/<tracklet>/*.jpg"
                )
            for tracklet in sorted(tracklets, key=natural):
                names = tuple(pictures_of(root / split / identity / camera / tracklet))
                found.append(_Found(split, identity, camera, tracklet, names))
    if not found:
        raise DataError(f"{root / split}: not one tracklet; the layout is <split>/<identity>/<camera>/<tracklet>/*.jpg")
    return found


def _both(root: Path, query: Sequence[_Found], gallery: Sequence[_Found]) -> set[tuple[str, str, str]]:
    """Tracklets that are query and gallery."""
    copies = {(t.identity, t.camera, t.tracklet): t for t in gallery}
    both = set()
    for tracklet in query:
        track = tracklet.identity, tracklet.camera, tracklet.tracklet
        if copy := copies.get(track):
            if copy.names != tracklet.names:
                raise DataError(
                    f"{tracklet.folder(root)} and {copy.folder(root)} have one name and other pictures; rename one"
                )
            both.add(track)
    return both


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
