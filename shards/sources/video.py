"""Decode video files and folders of pictures.

Frames are those that a player shows, upright, counted from 1. Frames that an edit list hides are skipped, and so are
first frames whose reference frames are not in the file.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.guarded import open_regular, read_regular
from shards.records import BAD_FRAME, DataError, Frame
from shards.sources.common import pictures_of

if TYPE_CHECKING:  # functions import av when they open a video, so that `--help` stays fast
    import av
    from av.container import InputContainer

VIDEOS = (
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".flv", ".m2t", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpe"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv"),
)
# FFmpeg's names of these formats, and of raw streams.
FORMATS = "asf,avi,flv,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,ogg,obu,yuv4mpegpipe"
QUALITY = 95  # of JPEGs of frames and crops, before --size re-encodes them
# Decoders that mark frames with concealed damage. All other decoders are set to fail on damage. These would also fail
# at the start of healthy files whose first frames refer to earlier ones.
MARKING = ("flv1", "h263", "h264", "mpeg1video", "mpeg2video", "mpeg4")
LOGGING = ("ffv1",)  # decoders that report wrong checksums only in their log
TYPE_B = 3  # FFmpeg's number of B-frames, which are also predicted from later frames
MAX_GROUP = 16  # largest number of consecutive B-frames
CUT_SECONDS, CUT_SHARE = 0.25, 0.02  # plus two frames: how much shorter than its header a whole file may be

Uint8Array = np.ndarray[Any, np.dtype[np.uint8]]


def decode(video: Path, counts: Counter[str] | None = None) -> Iterator[tuple[int, Uint8Array | DataError]]:
    """Yield the numbered frames of a video or folder, from 1: uint8 RGB of shape H,W,3, upright as a player shows them.

    Pictures of a folder come in the order of `pictures_of`.

    Damaged frames, and frames predicted from them, are DataErrors. `counts["turned"]` counts the pictures that were
    turned by their EXIF orientation.

    Raises DataError if the video cannot be decoded to its end, or changes its size.
    """
    size: tuple[int, ...] = ()
    for number, image_HW3 in _decode_folder(video, counts) if video.is_dir() else _decode_file(video):
        if not isinstance(image_HW3, DataError):
            size = size or image_HW3.shape
            if image_HW3.shape != size:
                raise DataError(
                    f"{video}: frame {number}: {image_HW3.shape[1]} x {image_HW3.shape[0]} pixels, but "
                    f"{size[1]} x {size[0]} before; split the video there, or bring it to one size"
                )
        yield number, image_HW3


def _decode_folder(folder: Path, counts: Counter[str] | None) -> Iterator[tuple[int, Uint8Array | DataError]]:
    from shards import images

    for number, name in enumerate(pictures_of(folder), start=1):
        try:
            data = read_regular(folder / name)
            kind = images.check(data)
            image_HW3 = images.decode(data)
        except DataError as error:  # a pipe counts as a damaged picture
            yield number, error
            continue
        except BAD_FRAME as error:
            reason = error.strerror if isinstance(error, OSError) else error
            yield number, DataError(f"{folder / name}: {reason}; replace it")
            continue
        if counts is not None:
            counts["turned"] += kind.orientation != 1
        yield number, image_HW3


def _open(video: Path) -> InputContainer:
    """Open a video file. Formats that refer to other files or addresses (HLS, concat, SDP) are refused."""
    import av

    with suppress(OSError):  # of a missing file, which FFmpeg reports
        os.close(open_regular(video))
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    return av.open(f"file:{video}", container_options=options)


def _decode_file(video: Path) -> Iterator[tuple[int, Uint8Array | DataError]]:
    """Yield the frames of a video file, as `decode` does."""
    import av

    number = 0
    try:
        with _open(video) as container:
            for frame, fault in _shown(container, _stream(video, container)):
                number += 1
                if fault:
                    yield number, DataError(f"{video}: frame {number}: damaged ({fault}); take the original")
                else:
                    yield number, _upright(video, number, frame)
    except av.FFmpegError as error:
        where = f" past frame {number}" if number else ""
        raise DataError(
            f"{video}: cannot be decoded{where} ({error.strerror}); a whole video file is needed"
        ) from error
    if not number:
        raise DataError(f"{video}: cannot be decoded (no frame); a whole video file is needed")


def _shown(container: InputContainer, stream: av.VideoStream) -> Iterator[tuple[Any, str]]:
    """Yield the frames in display order, each with the reason for its damage ("" if intact).

    Damage spreads by prediction: to the B-frames shown before a damaged frame, and to all frames after it up to the
    next key frame. Lost frames are None, so that later frames keep their numbers.
    """
    import av

    fault, since, lost = "", -1, 0  # present damage, time of the last damaged frame, number of lost frames
    keys: set[int | None] = set()  # times of key frames in the container: decoders of damaged AV1 report others
    joins = (
        container.format.name == "mpegts"
    )  # its demuxer reports joined recordings as corrupt; the decoder detects loss
    clock = _Clock(stream)

    def judged(group: list[Any]) -> Iterator[tuple[Any, str]]:
        nonlocal fault, since, lost
        corrupt = [frame for frame in group if frame.is_corrupt]
        last = group[-1]
        is_key = last.key_frame and keys & {last.pts, None} and (last.pts is None or last.pts > since)
        if fault and is_key and not corrupt:
            yield from ((clock.show(frame, fault), fault) for frame in group[:-1])
            yield from ((clock.show(None, fault), fault) for _ in range(clock.missed(last, lost)))
            fault, lost, group = "", 0, [last]
        if corrupt:
            fault, since = "the decoder had to make up parts of it", corrupt[-1].pts or since
        yield from ((clock.show(frame, fault), fault) for frame in group)

    group: list[Any] = []  # B-frames, and the frame that is shown after them
    for packet in container.demux(stream):
        frames: list[Any] = []
        if packet.is_keyframe:
            keys.add(packet.pts)
        try:
            with _messages(stream) as messages:
                frames = packet.decode()
            if messages:
                fault, since = messages[0][2].strip(), packet.pts or since
        except av.FFmpegError as error:
            if keys:  # before the first key frame, nothing is shown
                lost += packet.size > 0 and not packet.is_discard
                fault, since = str(error.strerror), packet.pts or since
        if packet.is_corrupt and not joins:
            fault, since = "some of its bytes are missing", packet.pts or since
        for frame in frames:
            group.append(frame)
            if frame.pict_type != TYPE_B or len(group) == MAX_GROUP:
                yield from judged(group)
                group = []
    if group:
        yield from judged(group)
    yield from ((None, fault) for _ in range(lost))


@contextmanager
def _messages(stream: av.VideoStream) -> Iterator[list[tuple[int, str, str]]]:
    """Collect the log of a decoder in LOGGING; yield an empty list for all others."""
    import av.logging

    if stream.codec_context.name not in LOGGING:
        yield []
        return
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)


class _Clock:
    """Counts the frames lost to damage, by the times of a video with a constant frame rate."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._rate, self._start, self._shown = stream.average_rate, None, 0

    def show(self, frame: Any, fault: str) -> Any:
        """Count a frame; return it."""
        if not fault:
            self._start = frame.time if self._start is None else self._start
            if self._position(frame) != self._shown:
                self._rate = None
        self._shown += 1
        return frame

    def missed(self, frame: Any, lost: int) -> int:
        """Return the number of frames missing before this one; `lost` if the time is unknown."""
        position = self._position(frame)
        return lost if position is None else max(0, position - self._shown)

    def _position(self, frame: Any) -> int | None:
        if frame.time is None or self._start is None or not self._rate:
            return None
        return round((frame.time - self._start) * self._rate)


