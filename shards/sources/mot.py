"""Your own video: one file or folder of pictures a camera, and its tracks.

    frame (from 1), id (from 1), left, top, width, height [, confidence, ...]     a row a box, in pixels

Tracks are rows in that order (MOT), or a CSV whose first line names its columns (x, y, w, h will do, too). In a folder
a picture is the frame that its name says where all names are numbers (000001.jpg), else pictures count from 1 in order.
The same id in two files is the same person. Each video is decoded once, in order; the crops go to a temporary file
from which the writer takes them. One camera alone can be halved: each identity's own track, in time, so that every
identity is seen by both halves (halving the video would leave few on both sides).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from shards.paths import path
from shards.records import DataError, Frame, Protocol, Role, Source, SourceTracklet, UsageError
from shards.sources.options import positive_int, size_HW
from shards.sources.video import QUALITY, decode

MIN_SIDE = 4  # pixels; a box that the picture's edge leaves thinner than this shows nobody
MAX_VALUE = 1e9  # of a number in a row; beyond it is damage
COLUMNS = (("frame",), ("id",), ("left", "x"), ("top", "y"), ("width", "w"), ("height", "h"), ("confidence", "conf"))
PROTOCOL = Protocol("cross-camera", description="a query for each identity and camera; all test tracklets are searched")


@dataclass(frozen=True, slots=True)
class Box:
    """A row of a tracks file; `line` is where it stands there."""

    line: int
    frame: int
    pid: int
    left: float
    top: float
    width: float
    height: float

    def inside(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Rows and columns (top, bottom, left, right) of the box within a picture of that size."""
        top, bottom = (min(max(round(y), 0), height) for y in (self.top, self.top + self.height))
        left, right = (min(max(round(x), 0), width) for x in (self.left, self.left + self.width))
        return top, bottom, left, right


