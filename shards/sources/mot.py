"""Videos with tracks: for each camera a video file or folder of pictures, and a tracks file.

A tracks file has one row per box, in pixels of the video:

    frame, id, left, top, width, height [, confidence [, class [, visibility]]]    MOT16, MOT17, MOT20, CVAT (MOT 1.1)
    frame, id, left, top, width, height, confidence, x, y, z                       MOT15, DeepSORT, ByteTrack, ...
    frame, id, left, top, width, height, score, category, truncation, occlusion    VisDrone

or columns in any order under a first line of names: frame, id, and left, top, width, height (bb_left, x, w, ...), or
corners (xmin, ymin, xmax, ymax; x1, y1, x2, y2), or centres (cx, cy, width, height); confidence, class, visibility.
Commas, semicolons, tabs or spaces separate the columns. Any other file is refused.

Frames and ids count from 1. The same id in two files is the same person. The following rows are left out and counted:
confidence 0 (in MOT: ignore), classes other than people (people are 1 in MOT, 1 and 2 in VisDrone, or named by
labels.txt of CVAT or --classes), and boxes of which nothing is visible (--min-visibility).

In a folder, the name of a picture gives its frame: the number that varies in names of one pattern (000001.jpg,
cam_1_frame_0003.jpg). Pictures with other names are refused, or counted from --first-frame.

A seqinfo.ini beside the tracks, or one folder up, must match the video's size and number of frames. --tracks-size
scales boxes that were drawn on another size. A build that loses more boxes or identities at the picture's edges than
--max-dropped is refused.

Each video is decoded once, in order; the crops are stored in a temporary file until they are written. --halve-tracks
makes two cameras of one: it halves the track of each identity in time, so that both halves see every identity. Halving
the video would leave few identities in both halves.

With --unlabelled, the ids are those of a tracker, which names nobody: the same id in two files may be two persons. All
tracklets are the gallery, as distractors, and nothing can be trained or scored. The id stays in the key.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial as bind
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from shards.paths import path
from shards.records import DISTRACTOR_PID, DataError, Frame, Protocol, Role, Source, SourceTracklet, UsageError
from shards.sources.common import UNLABELLED, some
from shards.sources.crops import DROP, Camera, Crop, missing_frames
from shards.sources.options import natural_number, percent, positive_int, share, size_HW, size_WH
from shards.sources.tracks import MIN_VISIBILITY, Tracks, listed, read_tracks, reasons
from shards.sources.video import bad_frame
from shards.text import printable_lines

MAX_DROPPED = 5.0  # per cent of a camera's boxes, or of its identities
MAX_SHOWN = 20  # identities in a fact or a message
T = TypeVar("T")
PROTOCOL = Protocol("cross-camera", description="a query for each identity and camera; all test tracklets are searched")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build mot`."""
    add = parser.add_argument
    add(
        "--video",
        type=path,
        required=True,
        action="append",
        metavar="PATH",
        help="video or folder of pictures, one per camera",
    )
    add("--tracks", type=path, required=True, action="append", metavar="FILE", help="tracks file, one per video")
    add("--halve-tracks", action="store_true", help="with one video: make two cameras of the halves of each track")
    add("--unlabelled", action="store_true", help="ids are those of a tracker, not of persons: nobody is identified")
    add("--max-frames", type=positive_int, default=32, metavar="N", help="longest tracklet (default: 32)")
    ids = "ids of the test part, such as 3,5,8; all others train (default: every second id)"
    add("--test-identities", type=identities, metavar="IDS", help=ids)
    add("--crop-size", type=size_HW, default=(256, 128), metavar="HxW", help="size of the crops (default: 256x128)")
    add(
        "--first-frame",
        type=natural_number,
        action="append",
        metavar="N",
        help="number of the first frame or picture in the tracks; one for all videos, or one each",
    )
    add(
        "--tracks-size",
        type=size_WH,
        action="append",
        metavar="WxH",
        help="size of the pictures in which the tracks were made, width first; scales the boxes; one for all, or each",
    )
    add("--classes", type=class_names, metavar="NAMES", help="classes of people, such as 1,2,7 or person,rider")
    visible = f"smallest visibility of a box, 0 to 1 (default: {MIN_VISIBILITY} if the tracks have it)"
    add("--min-visibility", type=share, metavar="V", help=visible)
    limit = f"largest share of boxes or identities lost at the pictures' edges (default: {MAX_DROPPED:g}%%)"
    add("--max-dropped", type=percent, default=MAX_DROPPED, metavar="P%", help=limit)
    parser.set_defaults(
        read=lambda args: read(
            args.video,
            args.tracks,
            args.scratch,
            halve_tracks=args.halve_tracks,
            unlabelled=args.unlabelled,
            max_frames=args.max_frames,
            test_identities=args.test_identities,
            crop_size=args.crop_size,
            first_frame=args.first_frame or (),
            tracks_size=args.tracks_size or (),
            classes=args.classes,
            min_visibility=args.min_visibility,
            max_dropped=args.max_dropped,
            drop=args.bad_frames == "drop",
        )
    )


