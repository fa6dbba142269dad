from __future__ import annotations

import io
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.stream import VideoStream
from PIL import Image

import shards
from shards.__main__ import main
from shards.records import DataError
from shards.sources import actions, video
from shards.sources.video import count_frames, decode

HEIGHT, WIDTH = 96, 128
CONTENT = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)


def drawn(number: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray[Any, Any]:
    """A picture full of detail that moves; its red says which it is (from 1)."""
    image = np.asarray(Image.fromarray(np.roll(CONTENT, number, axis=1)).resize(size[::-1])) // 2
    image[: size[0] // 2, : size[1] // 2] = 8 * number % 256, 120, 90
    return image


def write(
    path: Path,
    codec: str,
    options: Mapping[str, str] = MappingProxyType({}),
    *,
    count: int = 24,
    times: Sequence[int] = (),
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> Path:
    """A video of `count` frames, a key frame every eighth, at `times` (in 25ths of a second; default: each)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 25, options={"g": "8", **options})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        stream.bit_rate = 1_500_000
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(drawn(number + 1, size), "rgb24")
            frame.pts, frame.time_base = times[number] if times else number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(path: Path) -> list[int]:
    """Return the numbers of the drawn pictures in order, from 1; 0 for a damaged one."""
    pictures = []
    for place, (number, image) in enumerate(decode(path), start=1):
        assert number == place
        if isinstance(image, DataError):
            assert f"{path}: frame {number}: damaged (" in str(image)
            pictures.append(0)
        else:
            pictures.append(round(float(image[8 : HEIGHT // 2 - 8, 8 : WIDTH // 2 - 8, 0].mean()) / 8))
    return pictures


def pts(packet: Packet[VideoStream]) -> int:
    """When the packet's frame is shown, in the stream's time base."""
    assert packet.pts is not None
    return packet.pts


def remux(path: Path, out: Path, change: Callable[[Packet[VideoStream]], bool], **options: str) -> Path:
    """The packets that `change` returns True for, after it has changed them."""
    with av.open(str(path)) as source, av.open(str(out), "w", options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size and change(packet):
                packet.stream = stream
                container.mux(packet)
    return out


def spoil(path: Path, number: int) -> None:
    """Overwrite the middle of a packet (from 0), as a bad disk would."""
    with av.open(str(path)) as container:
        packet = bytes([packet for packet in container.demux(video=0) if packet.size][number])
    middle = packet[len(packet) // 3 :][:40]
    data = path.read_bytes()
    assert data.count(middle) == 1
    path.write_bytes(data.replace(middle, bytes(len(middle))))


MADE = [
    ("a.mp4", "libx264", {"bf": "2"}),
    ("a.mkv", "libx264", {"bf": "0"}),
    ("a.ts", "libx264", {"bf": "2"}),
    ("a.3gp", "libx264", {}),
    ("a.MTS", "mpeg2video", {"bf": "2"}),
    ("a.m2ts", "libx264", {}),
    ("a.mp4", "libx265", {"x265-params": "log-level=none"}),
    ("a.avi", "mpeg4", {"bf": "2"}),
    ("a.avi", "msmpeg4", {}),
    ("a.avi", "mjpeg", {}),
    ("a.mpg", "mpeg2video", {"bf": "2"}),
    ("a.mpeg", "mpeg1video", {"bf": "2"}),
    ("a.wmv", "wmv2", {}),
    ("a.flv", "flv", {}),
    ("a.webm", "libvpx-vp9", {}),
    ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("a.mov", "prores_ks", {}),
    ("a.mkv", "ffv1", {}),
]


@pytest.mark.parametrize(("name", "codec", "options"), MADE)
def test_healthy_videos_pass(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    """Every codec and container: all frames come, in order, none is called damaged, and as many are counted."""
    if codec == "prores_ks":
        options = {"profile": "0"}
    path = write(tmp_path / name, codec, options) if codec != "prores_ks" else write_prores(tmp_path / name)
    assert name.lower().endswith(video.VIDEOS)
    assert numbers(path) == list(range(1, 25))
    assert count_frames(path) == 24


def write_prores(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("prores_ks", 25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv422p10le"
        for number in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(number + 1), "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {"bf": "0"}),
        ("a.mp4", "mpeg4", {}),
        ("a.avi", "msmpeg4", {}),
        ("a.mpg", "mpeg2video", {"bf": "0"}),
        ("a.flv", "flv", {}),
    ],
)
def test_concealed_damage_is_noticed(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    """A packet overwritten in the middle of a file: its frame and those predicted from it are damaged, up to the next
    key frame; all others are as they were, under their own numbers."""
    path = write(tmp_path / name, codec, options)
    spoil(path, 11)
    pictures = numbers(path)
    assert pictures[:11] == list(range(1, 12))
    assert pictures[11:16] == [0] * 5
    assert pictures[16:] == list(range(17, 25))


def test_damage_spreads_backwards_to_frames_of_type_b(tmp_path: Path) -> None:
    """Frames that are shown before a damaged one and were predicted from it are damaged, too."""
    path = write(tmp_path / "a.mp4", "libx264", {"bf": "2", "x264-params": "b-adapt=0:scenecut=0"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    shown_at = [pts(packet) for packet in packets]
    at = next(
        n for n, packet in enumerate(packets) if n > 8 and not packet.is_keyframe and shown_at[n + 1] < shown_at[n]
    )
    spoil(path, at)
    pictures = numbers(path)
    shown = sorted(shown_at)
    first, last = shown.index(shown_at[at + 1]), shown.index(shown_at[at])
    assert pictures[first : last + 1] == [0] * (last + 1 - first)
    assert pictures[:8] == list(range(1, 9))
    assert pictures[16:] == list(range(17, 25))


def test_damaged_pictures_of_motion_jpeg_are_alone(tmp_path: Path) -> None:
    """If each frame is a picture of its own, only the damaged one is refused, and the others keep their numbers."""
    path = write(tmp_path / "a.avi", "mjpeg")
    spoil(path, 5)
    assert numbers(path) == [*range(1, 6), 0, *range(7, 25)]


def test_checksums_inside_a_video_are_looked_at(tmp_path: Path) -> None:
    """FFV1 may hold checksums; its decoder conceals what fails them, and says so in its log alone."""
    path = write(tmp_path / "a.mkv", "ffv1", {"slicecrc": "1", "level": "3", "g": "1"})
    spoil(path, 11)
    assert numbers(path) == [*range(1, 12), 0, *range(13, 25)]


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    """The frames that are left are read; the count is that of the whole file, which nobody takes for a short video."""
    for name, codec in (("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")):
        path = write(tmp_path / name, codec, count=50)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        pictures = numbers(path)
        assert 10 < len(pictures) < 40
        assert 45 < count_frames(path) < 55


def test_an_open_group_at_the_start_is_healthy(tmp_path: Path) -> None:
    """A recording that begins with frames that refer to ones before it: those are not shown, and not called damaged."""
    whole = write(
        tmp_path / "whole.ts", "libx264", {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0:keyint=8"}
    )
    keys = []

    def after_the_first(packet: Packet[VideoStream]) -> bool:
        keys.append(packet.is_keyframe)
        return sum(keys) > 1

    path = remux(whole, tmp_path / "a.ts", after_the_first)
    pictures = numbers(path)
    assert pictures == list(range(25 - len(pictures), 25))
    assert 10 < len(pictures) < 20
    assert count_frames(path) == len(pictures)


def test_a_start_in_the_middle_of_a_group_is_healthy(tmp_path: Path) -> None:
    """A recording that begins between key frames: players show nothing before the first, and no frame is lost."""
    whole = write(tmp_path / "whole.ts", "libx264", {"bf": "0"})
    left_out = iter([False] * 4)
    path = remux(whole, tmp_path / "a.ts", lambda packet: next(left_out, True))
    assert numbers(path) == list(range(9, 25))
    assert count_frames(path) == 16


def test_frames_at_any_time_are_counted(tmp_path: Path) -> None:
    """A variable frame rate, also where the header of an AVI counts the gaps: each frame is one."""
    times = [number + 3 * (number // 5) for number in range(24)]
    for name in ("a.avi", "a.mp4", "a.mkv"):
        path = write(tmp_path / name, "mpeg4", times=times)
        assert numbers(path) == list(range(1, 25))
        assert count_frames(path) == 24


def test_the_hidden_start_of_a_trimmed_file_is_not_shown(tmp_path: Path) -> None:
    """An edit list: frames before its start are decoded but not shown, as in a player; the file is whole."""
    whole = write(tmp_path / "whole.mp4", "libx264", {"bf": "0"})
    path = trim(whole, tmp_path / "a.mp4", 10)
    assert numbers(path) == list(range(11, 25))
    assert count_frames(path) == 14


def trim(path: Path, out: Path, frames: int) -> Path:
    """Hide frames at the start, as `ffmpeg -ss … -c copy` does: by an edit list."""

    def earlier(packet: Packet[VideoStream]) -> bool:
        start = round(frames / 25 / packet.time_base)
        packet.pts = pts(packet) - start
        assert packet.dts is not None
        packet.dts -= start
        return True

    return remux(path, out, earlier, avoid_negative_ts="disabled")


def matrix(path: Path, *values: float) -> None:
    """Write a display matrix (a, b, c, d) into the track's header."""
    one = 1 << 16
    plain = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    a, b, c, d = (round(value * one) for value in values)
    data = path.read_bytes()
    place = data.rindex(plain)
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + len(plain) :])


@pytest.mark.parametrize(
    ("values", "upright"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    ],
)
def test_display_matrices(tmp_path: Path, values: tuple[int, ...], upright: Callable[[Any], Any]) -> None:
    """All quarter turns and mirrored ones are made as players make them: x' = a x + c y, y' = b x + d y."""
    path = write(tmp_path / "a.mp4", "mpeg4", count=2)
    matrix(path, *values)
    first = next(iter(decode(path)))[1]
    assert not isinstance(first, DataError)
    wanted = upright(drawn(1))
    assert first.shape == wanted.shape
    assert np.abs(first.astype(int) - wanted).mean() < 12


def test_other_angles_are_refused(tmp_path: Path) -> None:
    """A turn by 30° cannot be made without loss: the file and a way out are named."""
    path = write(tmp_path / "a.mp4", "mpeg4", count=2)
    matrix(path, 0.866, 0.5, -0.5, 0.866)
    with pytest.raises(DataError, match=r"a\.mp4: frame 1: its display matrix turns it by 30°, .* encode it upright"):
        list(decode(path))


def test_the_default_stream_is_the_video(tmp_path: Path) -> None:
    """Of two streams the one that the container calls the default; a cover is no video."""
    from av.stream import Disposition

    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", 25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            stream.bit_rate = 1_500_000
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for number in range(10):
            for first, stream in zip((1, 15), streams, strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(first + number), "rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    assert numbers(path) == list(range(15, 25))
    assert count_frames(path) == 10

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        cover, stream = container.add_stream("mjpeg", 25), container.add_stream("mpeg4", 25)
        cover.height, cover.width, cover.pix_fmt, cover.disposition = 300, 400, "yuvj420p", Disposition.attached_pic
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = HEIGHT, WIDTH, "yuv420p", 1_500_000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(drawn(30, (300, 400)), "rgb24")))
        for number in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(number + 1), "rgb24")))
        for each in (cover, stream):
            container.mux(each.encode())
    assert numbers(path) == list(range(1, 11))


