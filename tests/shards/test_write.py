from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import shards
from shards.__main__ import main
from shards.records import DataError, Frame, Protocol, Role, Source, SourceTracklet, UsageError
from shards.shard import SIDECAR, Encoding
from shards.sources import mars
from shards.sources.common import files_of, pictures_of
from shards.verify import verify
from shards.write import BUILDING, Build, Part, building, plan_shards, write
from tests.shards.trees import build_mars, contents, mars_tree, picture

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_builds_are_byte_identical(tmp_path: Path, workers: int) -> None:
    """Two builds of the same data, in different folders and with 1 or 2 workers, are the same files byte by byte."""
    first = build_mars(mars_tree(tmp_path / "a"), tmp_path / "one")
    second = build_mars(mars_tree(tmp_path / "b"), tmp_path / "two", workers=workers)
    files = contents(first)
    assert contents(second) == files
    assert sum(name.endswith(".tar") for name in files) > 2


def test_webdataset_streams_the_shards(tmp_path: Path) -> None:
    """Plain webdataset reads one sample a tracklet: its json, and its frames' bytes as they lay in the source."""
    webdataset = pytest.importorskip("webdataset")
    tree = mars_tree(tmp_path / "tree")
    out = build_mars(tree, tmp_path / "out")
    source = mars.read(tree, partial=True)
    samples = list(webdataset.WebDataset([str(p) for p in sorted(out.glob("*.tar"))], shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [t.key for t in source.tracklets]
    for sample, tracklet in zip(samples, source.tracklets, strict=True):
        meta = json.loads(sample["json"])
        assert (meta["pid"], meta["camid"], meta["num_frames"]) == (tracklet.pid, tracklet.camid, tracklet.num_frames)
        frames = [sample[name] for name in sorted(sample) if name.endswith(".jpg")]
        assert frames == [frame.read() for frame in tracklet.frames()]
    junk = next(json.loads(sample["json"]) for sample in samples if sample["__key__"].startswith("00-1"))
    assert junk["roles"]["official/0"] == ["gallery", "junk"]


def test_datasets_opens_the_index(tmp_path: Path) -> None:
    """`datasets.load_from_disk` opens the index, and its places in the tars hold the frames."""
    datasets = pytest.importorskip("datasets")
    out = build_mars(mars_tree(tmp_path / "tree"), tmp_path / "out")
    row = datasets.load_from_disk(str(out / "index"))[4]
    assert (row["key"], row["pid"], row["camid"]) == ("00-1C1T0001", -1, 1)
    tar = sorted(out.glob("*.tar"))[row["shard"]].read_bytes()
    offset, size = row["offsets"][1], row["sizes"][1]
    assert tar[offset : offset + size] == (tmp_path / "tree/bbox_test/00-1/00-1C1T0001F002.jpg").read_bytes()


@pytest.mark.parametrize("shard_bytes", [40_000, 1 << 20])
def test_bad_frames_are_all_listed(tmp_path: Path, shard_bytes: int) -> None:
    """A build with bad frames lists each (file, key, reason), whichever shard it is of, and makes no folder; what it
    leaves are its whole shards, and nothing where there is none."""
    tree = mars_tree(tmp_path / "tree")
    first, second = tree / "bbox_train/0001/0001C1T0001F002.jpg", tree / "bbox_test/0004/0004C2T0003F005.jpg"
    first.write_bytes(b"")
    second.write_bytes(picture(1)[:-9])
    with pytest.raises(DataError) as error:
        build_mars(tree, tmp_path / "out", workers=2, shard_bytes=shard_bytes)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{first}: 0001C1T0001: zero bytes"
    assert lines[1].startswith(f"{second}: 0004C2T0003: cut off")
    assert lines[2].startswith("2 bad frames")
    whole = list(tmp_path.glob("out.building/shard-*.tar"))
    assert bool(whole) == (shard_bytes == 40_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(["out.building"] if whole else []), "tree"]


def test_bad_frames_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `drop`, bad frames are left out and listed, a tracklet of which none is left too, and the facts say so; a
    build that takes up the shards of an earlier try says the same."""
    tree, out = mars_tree(tmp_path / "tree"), tmp_path / "out"
    cut = tree / "bbox_train/0001/0001C2T0002F003.jpg"
    cut.write_bytes(picture(1)[:-9])
    for frame in (1, 2, 3):
        (tree / f"bbox_test/0006/0006C5T0001F00{frame}.jpg").write_bytes(b"")
    source = mars.read(tree, partial=True)
    with (
        pytest.raises(DataError, match=r"4 bad frames; .* or leave them out with --bad-frames drop"),
        building(out) as folder,
    ):
        write(source, folder, shard_bytes=20_000)
    with pytest.raises(KeyboardInterrupt), building(out) as folder:
        stop_after(write, source, folder, shard_bytes=20_000, drop=True)
    left = {path.name: path.stat().st_mtime_ns for path in Path(f"{out}{BUILDING}").glob("shard-*.tar")}
    capsys.readouterr()
    with building(out) as folder:
        write(source, folder, shard_bytes=20_000, drop=True)
    assert {name: (out / name).stat().st_mtime_ns for name in left} == left
    listed = capsys.readouterr().err.splitlines()
    assert len(listed) == 5
    assert listed[0].startswith(f"left out: {cut}: 0001C2T0002: cut off")
    assert listed[-1] == "left out: 0006C5T0001: left out: it has no good frame"
    reader = shards.open(out)
    assert reader.facts["left out"] == "4 bad frames; no frame is left of 0006C5T0001"
    assert reader.description.counts["frames"] == sum(t.num_frames for t in source.tracklets) - 4 == 33
    assert "0006C5T0001" not in {reader[i].key for i in range(len(reader))}
    assert reader.num_frames[1] == 4
    stored = [reader.encoded(1, number) for number in range(4)]
    assert stored == [frame.read() for frame in source.tracklets[1].frames() if frame.name != str(cut)]
    assert verify(out) == []


def test_what_readers_could_not_show_is_stored_as_png(tmp_path: Path) -> None:
    """Pictures on their side (EXIF) and of other formats become PNGs of their upright pixels, also for plain readers of
    WebDataset; those that were turned are a fact of the set. All others keep their bytes."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.random.default_rng(0).integers(0, 256, (24, 12, 3), np.uint8)
    folder = tmp_path / "tree"
    folder.mkdir()
    Image.fromarray(np.rot90(upright)).save(folder / "1.png", exif=exif.tobytes())
    Image.fromarray(np.rot90(upright)).save(folder / "2.tif", exif=exif.tobytes())
    Image.fromarray(upright).save(folder / "3.webp", lossless=True)
    Image.fromarray(upright).save(folder / "4.bmp")
    Image.fromarray(upright).save(folder / "5.jfif", "jpeg")
    names = pictures_of(folder)
    frames = bind(files_of, folder, names)
    source = Source("x", (Protocol("p"),), (SourceTracklet("a", 1, 1, len(names), (Role.TRAIN,), frames),))
    for size in (None, (12, 6)):
        out = tmp_path / f"out{size}"
        with building(out) as building_folder:
            write(source, building_folder, encoding=Encoding(size, 95))
        reader = shards.open(out)
        assert reader.facts["turned"] == "2 pictures, upright as their EXIF orientation says"
        assert verify(out, decode=True) == []
        if size:
            assert {reader.frames(0, [i]).shape for i in range(5)} == {(1, 12, 6, 3)}
            continue
        np.testing.assert_array_equal(reader.frames(0, range(4)), np.stack([upright] * 4))
        assert reader.encoded(0, 4) == (folder / "5.jfif").read_bytes()
        for number in range(4):
            with Image.open(io.BytesIO(reader.encoded(0, number))) as picture:
                assert picture.format == "PNG"
                np.testing.assert_array_equal(np.asarray(picture), upright)


def test_a_part_that_fails_leaves_the_others(tmp_path: Path) -> None:
    """Parts of one build, in any order and one of them twice, then joined, are the bytes of a build in one piece; one
    that fails costs the others nothing, and until all are made joining names the missing shards."""
    tree, out = mars_tree(tmp_path / "tree"), tmp_path / "out"
    with building(tmp_path / "one") as folder:
        count = len(write(mars.read(tree, partial=True), folder, shard_bytes=20_000).shards)
    bad = tree / "bbox_test/0006/0006C5T0001F002.jpg"  # in the last shard
    whole = bad.read_bytes()
    bad.write_bytes(b"")

    def part(number: int) -> None:
        with building(out, part=Part(number, 3)) as folder:
            Build(mars.read(tree, partial=True), folder, shard_bytes=20_000).write_part(Part(number, 3))

    def join() -> None:
        with building(out) as folder:
            Build(mars.read(tree, partial=True), folder, shard_bytes=20_000).join()

    failed = (count - 1) % 3 + 1
    for number in (2, 3, 2, 1):
        if number == failed:
            with pytest.raises(DataError, match=f"{bad}: 0006C5T0001: zero bytes"):
                part(number)
        else:
            part(number)
    with pytest.raises(DataError, match=r"shard-\d+.tar: not made yet\n1 shard missing; run the other tasks"):
        join()
    bad.write_bytes(whole)
    part(failed)
    join()
    assert contents(out) == contents(tmp_path / "one")
    assert not Path(f"{out}{BUILDING}").exists()


def test_joining_takes_no_remains_along(tmp_path: Path) -> None:
    """Remains of a killed part, and shards of an earlier try with other options, are not in the joined set; joining
    with options that do not fit removes nothing."""
    source, out = mars.read(mars_tree(tmp_path / "tree"), partial=True), tmp_path / "out"
    with building(out, part=Part(1, 1)) as folder:
        assert Build(source, folder, shard_bytes=20_000).write_part(Part(1, 1)) > 2
    (folder / "shard-000001.tar.host.123.part").write_bytes(b"half a shard")
    made = sorted(folder.iterdir())
    with pytest.raises(DataError, match=r"shard-000000.tar: damaged, or made with other"), building(out) as folder:
        Build(source, folder, shard_bytes=100_000).join()
    assert sorted(folder.iterdir()) == made
    with building(out, part=Part(1, 1)) as folder:
        Build(source, folder, shard_bytes=100_000).write_part(Part(1, 1))
    with building(out) as folder:
        Build(source, folder, shard_bytes=100_000).join()
    with building(tmp_path / "one") as folder:
        write(source, folder, shard_bytes=100_000)
    assert contents(out) == contents(tmp_path / "one")


def test_a_stop_while_the_disk_is_waited_for_costs_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step may take minutes on a large set: stopped there, a build and a joining find all shards made."""
    source, out = mars.read(mars_tree(tmp_path / "tree"), partial=True), tmp_path / "out"
    with building(out, part=Part(1, 1)) as folder:
        Build(source, folder, shard_bytes=20_000).write_part(Part(1, 1))
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.tar")}

    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    for finish in (Build.join, Build.write):
        with monkeypatch.context() as patch:
            patch.setattr("shards.write._wait_for_disk", stop)
            with pytest.raises(KeyboardInterrupt), building(out) as folder:
                finish(Build(source, folder, shard_bytes=20_000))
    with building(out) as folder:
        Build(source, folder, shard_bytes=20_000).join()
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.tar")} == made


def test_parts_write_side_by_side_and_no_build_between_them(tmp_path: Path) -> None:
    """While a part is being made another one may be, but neither a whole build nor the joining."""
    tree, out = mars_tree(tmp_path / "tree"), tmp_path / "out"
    source = mars.read(tree, partial=True)
    with building(out, part=Part(1, 2)) as folder:
        with building(out, part=Part(2, 2)) as other:
            Build(source, other).write_part(Part(2, 2))
        with pytest.raises(FileExistsError, match="another build"), building(out):
            raise AssertionError("entered")
        Build(source, folder).write_part(Part(1, 2))
    with building(out) as folder:
        Build(source, folder).join()
    assert len(shards.open(out)) == 10


@pytest.mark.parametrize("encoding", [Encoding(), Encoding((32, 16))], ids=["as they came", "re-encoded"])
def test_whole_shards_are_taken_up_as_far_as_their_source_is_the_same(tmp_path: Path, encoding: Encoding) -> None:
    """A build that met a bad frame goes on after its repair: a whole shard stays, unless a frame of it has changed
    since; the bytes are those of an undisturbed build."""
    tree, out = mars_tree(tmp_path / "tree"), tmp_path / "out"

    def build(out: Path) -> None:
        with building(out) as folder:
            write(mars.read(tree, partial=True), folder, shard_bytes=20_000, encoding=encoding)

    bad = tree / "bbox_test/0006/0006C5T0001F002.jpg"  # the last tracklet
    bad.write_bytes(b"")
    with pytest.raises(DataError):
        build(out)
    left = {path.name: path.stat().st_mtime_ns for path in Path(f"{out}{BUILDING}").glob("shard-*.tar")}
    assert len(left) > 2
    bad.write_bytes(picture(98))
    (tree / "bbox_train/0001/0001C1T0001F002.jpg").write_bytes(picture(99))
    build(out)
    assert [name for name, time_ns in left.items() if (out / name).stat().st_mtime_ns != time_ns] == [min(left)]
    build(tmp_path / "clean")
    assert contents(out) == contents(tmp_path / "clean")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, lambda path: os.truncate(path, path.stat().st_size // 2), Path.unlink])
@pytest.mark.parametrize("suffix", [".tar", SIDECAR])
def test_a_shard_that_is_not_as_it_was_written_is_written_again(
    tmp_path: Path, suffix: str, damage: Callable[[Path], None]
) -> None:
    """A power cut may truncate a shard or its sidecar: a build makes this shard anew, and joining, which has no source,
    names it."""
    source, out = mars.read(mars_tree(tmp_path / "tree"), partial=True), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), building(out) as folder:
        stop_after(write, source, folder, shard_bytes=20_000)
    whole = {path: path.stat().st_mtime_ns for path in sorted(folder.glob("shard-*.tar"))}
    first = next(iter(whole))
    damage(first.with_suffix(suffix))
    with pytest.raises(DataError, match=f"{first}: (damaged|not made yet)"), building(out) as folder:
        Build(source, folder, shard_bytes=20_000).join()
    with building(out) as folder:
        write(source, folder, shard_bytes=20_000)
    assert [path.name for path, made in whole.items() if (out / path.name).stat().st_mtime_ns != made] == [first.name]
    with building(tmp_path / "clean") as folder:
        write(source, folder, shard_bytes=20_000)
    assert contents(out) == contents(tmp_path / "clean")


def test_bad_usage_leaves_nothing_but_whole_shards(tmp_path: Path) -> None:
    """Options that do not fit remove the folder that was begun, but no shard of an earlier try."""
    out, folder = tmp_path / "out", tmp_path / f"out{BUILDING}"
    with pytest.raises(UsageError), building(out):
        raise UsageError("no")
    assert not folder.exists()
    folder.mkdir()
    (folder / "shard-000000.tar").write_bytes(b"whole")
    with pytest.raises(UsageError), building(out):
        raise UsageError("no")
    assert (folder / "shard-000000.tar").read_bytes() == b"whole"


def test_an_error_of_the_disk_is_no_bad_frame(tmp_path: Path) -> None:
    """An input/output error stops the build as itself: the frame may be whole at the next try."""

    def failing() -> bytes:
        raise OSError(errno.EIO, "Input/output error", "a.jpg")

    source = mars.read(mars_tree(tmp_path / "tree"), partial=True)
    last = source.tracklets[-1]
    frames = [Frame("a.jpg", failing)] * last.num_frames
    broken = replace(source, tracklets=(*source.tracklets[:-1], replace(last, frames=lambda: iter(frames))))
    with pytest.raises(OSError, match="Input/output error"), building(tmp_path / "out") as folder:
        write(broken, folder)


def test_the_lock_is_held_until_the_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While OUT gets its name the lock is still held, and it is gone from the finished folder; whoever gets the lock
    after that finds OUT and leaves nothing."""
    out = tmp_path / "out"
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        with (path / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    with building(out) as folder:
        (folder / "content").write_text("made")
    assert contents(out) == {"content": b"made"}

    late = tmp_path / "late"
    flock = fcntl.flock

    def overtaken(lock: Any, how: int) -> None:
        (late / "index").mkdir(parents=True)  # the other build, which ends just before this one gets the lock
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", overtaken)
    with pytest.raises(FileExistsError, match="late exists"), building(late):
        raise AssertionError("entered")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late", "out"]


def test_a_frame_that_vanishes_is_named(tmp_path: Path) -> None:
    """A picture that is gone when its shard is written is a bad frame like any other."""
    tree = mars_tree(tmp_path / "tree")
    source = mars.read(tree, partial=True)
    gone = tree / "bbox_test/0006/0006C5T0001F003.jpg"
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone}: 0006C5T0001: No such file"), building(tmp_path / "out") as folder:
        write(source, folder)


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    """A build never touches a folder that is there."""
    tree, out = mars_tree(tmp_path / "tree"), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="remove it, or give another --out"):
        build_mars(tree, out)
    assert contents(out) == {"mine.txt": b"keep"}
    out = tmp_path / "link"
    out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="remove it, or give another --out"):
        build_mars(tree, out)