def identities(text: str) -> list[int]:
    """Parse ids, separated by commas; argparse shows the name of this function in its errors."""
    return [int(part) for part in text.split(",")]


def class_names(text: str) -> frozenset[str]:
    """Parse classes (numbers or names), separated by commas."""
    return frozenset(part.strip().lower() for part in text.split(","))


def read(
    videos: Sequence[Path],
    tracks: Sequence[Path],
    scratch: Path,
    *,
    halve_tracks: bool = False,
    unlabelled: bool = False,
    max_frames: int = 32,
    test_identities: Sequence[int] | None = None,
    crop_size: tuple[int, int] = (256, 128),
    first_frame: Sequence[int] = (),
    tracks_size: Sequence[tuple[int, int]] = (),
    classes: frozenset[str] | None = None,
    min_visibility: float | None = None,
    max_dropped: float = MAX_DROPPED,
    drop: bool = False,
) -> Source:
    """Decode the videos and cut out the boxes; crops are JPEGs of `crop_size` (H, W) in a file under `scratch`.

    Args:
        unlabelled: The ids are no identities: all tracklets are distractors in the gallery.
        first_frame: Number of the first frame in the tracks; none, one for all videos, or one each.
        tracks_size: Width and height of the pictures in which the tracks were made; none, one for all videos, or one
            each.
        classes: Numbers or names of the classes of people; None takes those of the layout.
        min_visibility: Boxes of a lower visibility are left out.
        max_dropped: Largest percentage of a camera's boxes or identities lost at the pictures' edges.
        drop: Leave out malformed rows, and boxes of missing frames, instead of failing.

    Raises UsageError on contradictory options; DataError (with file and line) on a video that cannot be decoded, on
    tracks that do not match it, and on malformed rows, listing all of them.
    """
    if len(videos) != len(tracks):
        raise UsageError(f"{len(videos)} --video and {len(tracks)} --tracks; give one tracks file for each video")
    if halve_tracks and len(videos) != 1:
        raise UsageError(f"--halve-tracks makes two cameras of one video, but {len(videos)} are given; omit it")
    if unlabelled and (halve_tracks or test_identities is not None):
        raise UsageError("--unlabelled has no identities: omit --halve-tracks and --test-identities")
    first_frames = _for_each("--first-frame", first_frame, len(videos))
    sizes = _for_each("--tracks-size", tracks_size, len(videos))
    cameras = [
        Camera(video, _read(path, video, first, classes, min_visibility), first, size)
        for video, path, first, size in zip(videos, tracks, first_frames, sizes, strict=True)
    ]
    if not drop:
        _check_rows(cameras)
    known = sorted({box.pid for camera in cameras for box in camera.tracks.boxes})
    if unknown := set(test_identities or ()).difference(known):
        raise UsageError(f"--test-identities {sorted(unknown)}: not in the tracks, which have {known}")

    scratch.mkdir(parents=True, exist_ok=True)
    store = scratch / "crops"
    with store.open("wb") as file:
        for camera in cameras:
            camera.cut(crop_size, file, drop=drop)
    for camera in cameras:
        _check_dropped(camera, max_dropped)
    pids = sorted({crop.pid for camera in cameras for crop in camera.crops})
    test = set(pids[1::2] if test_identities is None else test_identities)
    by_identity = [_by_identity(camera.crops) for camera in cameras]
    if halve_tracks:
        by_identity = _halve(by_identity[0])
    tracklets = tuple(_tracklets(by_identity, max_frames, test, store))
    facts = _facts(cameras, test, halve_tracks)
    if unlabelled:
        del facts["test identities"]
        tracklets = tuple(replace(one, pid=DISTRACTOR_PID, roles=(Role.GALLERY,)) for one in tracklets)
        return Source("mot", (UNLABELLED,), tracklets, {"labels": "none: nobody is identified", **facts})
    return Source("mot", (PROTOCOL,), tracklets, facts)


