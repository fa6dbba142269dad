"""Uploads of the search page: pictures, or a video with tracks, made to a data set of one tracklet.

The data set is built as `python -m shards build folder --unlabelled` and `build mot` build theirs, by the same guarded
readers, so that its features are those that `launch/embed.py` would write. Files get names of this module; the names of
the uploads only order the pictures and stand in messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mstat.errors import UserError
from shards import images
from shards.read import Reader
from shards.records import DISTRACTOR_PID, DataError, Frame, Role, Source, SourceTracklet
from shards.sources.common import UNLABELLED, natural, some
from shards.sources.crops import Camera, Crop
from shards.sources.folder import read_unlabelled
from shards.sources.tracks import listed, read_tracks
from shards.sources.video import bad_frame, count_frames, frame_size
from shards.write import building, write

MAX_BYTES = 256 << 20  # of a whole upload
MAX_PICTURES = 500  # pictures of a tracklet, and boxes of a track
MAX_FRAMES = 20_000  # of a video, 11 minutes at 30 frames/s
MAX_TRACKS_BYTES = 32 << 20
CROP_SIZE = (256, 128)  # height and width, as `build mot` cuts crops
NAME = "upload"  # key of the tracklet


class Sent(NamedTuple):
    """A file of an upload: its name, as the browser sent it, and its content."""

    name: str
    file: BinaryIO


def pictures_set(pictures: Sequence[Sent], folder: Path) -> Reader:
    """Build a data set of one tracklet from pictures; their names give its order, 2 before 10.

    Args:
        folder: Empty folder for all files.

    Raises:
        UserError: If there are no pictures, too many, or one that is too large or not a picture.
    """
    if not pictures:
        raise UserError("no picture was chosen: choose the pictures of one person")
    if len(pictures) > MAX_PICTURES:
        raise UserError(f"{len(pictures):,} pictures, more than {MAX_PICTURES}: choose fewer")
    tracklet = folder / "pictures" / NAME
    tracklet.mkdir(parents=True)
    for number, sent in enumerate(sorted(pictures, key=lambda sent: natural(sent.name)), start=1):
        data = sent.file.read(images.max_bytes() + 1)
        if len(data) > images.max_bytes():
            raise UserError(f"{sent.name}: larger than {images.max_bytes():,} bytes: send smaller pictures")
        try:
            extension = images.check(data).extension
            images.check_pixels(data)
        except (ValueError, MemoryError) as error:
            raise UserError(f"{sent.name}: not a picture that can be used: {error}") from None
        (tracklet / f"{number:06d}.{extension}").write_bytes(data)
    return _built(read_unlabelled(folder / "pictures", name=NAME), folder)


def video_set(video: Sent, tracks: Sent, pid: int | None, folder: Path) -> Reader:
    """Build a data set of one tracklet from the boxes of an id in a video.

    Args:
        video: A video file.
        tracks: Its tracks, in any layout of `build mot`.
        pid: Id in the tracks; None if they have a single one.
        folder: Empty folder for all files.

    Raises:
        UserError: If a file is missing, too large or damaged, if tracks and video do not match, or if the id is not
            in the tracks.
    """
    if not (video.name and tracks.name):
        raise UserError("a video and its tracks file are needed: choose both")
    (folder / "sent").mkdir()  # `read_tracks` also looks beside the tracks and one folder up
    paths = folder / "sent" / "video", folder / "sent" / "tracks.txt"
    for path, sent, most in zip(paths, (video, tracks), (MAX_BYTES, MAX_TRACKS_BYTES), strict=True):
        _save(sent, path, most)
    try:
        height, width = frame_size(paths[0])
        if height * width > images.max_pixels():
            raise UserError(f"{video.name}: {width}x{height} pixels, more than {images.max_pixels():,}")
        if (length := count_frames(paths[0])) > MAX_FRAMES:
            raise UserError(f"{video.name}: {length:,} frames, more than {MAX_FRAMES:,}: cut the part with the person")
        crops = _cut(*paths, pid, folder / "crops")
    except DataError as error:
        message = str(error)
        for path, sent in zip(paths, (video, tracks), strict=True):
            message = message.replace(str(path), sent.name)
        raise UserError(message) from None
    frames = [
        Frame(NAME, partial(bad_frame, crop.fault) if crop.fault else partial(_piece, folder / "crops", crop))
        for crop in crops
    ]
    tracklet = SourceTracklet(
        key=NAME,
        pid=DISTRACTOR_PID,
        camid=0,
        num_frames=len(frames),
        roles=(Role.GALLERY,),
        frames=partial(iter, frames),
    )
    return _built(Source(NAME, (UNLABELLED,), (tracklet,)), folder)


def _save(sent: Sent, path: Path, most: int) -> None:
    size = 0
    with path.open("wb") as file:
        while data := sent.file.read(1 << 20):
            size += len(data)
            if size > most:
                raise UserError(f"{sent.name}: larger than {most:,} bytes")
            file.write(data)


def _cut(video: Path, tracks: Path, pid: int | None, store: Path) -> list[Crop]:
    """Cut the boxes of an id out of a video; the crops are in the file `store`."""
    content = read_tracks(tracks)
    if content.faults:
        raise DataError("; ".join(listed(content.faults)))
    known = sorted(content.pids)
    if pid is None and len(known) == 1:
        pid = known[0]
    if pid not in known:
        reason = "no id was given" if pid is None else f"id {pid} is not in the tracks"
        raise UserError(f"{reason}: the tracks have {some(known, 20)}")
    content.boxes = [box for box in content.boxes if box.pid == pid]
    content.pids = {pid}
    if len(content.boxes) > MAX_PICTURES:
        raise UserError(f"id {pid} has {len(content.boxes):,} boxes, more than {MAX_PICTURES}: leave some rows out")
    camera = Camera(video, content)
    with store.open("wb") as file:
        camera.cut(CROP_SIZE, file, drop=False)
    if not camera.crops:
        raise UserError(f"no box of id {pid} lies in the pictures of the video")
    return camera.crops


def _piece(store: Path, crop: Crop) -> bytes:
    with store.open("rb") as file:
        file.seek(crop.offset)
        return file.read(crop.size)


def _built(source: Source, folder: Path) -> Reader:
    try:
        with building(folder / "shards") as out:
            write(source, out, workers=1)
    except DataError as error:
        raise UserError(str(error).replace(f"{folder}/", "")) from None
    return Reader(folder / "shards")