@pytest.mark.parametrize("kind", ["folder", "link", "long way"])
def test_an_empty_folder_is_a_good_out(tmp_path: Path, kind: str) -> None:
    """It is replaced at the end, not before: a build that fails leaves it empty. A link to one stays a link."""
    tree, place = mars_tree(tmp_path / "tree"), tmp_path / "place"
    place.mkdir()
    out = {"folder": place, "link": tmp_path / "link", "long way": tmp_path / "tree" / ".." / "place"}[kind]
    if kind == "link":
        out.symlink_to(place)
    with pytest.raises(DataError), building(out):
        raise DataError("bad")
    assert list(place.iterdir()) == []
    assert build_mars(tree, out) == out
    assert contents(place) == contents(build_mars(tree, tmp_path / "other"))
    assert out.is_symlink() == (kind == "link")
    names = {"place", "tree", "other"} | ({"link"} if kind == "link" else set())
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current folder, and a mount point: renaming another to them would fail, or leave the shell nowhere."""
    monkeypatch.chdir(tmp_path)
    for out in (Path(), tmp_path):
        with pytest.raises(FileExistsError, match="is the current folder"), building(out):
            raise AssertionError("entered")
    mount = next((path for path in (Path("/sys/fs/pstore"), Path("/dev/mqueue")) if path.is_mount()), None)
    if mount is None or list(mount.iterdir()):
        pytest.skip("needs an empty mount point")
    with pytest.raises(FileExistsError, match="is a mount point"), building(mount):
        raise AssertionError("entered")


def test_two_builds_into_one_folder_exclude_each_other(tmp_path: Path) -> None:
    """A second build into the same folder is refused while the first is under way, and does not disturb it."""
    tree, out = mars_tree(tmp_path / "tree"), tmp_path / "out"
    with building(out) as folder:
        with pytest.raises(FileExistsError, match="another build"):
            build_mars(tree, out)
        write(mars.read(tree, partial=True), folder)
    assert len(shards.open(out)) == 10


def test_reencoding_gives_the_size_asked_for(tmp_path: Path) -> None:
    """With an Encoding, every stored frame is a JPEG of that size, and smaller for a lower quality."""
    source = mars.read(mars_tree(tmp_path / "tree"), partial=True)
    sizes = []
    for quality in (95, 40):
        with building(tmp_path / f"q{quality}") as folder:
            write(source, folder, encoding=Encoding((48, 24), quality))
        reader = shards.open(tmp_path / f"q{quality}")
        assert all(reader.frames(i, range(reader.num_frames[i])).shape[1:] == (48, 24, 3) for i in range(len(reader)))
        sizes.append(len(reader.encoded(0, 0)))
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "0001.C1"}, "80 letters, digits"),
        ({"key": "0001C2T0002"}, "two tracklets"),
        ({"num_frames": 0}, "0 frames"),
        ({"pid": 2**63}, "largest number"),
        ({"camid": 10**30}, "largest number"),
        ({"num_frames": 2}, "3 frames, but the source had 2"),
    ],
)
def test_a_source_that_breaks_its_word_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """Keys that are no file names or come twice, and tracklets of another length than promised, are refused."""
    source = mars.read(mars_tree(tmp_path / "tree"), partial=True)
    broken = replace(source, tracklets=(replace(source.tracklets[0], **change), *source.tracklets[1:]))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message), building(tmp_path / "out") as folder:
        write(broken, folder)


def test_plan_keeps_order_and_limit() -> None:
    """Shards are runs of whole tracklets in order; only a tracklet that is larger itself exceeds the limit."""
    lengths = [3, 50, 2, 2, 2, 200, 1]
    parts = plan_shards(lengths, frame_bytes=1000, shard_bytes=57_000)
    assert [n for start, stop in parts for n in lengths[start:stop]] == lengths
    assert parts == [(0, 2), (2, 5), (5, 6), (6, 7)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for worker processes in /proc")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_build_goes_on_to_the_same_bytes(tmp_path: Path, sign: signal.Signals) -> None:
    """A build that is killed or stopped by Ctrl-C leaves no finished folder and no worker; started again it takes up
    the finished shards and ends with the bytes of an undisturbed build."""
    tree = mars_tree(tmp_path / "tree", size=(512, 256), repeat=20)
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "shards", "build", "mars", "--partial", "--source", str(tree), "--shard-size", "1"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--out", str(out)],
        cwd=REPOSITORY,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    temporary = out.with_name(out.name + BUILDING)
    while not list(temporary.glob("shard-*.tar")):
        assert process.poll() is None
        time.sleep(0.005)
    workers = children(process.pid)
    process.send_signal(sign)
    assert process.wait(120) == (130 if sign == signal.SIGINT else -signal.SIGKILL)
    assert not out.exists()
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{worker}/cmdline").is_file() and alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)

    finished = {path.name: path.stat().st_mtime_ns for path in temporary.glob("shard-*.tar")}
    assert finished
    assert main([*command[3:], "--workers", "1", "--out", str(out)]) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished
    build_mars(tree, whole, shard_bytes=1 << 20)
    assert contents(out) == contents(whole)
    assert not temporary.exists()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def stop_after(work: Callable[..., object], *args: object, **options: object) -> None:
    work(*args, **options)
    raise KeyboardInterrupt


def test_a_build_of_other_data_starts_over(tmp_path: Path) -> None:
    """Shards that a stopped build of other data left are not taken for those of this build."""
    out = tmp_path / "out"
    other = mars.read(mars_tree(tmp_path / "other", size=(32, 16)), partial=True)
    with pytest.raises(KeyboardInterrupt), building(out) as folder:
        stop_after(write, other, folder, shard_bytes=40_000)
    assert list(Path(f"{out}{BUILDING}").glob("shard-*.tar"))
    tree = mars_tree(tmp_path / "tree")
    assert contents(build_mars(tree, out)) == contents(build_mars(tree, tmp_path / "clean"))
    assert os.listdir(tmp_path).count("out.building") == 0