def test_another_size_in_the_middle_is_refused(tmp_path: Path) -> None:
    """A stream or folder that changes its size: boxes would be of another picture. The frame is named."""
    first = write(tmp_path / "1.ts", "libx264", count=8)
    second = write(tmp_path / "2.ts", "libx264", count=8, size=(64, 80))
    path = tmp_path / "a.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(DataError, match=r"a\.ts: frame 9: 80 x 64 pixels, but 128 x 96 before"):
        list(decode(path))
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, size in ((1, (20, 10)), (2, (20, 11))):
        Image.new("RGB", size).save(folder / f"{number}.png")
    with pytest.raises(DataError, match=r"folder: frame 2: 20 x 11 pixels, but 20 x 10 before"):
        list(decode(folder))


def test_pictures_of_a_folder_are_upright_and_whole(tmp_path: Path) -> None:
    """EXIF turns a picture, which is counted; a JPEG damaged in its coded pixels comes as the error that names it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in (1, 2):
        Image.fromarray(np.rot90(drawn(number))).save(tmp_path / f"{number}.jpg", quality=95, exif=exif.tobytes())
    counts: Counter[str] = Counter()
    for number, image in decode(tmp_path, counts):
        assert not isinstance(image, DataError)
        assert np.abs(image.astype(int) - drawn(number)).mean() < 12
    assert counts["turned"] == 2
    buffer = io.BytesIO()
    Image.fromarray(drawn(3)).save(buffer, "jpeg", quality=95)
    data = buffer.getvalue()
    (tmp_path / "3.jpg").write_bytes(data[: len(data) // 2] + data[-2:])
    *_, (number, error) = decode(tmp_path)
    assert number == 3
    assert isinstance(error, DataError)
    assert re.search(r"3\.jpg: damaged .*; replace it", str(error))


def test_crops_of_damaged_frames_are_bad_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A build names each box in a damaged frame, and fails; with --bad-frames drop it leaves them out and counts them;
    the others are cut from the right frames."""
    path = write(tmp_path / "a.mp4", "libx264", {"bf": "0"})
    spoil(path, 11)
    tracks = tmp_path / "t.txt"
    tracks.write_text("".join(f"{number},{pid},4,4,40,32,1\n" for number in range(1, 25) for pid in (1, 2)))
    command = ["build", "mot", "--video", str(path), "--tracks", str(tracks), "--crop-size", "32x40", "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    errors = capsys.readouterr().err
    assert f"{tracks}:23: 0001C1T0001: {path}: frame 12: damaged (the decoder had to make up parts of it)" in errors
    assert "10 bad frames; replace them" in errors
    assert main([*command, "--out", str(tmp_path / "out"), "--bad-frames", "drop"]) == 0
    reader = shards.open(tmp_path / "out")
    assert reader.facts["left out"] == "10 bad frames"
    reds = reader.frames(0, range(19))[..., 0].mean((1, 2)) / 8
    np.testing.assert_allclose(reds, [*range(1, 12), *range(17, 25)], atol=0.8)


def test_a_trimmed_clip_is_whole(tmp_path: Path) -> None:
    """A file trimmed without encoding it again is a whole clip of actions: no frame of it is missed."""
    whole = write(tmp_path / "whole.mp4", "libx264", {"bf": "2"})
    for split in ("train", "test"):
        (tmp_path / "tree" / split / "a").mkdir(parents=True)
        trim(whole, tmp_path / "tree" / split / "a" / "1.mp4", 10)
    source = actions.read(tmp_path / "tree")
    assert [tracklet.num_frames for tracklet in source.tracklets] == [14, 14]
    assert all(frame.read() for tracklet in source.tracklets for frame in tracklet.frames())


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\na.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile a.ts\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
    ],
)
def test_a_list_of_other_files_is_no_video(tmp_path: Path, text: str) -> None:
    """FFmpeg would open what a playlist names: files of this machine, and addresses."""
    write(tmp_path / "a.ts", "libx264")
    path = tmp_path / "x.mp4"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"{path}: cannot be decoded"):
        list(decode(path))


def test_a_pipe_is_no_video(tmp_path: Path) -> None:
    """Nor is it waited for; and a name like one of FFmpeg's protocols is a name."""
    os.mkfifo(tmp_path / "x.mp4")
    with pytest.raises(DataError, match="no regular file"):
        list(decode(tmp_path / "x.mp4"))
    assert next(iter(decode(write(tmp_path / "concat:a.mp4", "libx264"))))[0] == 1
