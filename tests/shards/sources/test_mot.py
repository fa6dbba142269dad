from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import shards
from shards import images
from shards.records import DataError, Role, Source, UsageError
from shards.sources import mot
from shards.sources.video import decode
from shards.write import building, write
from tests.shards.trees import shared_data

HEIGHT, WIDTH, LENGTH = 96, 128, 20


def colour(frame: int) -> tuple[int, int, int]:
    """The left half of a made-up video's frame (from 1): redder with time. Its right half is blue."""
    return 40 + 10 * frame, 60, 20


def make_video(path: Path, length: int = LENGTH) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for number in range(1, length + 1):
            image = np.full((HEIGHT, WIDTH, 3), (20, 40, 220), np.uint8)
            image[:, : WIDTH // 2] = colour(number)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number - 1, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make_tracks(path: Path, ids: tuple[int, ...] = (1, 2, 3), frames: int = LENGTH) -> Path:
    rows = [f"{frame},{pid},10,20,30,60,1,-1,-1,-1\n" for frame in range(1, frames + 1) for pid in ids]
    path.write_text("".join(rows))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4")


def crops(source: Source, key: str) -> list[np.ndarray]:
    tracklet = next(t for t in source.tracklets if t.key == key)
    return [images.decode(frame.read()) for frame in tracklet.frames()]


def test_tracklets_are_runs_in_time_with_the_right_colours(video: Path, tmp_path: Path) -> None:
    """Crops are RGB, of the box's place and frame; a tracklet is a run of consecutive frames, never every n-th."""
    source = mot.read([video], [make_tracks(tmp_path / "t.txt")], tmp_path / "s", max_frames=8, crop_size=(64, 32))
    reds: list[float] = []
    for key in ("0001C1T0001", "0001C1T0002", "0001C1T0003"):
        for image in crops(source, key):
            assert image.shape == (64, 32, 3)
            red, green, blue = image.reshape(-1, 3).mean(0)
            assert abs(green - 60) < 12
            assert abs(blue - 20) < 12
            reds.append(red)
    assert len(reds) == LENGTH
    np.testing.assert_allclose(reds, [colour(frame)[0] for frame in range(1, LENGTH + 1)], atol=6)


def test_pairs_are_cameras_and_share_identities(video: Path, tmp_path: Path) -> None:
    """The n-th pair is camera n; identities go by their id in all of them; a query for each identity and camera."""
    first, second = make_tracks(tmp_path / "1.txt"), make_tracks(tmp_path / "2.txt", (2, 3, 7), 12)
    source = mot.read([video, video], [first, second], tmp_path / "s", max_frames=10, test_identities=[2, 7])
    assert [p.name for p in source.protocols] == ["cross-camera"]
    assert {(t.pid, t.camid) for t in source.tracklets} == {(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (7, 2)}
    test = [t for t in source.tracklets if t.pid in (2, 7)]
    assert all(t.roles == (Role.TRAIN,) for t in source.tracklets if t not in test)
    assert all(Role.GALLERY in t.roles[0] for t in test)
    assert [t.key for t in test if Role.QUERY in t.roles[0]] == ["0002C1T0001", "0002C2T0001", "0007C2T0001"]
    assert source.facts["test identities"] == "2, 7"


def test_halved_tracks_are_two_cameras(video: Path, tmp_path: Path) -> None:
    """With --halve-tracks the first half of each identity's own track is camera 1, the second camera 2."""
    tracks = make_tracks(tmp_path / "t.txt", (1, 2), 16)
    tracks.write_text(tracks.read_text() + "".join(f"{f},3,70,20,30,60,1,-1,-1,-1\n" for f in range(13, 21)))
    source = mot.read([video], [tracks], tmp_path / "s", halve_tracks=True)
    assert {t.key: t.num_frames for t in source.tracklets} == {
        f"000{pid}C{camid}T0001": frames for camid in (1, 2) for pid, frames in ((1, 8), (2, 8), (3, 4))
    }
    assert crops(source, "0001C1T0001")[-1].mean(axis=(0, 1))[0] < crops(source, "0001C2T0001")[0].mean(axis=(0, 1))[0]
    assert source.facts["test identities"] == "2"


def test_boxes_are_clipped_and_thin_ones_dropped(video: Path, tmp_path: Path) -> None:
    """Boxes over the edge are clipped to the picture, those left thinner than 4 pixels dropped and counted; rows of
    confidence 0 are not used."""
    tracks = tmp_path / "t.txt"
    tracks.write_text(
        "1,1,-20,-10,40,60,1\n2,1,-20,10,23,40,1\n3,1,200,10,30,40,1\n4,1,100,50,60,200,1\n5,1,9,9,20,40,0\n"
    )
    source = mot.read([video], [tracks], tmp_path / "s", test_identities=[], max_dropped=100)
    assert [t.num_frames for t in source.tracklets] == [2]
    assert source.facts["boxes"] == "2 of 5 rows, 2 of them half or more outside"
    assert source.facts["dropped"] == (
        "3 of 5 boxes: 1 of confidence 0, 1 thinner than 4 pixels in it, 1 outside the picture"
    )
    left, right = crops(source, "0001C1T0001")
    assert left.mean(axis=(0, 1))[2] < 60
    assert right.mean(axis=(0, 1))[2] > 180


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,1,a,2,3,4", "t.txt:2: .*could not convert"),
        ("1,1,2,3", "t.txt:2: .*are needed"),
        ("0,1,2,3,4,5", "t.txt:2: frame 0, id 1: frames count from 1; give --first-frame 0"),
        ("2,0,2,3,4,5", "t.txt:2: id 0: ids count from 1; add 1 to all ids"),
        ("1,-1,2,3,4,5", "t.txt:2: frame 1, id -1"),
        ("-3,1,2,3,4,5", "t.txt:2: frame -3"),
        ("1.5,1,2,3,4,5", "t.txt:2: frame 1.5"),
        ("2,2,2,3,0,5", "t.txt:2: a box of 0 x 5 pixels"),
        ("2,2,nan,3,4,5", "t.txt:2: "),
        ("2,2,1e308,3,1e308,5", "t.txt:2: "),
        ("2,1e25,2,3,4,5", "t.txt:2: "),
        ("2,1_0,2,3,4,5", "t.txt:2: could not convert '1_0'"),
        ("2,1,2,3,4,5,6", "t.txt:2: 7 columns, but the others have 6"),
        ("1,9,2,3,4,5", r"t.txt:2: id 9 has a box in frame 1 already \(line 1\)"),
        ("21,9,2,3,40,50", "t.txt:2: frame 21, but .*a.mp4 has no such frame .its last is 20"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(video: Path, tmp_path: Path, row: str, message: str) -> None:
    """A malformed row, or one after the video's end, is named by its place."""
    tracks = tmp_path / "t.txt"
    tracks.write_text(f"1,9,2,3,40,50\n{row}\n")
    with pytest.raises(DataError, match=message):
        mot.read([video], [tracks], tmp_path / "s")


def test_videos_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    """A file that is no video, or is missing, is named."""
    tracks = make_tracks(tmp_path / "t.txt")
    for name, content in (("text.avi", b"no video" * 99), ("gone.avi", None)):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be decoded"):
            mot.read([tmp_path / name], [tracks], tmp_path / "s")


def test_a_video_taken_upright_is_turned(tmp_path: Path) -> None:
    """A phone's video, stored lying with a note to turn it clockwise, is decoded as players show it."""
    data = bytearray(make_video(tmp_path / "a.mp4", 2).read_bytes())
    matrix = data.index(b"tkhd") + 44
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    _, image = next(decode(tmp_path / "turned.mp4"))
    assert not isinstance(image, DataError)
    assert image.shape == (WIDTH, HEIGHT, 3)
    assert image[: WIDTH // 2 - 8].mean((0, 1))[2] < 60 < 180 < image[WIDTH // 2 + 8 :].mean((0, 1))[2]


@pytest.mark.parametrize("names", ["{:06d}.png", "{}.png", "shot {}.png"])
def test_a_folder_of_pictures_is_a_video(names: str, tmp_path: Path) -> None:
    """Pictures are frames in the order of their numbers, 2 before 10, in whatever order the disk lists them."""
    folder = tmp_path / "camera"
    folder.mkdir()
    for number in np.random.default_rng(0).permutation(LENGTH) + 1:
        image = np.full((HEIGHT, WIDTH, 3), colour(number), np.uint8)
        Image.fromarray(image).save(folder / names.format(number))
    (folder / "notes.txt").write_text("no picture")
    source = mot.read([folder], [make_tracks(tmp_path / "t.txt", (1, 2))], tmp_path / "s", crop_size=(64, 32))
    reds = [image[..., 0].mean() for image in crops(source, "0001C1T0001")]
    np.testing.assert_allclose(reds, [colour(frame)[0] for frame in range(1, LENGTH + 1)], atol=2)


def test_pictures_with_numbers_are_the_frames_that_these_say(tmp_path: Path) -> None:
    """Of a folder with gaps, box 7 belongs to 000007.png; a box of a frame that is not there is named by its line."""
    folder = tmp_path / "camera"
    folder.mkdir()
    for number in (3, 7, 20):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), colour(number), np.uint8)).save(folder / f"{number:06d}.png")
    tracks = tmp_path / "t.txt"
    tracks.write_text("7,1,10,20,30,60\n20,1,10,20,30,60\n")
    source = mot.read([folder], [tracks], tmp_path / "s")
    reds = [image[..., 0].mean() for image in crops(source, "0001C1T0001")]
    np.testing.assert_allclose(reds, [colour(7)[0], colour(20)[0]], atol=2)
    tracks.write_text("7,1,10,20,30,60\n8,1,10,20,30,60\n")
    with pytest.raises(DataError, match=r"t.txt:2: frame 8, but .*camera has no such frame"):
        mot.read([folder], [tracks], tmp_path / "s")


def test_options_must_fit_each_other(video: Path, tmp_path: Path) -> None:
    """Unequal numbers of videos and tracks, halving of two videos, and unknown identities are refused."""
    tracks = make_tracks(tmp_path / "t.txt")
    with pytest.raises(ValueError, match="2 --video and 1 --tracks"):
        mot.read([video, video], [tracks], tmp_path / "s")
    with pytest.raises(ValueError, match="--halve-tracks"):
        mot.read([video, video], [tracks, tracks], tmp_path / "s", halve_tracks=True)
    with pytest.raises(ValueError, match=r"\[5\]: not in the tracks, which have \[1, 2, 3\]"):
        mot.read([video], [tracks], tmp_path / "s", test_identities=[1, 5])


@pytest.mark.slow
def test_real_pedestrians(tmp_path: Path) -> None:
    """The real video, halved: 19 identities on both sides, and crops that are the boxes of an independent decode."""
    real = shared_data("pets2009")
    out = tmp_path / "out"
    with building(out) as folder:
        source = mot.read([real / "vtest.avi"], [real / "gt.txt"], folder / "scratch", halve_tracks=True)
        write(source, folder)
    reader = shards.open(out)
    assert (len(reader), reader.num_frames.sum(), reader.num_frames.max()) == (166, 4_650, 32)
    assert all(set(reader.camids[reader.pids == pid]) == {1, 2} for pid in range(1, 20))

    rows = [line.split(",") for line in (real / "gt.txt").read_text().splitlines()]
    track = sorted((int(row[0]), *map(float, row[2:6])) for row in rows if row[1] == "5")
    order = [i for i in range(len(reader)) if reader.pids[i] == 5]
    stored = np.concatenate([reader.frames(i, range(reader.num_frames[i])) for i in order])
    assert len(stored) == len(track)
    wanted = {frame: number for number, (frame, *_) in enumerate(track) if number % 10 == 0}
    with av.open(str(real / "vtest.avi")) as container:
        for number, picture in enumerate(container.decode(video=0), start=1):
            if number in wanted:
                _, left, top, width, height = track[wanted[number]]
                box = (round(left), round(top), round(left + width), round(top + height))
                image = picture.to_image()
                edges = (0, 0, image.width, image.height)
                clipped = [max(edges[0], box[0]), max(0, box[1]), min(image.width, box[2]), min(image.height, box[3])]
                crop = np.asarray(image.crop(tuple(clipped)).resize((128, 256), Image.Resampling.BILINEAR))
                difference = np.abs(crop.astype(int) - stored[wanted[number]].astype(int)).mean()
                assert difference < 3, (number, difference)


def test_tracks_of_a_tracker_name_nobody(video: Path, tmp_path: Path) -> None:
    """With unlabelled, all tracklets are distractors of their camera in the gallery, with the same pictures and keys;
    options on identities contradict it."""
    tracks = make_tracks(tmp_path / "t.txt")
    labelled = mot.read([video] * 2, [tracks] * 2, tmp_path / "labelled", max_frames=8)
    source = mot.read([video] * 2, [tracks] * 2, tmp_path / "s", max_frames=8, unlabelled=True)
    assert [t.key for t in source.tracklets] == [t.key for t in labelled.tracklets]
    assert {(t.pid, t.camid, t.roles) for t in source.tracklets} == {(0, 1, (Role.GALLERY,)), (0, 2, (Role.GALLERY,))}
    assert np.array_equal(crops(source, "0002C1T0001"), crops(labelled, "0002C1T0001"))
    assert [protocol.name for protocol in source.protocols] == ["unlabelled"]
    assert source.facts["labels"] == "none: nobody is identified"
    assert "test identities" not in source.facts
    with pytest.raises(UsageError, match="--unlabelled has no identities"):
        mot.read([video], [tracks], tmp_path / "s", unlabelled=True, test_identities=[1])