def _stream(video: Path, container: InputContainer) -> av.VideoStream:
    """Return the video stream that players choose, with a strict decoder; a cover is refused."""
    from av.stream import Disposition

    stream: Any = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise DataError(f"{video}: contains no video")
    context = stream.codec_context
    context.thread_count = 1  # with several, FFmpeg's decoders neither mark nor report most of what they conceal
    marks = context.codec.name in MARKING
    context.options = {"err_detect": "crccheck+bitstream+buffer" + ("" if marks else "+explode")}
    return stream


def _upright(video: Path, number: int, frame: Any) -> Uint8Array:
    """Return a frame's pixels, turned and mirrored by its display matrix."""
    from shards import images

    image_HW3 = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    matrix = next((data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return image_HW3
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()  # x' = a x + c y, y' = b x + d y
    if max(abs(b), abs(c)) * 100 <= min(abs(a), abs(d)):
        return images.turn(image_HW3, transpose=False, flip_rows=d < 0, flip_columns=a < 0)
    if max(abs(a), abs(d)) * 100 <= min(abs(b), abs(c)):
        return images.turn(image_HW3, transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    raise DataError(
        f"{video}: frame {number}: its display matrix turns it by {np.degrees(np.arctan2(b, a)):.0f}°, but only "
        "quarter turns are supported; encode it upright, as `ffmpeg -i IN OUT.mp4` does"
    )


def frame_size(video: Path) -> tuple[int, int]:
    """Return height and width of a video file's frames, from its header, without decoding.

    Raises DataError if the file is not a video.
    """
    import av

    try:
        with _open(video) as container:
            stream = _stream(video, container)
            return stream.height, stream.width
    except av.FFmpegError as error:
        raise DataError(f"{video}: cannot be decoded ({error.strerror}); a whole video file is needed") from error


def count_frames(video: Path) -> int:
    """Count the frames of a video file by its packets, without decoding. 0 if it cannot be opened or has no video.

    A truncated file has the count of the whole file, so that a build reports the missing frames.
    """
    import av

    count, end = 0, 0.0
    has_key, first = False, None  # frames before the first key frame are not shown
    try:
        with _open(video) as container:
            stream = _stream(video, container)
            rate = stream.average_rate
            promised = (container.duration or 0) / av.time_base
            if container.format.name == "avi" and rate:  # FFmpeg derives an AVI's duration from the file
                promised = max(promised, float(stream.frames / rate))
            start = (container.start_time or 0) / av.time_base
            for packet in container.demux():
                time = packet.dts if packet.pts is None else packet.pts
                if time is not None:
                    end = max(end, float((time + (packet.duration or 0)) * packet.time_base) - start)
                if packet.stream_index != stream.index or not packet.size:
                    continue
                if packet.is_keyframe and not has_key:
                    has_key, first, count = True, time, 0
                if packet.is_discard:
                    continue
                is_led = first is not None and time is not None and time < first
                count += not is_led and not _is_hidden(stream, packet)
    except (av.FFmpegError, DataError):
        return count
    if 0 < end < promised * (1 - CUT_SHARE) - CUT_SECONDS - 2 / (rate or 1):
        return round(count * promised / end)
    return count


def _is_hidden(stream: av.VideoStream, packet: av.Packet[Any]) -> bool:
    """Return whether a packet has no visible frame: a bit in the first byte of VP8's reference frames."""
    return stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] & 0x10


def frames_of_video(video: Path, numbers: Sequence[int]) -> Iterator[Frame]:
    """Yield JPEGs of the frames of a video file with these rising numbers, from 1.

    The `read` of a missing or damaged frame raises ValueError, so that a build lists or drops it like a bad picture.
    """
    from shards import images

    waiting = list(numbers)
    reason = "the video ends before it"
    try:
        for number, image_HW3 in decode(video):
            if number == waiting[0]:
                waiting.pop(0)
                name = f"{video}: frame {number}"
                if isinstance(image_HW3, DataError):
                    yield Frame(name, bind(bad_frame, str(image_HW3).removeprefix(f"{name}: ")))
                else:
                    yield Frame(name, bind(bytes, images.encode(image_HW3, QUALITY)))
                if not waiting:
                    return
    except DataError as error:
        reason = str(error).removeprefix(f"{video}: ")
    for number in waiting:
        yield Frame(f"{video}: frame {number}", bind(bad_frame, reason))


def bad_frame(reason: str) -> bytes:
    """Raise ValueError: the `read` of a missing or damaged frame."""
    raise ValueError(reason)
