"""Video files and folders of pictures as frames, for the sources that begin with a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from shards.records import DataError, Frame
from shards.sources.common import pictures_of

VIDEOS = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
QUALITY = 95  # of what is cut out of a video, before a build's own --size


def decode(video: Path) -> Iterator[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]]:
    """The frames of a video or folder, counted from 1, uint8 RGB of shape H,W,3, upright as a player shows them.

    Pictures of a folder come in the order of `pictures_of`.

    Raises DataError where it cannot be decoded, or not to its end.
    """
    if video.is_dir():
        yield from _decode_folder(video)
        return
    import av

    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise DataError(f"{video}: no video in it")
            for number, frame in enumerate(container.decode(video=0), start=1):
                image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                yield number, np.rot90(image, frame.rotation // 90) if frame.rotation else image
    except av.FFmpegError as error:
        raise DataError(f"{video}: cannot be decoded ({error.strerror}); a whole video file is needed") from error


def _decode_folder(folder: Path) -> Iterator[tuple[int, np.ndarray[Any, np.dtype[np.uint8]]]]:
    from shards import pictures

    for number, name in enumerate(pictures_of(folder), start=1):
        data = (folder / name).read_bytes()
        try:
            pictures.check(data)
            yield number, pictures.decode(data)
        except ValueError as error:
            raise DataError(f"{folder / name}: {error}; replace it") from error


def count_frames(video: Path) -> int:
    """Frames that a video file says it has, in its header or else by its packets; none is decoded.

    0 where it cannot be opened, or holds no video.
    """
    import av

    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                return 0
            return container.streams.video[0].frames or sum(packet.size > 0 for packet in container.demux(video=0))
    except av.FFmpegError:
        return 0


def frames_of_video(video: Path, numbers: Sequence[int]) -> Iterator[Frame]:
    """JPEGs of the frames of a video file that have these numbers, from 1 and rising.

    A frame that does not come is one whose `read` raises ValueError: a build lists it, or drops it, as any bad picture.
    """
    from shards import pictures

    waiting = list(numbers)
    reason = "the video ends before it"
    try:
        for number, image_HW3 in decode(video):
            if number == waiting[0]:
                waiting.pop(0)
                yield Frame(f"{video}: frame {number}", bind(bytes, pictures.encode(image_HW3, QUALITY)))
                if not waiting:
                    return
    except DataError as error:
        reason = str(error).removeprefix(f"{video}: ")
    for number in waiting:
        yield Frame(f"{video}: frame {number}", bind(_missing, reason))


def _missing(reason: str) -> bytes:
    raise ValueError(reason)