@dataclass(frozen=True, slots=True)
class Crop:
    """Where an encoded crop lies in the temporary file, and what it shows."""

    pid: int
    name: str
    offset: int
    size: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build mot`."""
    ids = "ids, as 3,5,8, that test; all others train (default: every second id)"
    parser.add_argument(
        "--video",
        type=path,
        required=True,
        action="append",
        metavar="PATH",
        help="video or folder of pictures, one for each camera",
    )
    parser.add_argument(
        "--tracks", type=path, required=True, action="append", metavar="FILE", help="one for each video"
    )
    parser.add_argument("--halve-tracks", action="store_true", help="one video: halves of each track are two cameras")
    parser.add_argument(
        "--max-frames", type=positive_int, default=32, metavar="N", help="longest tracklet (default: 32)"
    )
    parser.add_argument("--test-identities", type=identities, metavar="IDS", help=ids)
    parser.add_argument("--crop-size", type=size_HW, default=(256, 128), metavar="HxW", help="default: 256x128")
    parser.set_defaults(
        read=lambda args: read(
            args.video,
            args.tracks,
            args.scratch,
            halve_tracks=args.halve_tracks,
            max_frames=args.max_frames,
            test_identities=args.test_identities,
            crop_size=args.crop_size,
        )
    )


def identities(text: str) -> list[int]:
    """Ids with commas between; the name is what argparse shows where they are none."""
    return [int(part) for part in text.split(",")]


def read(
    videos: Sequence[Path],
    tracks: Sequence[Path],
    scratch: Path,
    *,
    halve_tracks: bool = False,
    max_frames: int = 32,
    test_identities: Sequence[int] | None = None,
    crop_size: tuple[int, int] = (256, 128),
) -> Source:
    """Decode the videos and cut out the tracks; crops are JPEGs of `crop_size` (H, W) in a file under `scratch`.

    Raises UsageError on options that do not fit each other, DataError (with file and line) on a video that cannot be
    decoded, a malformed row, or tracks that go on after their video has ended.
    """
    if len(videos) != len(tracks):
        raise UsageError(f"{len(videos)} --video and {len(tracks)} --tracks; give one tracks file for each video")
    if halve_tracks and len(videos) != 1:
        raise UsageError(f"--halve-tracks makes two cameras of one video, and {len(videos)} are given; leave it out")
    boxes = [parse_tracks(path) for path in tracks]
    pids = sorted({box.pid for rows in boxes for box in rows})
    test = set(pids[1::2] if test_identities is None else test_identities)
    if unknown := test.difference(pids):
        raise UsageError(f"--test-identities {sorted(unknown)}: not in the tracks, which have {pids}")

    scratch.mkdir(parents=True, exist_ok=True)
    store = scratch / "crops"
    with store.open("wb") as file:
        cut = [
            _cut(video, path, rows, crop_size, file) for video, path, rows in zip(videos, tracks, boxes, strict=True)
        ]
    cameras = [_by_identity(crops) for crops in cut]
    if halve_tracks:
        cameras = _halve(cameras[0])
    facts = {
        "test identities": ", ".join(map(str, sorted(test))),
        "boxes": f"{sum(map(len, boxes))}, {sum(map(len, boxes)) - sum(map(len, cut))} dropped "
        f"(thinner than {MIN_SIDE} pixels in the picture)",
    }
    if halve_tracks:
        facts["cameras"] = "one physical camera; C1 and C2 are the halves of each identity's track in time"
    return Source("mot", (PROTOCOL,), tuple(_tracklets(cameras, max_frames, test, store)), facts)


def parse_tracks(path: Path) -> list[Box]:
    """Read a tracks file; rows of confidence 0, which MOT marks as not to be used, are left out."""
    boxes: list[Box] = []
    seen: dict[tuple[int, int], int] = {}
    if not path.is_file():
        raise DataError(f"{path}: no such file; give --tracks a file of rows frame,id,left,top,width,height")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    places, start = _columns(path, lines[0]) if lines else (list(range(7)), 0)
    for line, text in enumerate(lines[start:], start=start + 1):
        if not text.strip():
            continue
        parts = text.split(",")
        try:
            values = [float(parts[place]) for place in places if place < len(parts)]
        except ValueError as error:
            raise DataError(
                f"{path}:{line}: {text.strip()!r}: {error}; rows are numbers with commas between"
            ) from error
        if len(values) < 6 or not all(abs(value) < MAX_VALUE for value in values):  # nor is any of them nan
            raise DataError(f"{path}:{line}: {text.strip()!r}: frame,id,left,top,width,height are needed")
        if len(values) > 6 and values[6] == 0:
            continue
        frame, pid, left, top, width, height = values[:6]
        if frame < 1 or frame % 1 or pid < 1 or pid % 1:
            raise DataError(f"{path}:{line}: frame {frame:g}, id {pid:g}: both count from 1; renumber them")
        if width <= 0 or height <= 0:
            raise DataError(f"{path}:{line}: a box of {width:g} x {height:g} pixels; correct or remove the row")
        first = seen.setdefault((int(frame), int(pid)), line)
        if first != line:
            raise DataError(
                f"{path}:{line}: id {pid:g} has a box in frame {frame:g} already (line {first}); remove one"
            )
        boxes.append(Box(line, int(frame), int(pid), left, top, width, height))
    if not boxes:
        raise DataError(f"{path}: not one box; give --tracks a file of rows frame,id,left,top,width,height")
    return boxes


def _columns(path: Path, first: str) -> tuple[list[int], int]:
    """Where frame, id, left, top, width, height and confidence stand in a row, and the first row's line, from 0."""
    names = [name.strip().strip('"').lower() for name in first.split(",")]
    if not set(names) & {name for column in COLUMNS for name in column}:
        return list(range(7)), 0
    places = []
    for column in COLUMNS:
        found = [names.index(name) for name in column if name in names]
        if found:
            places.append(found[0])
        elif column is not COLUMNS[-1]:
            raise DataError(f"{path}:1: {first.strip()!r}: no column {' or '.join(column)}")
    return places, 1


def _cut(video: Path, tracks: Path, boxes: Sequence[Box], size: tuple[int, int], store: BinaryIO) -> list[Crop]:
    """Append the crops of one video to `store`, in the order of time."""
    from shards import pictures

    of_frame: dict[int, list[Box]] = {}
    for box in boxes:
        of_frame.setdefault(box.frame, []).append(box)
    crops: list[Crop] = []
    number = 0
    for number, image_HW3 in decode(video):
        for box in of_frame.pop(number, ()):
            top, bottom, left, right = box.inside(*image_HW3.shape[:2])
            if min(bottom - top, right - left) >= MIN_SIDE:
                data = pictures.encode(pictures.resize(image_HW3[None, top:bottom, left:right], size)[0], QUALITY)
                crops.append(Crop(box.pid, f"{tracks}:{box.line}", store.tell(), len(data)))
                store.write(data)
        if not of_frame:
            return crops
    box = min((box for rows in of_frame.values() for box in rows), key=lambda box: box.line)
    raise DataError(
        f"{tracks}:{box.line}: frame {box.frame}, but {video} has no such frame (its last is {number}); do they belong "
        "together?"
    )


def _by_identity(crops: Sequence[Crop]) -> dict[int, list[Crop]]:
    tracks: dict[int, list[Crop]] = {}
    for crop in crops:
        tracks.setdefault(crop.pid, []).append(crop)
    return tracks


def _halve(tracks: Mapping[int, list[Crop]]) -> list[dict[int, list[Crop]]]:
    return [
        {pid: track[: len(track) // 2] for pid, track in tracks.items() if len(track) > 1},
        {pid: track[len(track) // 2 :] for pid, track in tracks.items()},
    ]


def _tracklets(
    cameras: Sequence[Mapping[int, list[Crop]]], max_frames: int, test: set[int], store: Path
) -> Iterator[SourceTracklet]:
    """Cut each track, in time, into the fewest tracklets of about equal length: none is a leftover of one frame."""
    for camid, tracks in enumerate(cameras, start=1):
        for pid, track in sorted(tracks.items()):
            pieces = -(-len(track) // max_frames)
            bounds = [len(track) * piece // pieces for piece in range(pieces + 1)]
            for number, (start, stop) in enumerate(pairwise(bounds), start=1):
                role = Role.TRAIN
                if pid in test:
                    role = Role.QUERY | Role.GALLERY if number == 1 else Role.GALLERY
                yield SourceTracklet(
                    key=f"{pid:04d}C{camid}T{number:04d}",
                    pid=pid,
                    camid=camid,
                    num_frames=stop - start,
                    roles=(role,),
                    frames=bind(_frames, store, track[start:stop]),
                )


def _frames(store: Path, crops: Sequence[Crop]) -> Iterator[Frame]:
    with store.open("rb") as file:
        for crop in crops:
            file.seek(crop.offset)
            yield Frame(crop.name, bind(bytes, file.read(crop.size)))