def _for_each(option: str, values: Sequence[T], count: int) -> Sequence[T | None]:
    if len(values) not in (0, 1, count):
        raise UsageError(f"{len(values)} {option} for {count} --video; give one for all, or one for each")
    return [None] * count if not values else values if len(values) == count else list(values) * count


def _read(
    path: Path, video: Path, first_frame: int | None, classes: frozenset[str] | None, min_visibility: float | None
) -> Tracks:
    lowest = first_frame if first_frame is not None else 0 if video.is_dir() else 1  # names of pictures may begin at 0
    return read_tracks(path, classes=classes, min_visibility=min_visibility, first_frame=lowest)


def _check_rows(cameras: Sequence[Camera]) -> None:
    """Raise DataError that lists the bad rows of all files."""
    faults = [fault for camera in cameras for fault in camera.tracks.faults]
    if not faults:
        return
    for camera in cameras:
        if frames := camera.frames():
            missing = {box.frame for box in camera.tracks.boxes} - set(frames)
            faults += missing_frames(camera, missing, max(frames))
    raise DataError(printable_lines([*listed(faults), f"{len(faults):,} bad rows; correct them, or {DROP}"]))


def _check_dropped(camera: Camera, max_dropped: float) -> None:
    """Raise DataError if too many boxes or identities lie outside the pictures."""
    boxes = camera.in_frames
    identities = {box.pid for box in boxes}
    gone = sorted(identities - {crop.pid for crop in camera.crops})
    if boxes and max(camera.lost / len(boxes), len(gone) / len(identities)) > max_dropped / 100:
        raise DataError(
            f"{camera.tracks.path}: {camera.lost:,} of {len(boxes):,} boxes lie, by half or more, outside the "
            f"pictures of {camera.video}, and {len(gone)} of {len(identities)} identities are gone{_named(gone)}: were "
            "the tracks made at another size? Give the video of the tracks, or their size as --tracks-size "
            f"WIDTHxHEIGHT, or accept the loss with --max-dropped (now {max_dropped:g}%)"
        )


def _facts(cameras: Sequence[Camera], test: set[int], halved: bool) -> dict[str, str]:
    """Return the facts that `info` shows."""
    num_rows = sum(camera.tracks.num_rows for camera in cameras)
    num_crops = sum(len(camera.crops) for camera in cameras)
    outside = sum(camera.mostly_outside for camera in cameras)
    facts = {
        "test identities": ", ".join(map(str, sorted(test))) or "none",
        "boxes": f"{num_crops:,} of {num_rows:,} rows"
        + (f", {outside:,} of them half or more outside" if outside else ""),
    }
    if turned := sum(camera.counts["turned"] for camera in cameras):
        facts["turned"] = f"{turned:,} pictures, upright as their EXIF orientation says"
    if unread := {name: None for camera in cameras for name in camera.tracks.unread}:
        facts["columns"] = f"not used: {', '.join(unread)}"
    for camera in cameras:
        for name, fact in camera.skipped.items():
            facts[name] = "; ".join(filter(None, (facts.get(name), fact)))
    if halved:
        facts["cameras"] = "one physical camera; C1 and C2 are the halves of each identity's track in time"
    dropped: Counter[str] = sum((camera.dropped for camera in cameras), Counter())
    if dropped:
        facts["dropped"] = f"{num_rows - num_crops:,} of {num_rows:,} boxes: {reasons(dropped)}"
        if unused := sum(len(camera.tracks.unused) for camera in cameras):
            facts["dropped"] += f"; ids of such rows alone: {unused:,}"
    gone = [f"{camera.tracks.path}{_named(camera.vanished)}" for camera in cameras if camera.vanished]
    if gone:
        facts["vanished"] = f"identities of which no box is left: {'; '.join(gone)}"
    if warnings := [warning for camera in cameras for warning in camera.warnings]:
        facts["doubtful"] = "; ".join(warnings)
    return facts


def _named(pids: Sequence[int]) -> str:
    return f" ({some(pids, MAX_SHOWN)})" if pids else ""


def _by_identity(crops: Sequence[Crop]) -> dict[int, list[Crop]]:
    tracks: dict[int, list[Crop]] = {}
    for crop in sorted(crops, key=lambda crop: crop.frame):  # pictures may come in another order
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
    """Divide each track in time into as few tracklets as possible, of nearly equal length."""
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
            data = file.read(crop.size)
            yield Frame(crop.name, bind(bad_frame, crop.fault) if crop.fault else bind(bytes, data))
