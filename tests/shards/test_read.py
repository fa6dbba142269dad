from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shards
from shards import images
from shards.records import DataError, Role
from shards.sources import mars
from tests.shards.trees import build_mars, mars_tree, picture

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return mars_tree(tmp_path / "tree", val=True)


@pytest.fixture
def out(tree: Path, tmp_path: Path) -> Path:
    return build_mars(tree, tmp_path / "out")


def test_random_access_gives_the_source_bytes(tree: Path, out: Path) -> None:
    """Every frame of every tracklet, in whatever order it is asked for, is the source's."""
    reader = shards.open(out)
    wanted = {
        (i, n): frame.read()
        for i, t in enumerate(mars.read(tree, partial=True).tracklets)
        for n, frame in enumerate(t.frames())
    }
    assert sum(reader.num_frames) == len(wanted)
    for place in np.random.default_rng(0).permutation(list(wanted)).tolist():
        assert reader.encoded(*place) == wanted[tuple(place)]


def test_records_and_columns_agree_with_the_source(tree: Path, out: Path) -> None:
    """Tracklets and the columns for planners hold what the source said: key, identity, camera, length, roles."""
    reader, source = shards.open(out), mars.read(tree, partial=True)
    assert (reader.name, reader.protocols, len(reader)) == (source.name, source.protocols, len(source.tracklets))
    names = [(p.name, split) for p in source.protocols for split in p.splits]
    for i, t in enumerate(source.tracklets):
        got = reader[i]
        assert (got.key, got.pid, got.camid, got.num_frames) == (t.key, t.pid, t.camid, t.num_frames)
        assert got.roles == dict(zip(names, t.roles, strict=True))
        assert (reader.pids[i], reader.camids[i], reader.num_frames[i]) == (t.pid, t.camid, t.num_frames)
    for column, name in enumerate(names):
        assert reader.roles(*name).tolist() == [int(t.roles[column]) for t in source.tracklets]
    assert reader.roles().tolist() == reader.roles("official", "0").tolist()
    assert (reader.roles("validation") & Role.QUERY).astype(bool).sum() == 1


def test_frames_keep_order_and_repeats(out: Path) -> None:
    """`frames` gives T,H,W,3 in the order asked for, repeats included; with a size, resized."""
    reader = shards.open(out)
    numbers = [3, 0, 0, 4]
    clip = reader.frames(1, numbers)
    assert clip.shape == (4, 64, 32, 3)
    assert clip.dtype == np.uint8
    for frame, number in zip(clip, numbers, strict=True):
        np.testing.assert_array_equal(frame, images.decode(reader.encoded(1, number)))
    small = reader.frames(1, np.array(numbers), size=(32, 16))
    np.testing.assert_array_equal(
        small[0], images.resize(images.decode(reader.encoded(1, 3), (32, 16))[None], (32, 16))[0]
    )


def test_frames_of_several_sizes_take_the_first_ones(tree: Path, tmp_path: Path) -> None:
    """Without a size, frames of other sizes are resized to the size of the first frame asked for."""
    (tree / "bbox_train/0001/0001C2T0002F003.jpg").write_bytes(picture(7, (100, 50)))
    reader = shards.open(build_mars(tree, tmp_path / "mixed"))
    assert reader.frames(1, [0, 2]).shape == (2, 64, 32, 3)
    assert reader.frames(1, [2, 0]).shape == (2, 100, 50, 3)


@pytest.mark.parametrize(
    ("i", "numbers", "error", "message"),
    [
        (12, [0], IndexError, "no tracklet 12"),
        (-1, [0], IndexError, "no tracklet -1"),
        (0, [3], IndexError, "0001C1T0001 has no frame 3; its frames are 0 to 2"),
        (0, [-1], IndexError, "no frame -1"),
        (0, [], ValueError, "no frame numbers"),
    ],
)
def test_what_is_not_there_is_refused(
    out: Path, i: int, numbers: list[int], error: type[Exception], message: str
) -> None:
    """Tracklets and frames that do not exist are refused by name, negative ones too."""
    with pytest.raises(error, match=message):
        shards.open(out).frames(i, numbers)


def test_unknown_protocol_or_split_names_those_there_are(out: Path) -> None:
    """A wrong protocol or split is answered with the right ones."""
    reader = shards.open(out)
    with pytest.raises(ValueError, match=r"no protocol 'offical'; there are: official, queries-removed, validation"):
        reader.roles("offical")
    with pytest.raises(ValueError, match="no split '1'; there are: 0"):
        reader.roles("official", "1")


def read_all(reader: shards.read.Reader, queue: Any) -> None:
    queue.put([reader.frames(i, [1, 0]).sum() for i in range(len(reader))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_used_reader_goes_to_other_processes(out: Path, method: str) -> None:
    """A reader with open files, forked or pickled into two processes, reads the same there, at once, as here."""
    reader = shards.open(out)
    wanted = [reader.frames(i, [1, 0]).sum() for i in range(len(reader))]
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    processes = [context.Process(target=read_all, args=(reader, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [wanted, wanted]
    for process in processes:
        process.join()
    assert [reader.frames(i, [1, 0]).sum() for i in range(len(reader))] == wanted
    assert pickle.loads(pickle.dumps(reader)).checksum == reader.checksum


def test_only_the_bytes_of_the_frames_are_read(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames asked for: two reads, of just their lengths."""
    reader = shards.open(out)
    wanted = [len(reader.encoded(1, 4)), len(reader.encoded(1, 2))]
    pread = os.pread
    lengths: list[int] = []

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        lengths.append(length)
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    reader.frames(1, [4, 2, 4])
    assert lengths == wanted


def test_changed_bytes_are_noticed(out: Path) -> None:
    """A frame whose bytes have changed is not decoded, but named."""
    reader = shards.open(out)
    tar = out / reader.description.shards[0].file
    data = bytearray(tar.read_bytes())
    data[data.index(reader.encoded(0, 1)) + 300] ^= 1
    tar.write_bytes(data)
    reader = shards.open(out)
    reader.frames(0, [0, 2])
    with pytest.raises(DataError, match=r"shard-000000\.tar: 0001C1T0001 frame 1: its bytes have changed"):
        reader.frames(0, [0, 1])


def test_opening_says_what_is_wrong(out: Path, tmp_path: Path) -> None:
    """No folder, no shard folder, half a one, another version, a truncated or missing shard: each has its message."""

    def complaint(path: Path) -> str:
        with pytest.raises(DataError) as error:
            shards.open(path)
        return str(error.value)

    assert "no such folder" in complaint(tmp_path / "nowhere")
    assert "no dataset.json" in complaint(tmp_path)
    last = sorted(out.glob("*.tar"))[-1]
    data = last.read_bytes()
    last.write_bytes(data[:-512])
    assert f"{last}: {len(data) - 512:,} bytes, but {len(data):,} were written" in complaint(out)
    last.unlink()
    assert f"{last}: missing" in complaint(out)
    last.write_bytes(data)
    arrow = out / "index/data-00000-of-00001.arrow"
    arrow.rename(arrow.with_suffix(".away"))
    assert "the index cannot be read" in complaint(out)
    arrow.with_suffix(".away").rename(arrow)
    description = out / "dataset.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, "version": 99}))
    assert "format version 99, not 1" in complaint(out)
    description.write_text(json.dumps({**content, "name": "other"}))
    assert "does not match its own checksum" in complaint(out)
    description.write_text("{")
    assert "damaged" in complaint(out)


def test_the_package_loads_nothing_heavy(out: Path) -> None:
    """`import shards` loads neither torch nor numpy; reading loads neither torch, datasets nor webdataset."""
    program = (
        "import sys, shards\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'datasets', 'webdataset'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"shards.open({str(out)!r}).frames(0, [0], size=(32, 16))\n"
        "heavy = {'torch', 'datasets', 'webdataset', 'scipy', 'av'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


MANY_SHARDS = """
import os, resource, sys, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import shards
from shards.verify import verify

def num_open():
    return len(os.listdir("/proc/self/fd"))

reader = shards.open(sys.argv[1])
assert len(reader.description.shards) > 64
expected = [reader.encoded(i, 0) for i in range(len(reader))]
assert num_open() < 32, num_open()

def again(readers, step):
    for i in range(0, 3 * len(reader), step):
        for one in readers:
            assert one.encoded(i % len(reader), 0) == expected[i % len(reader)]

failed = []
threading.excepthook = failed.append
threads = [threading.Thread(target=again, args=([reader], step)) for step in (1, 5, 7, 11)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not failed, failed
child = os.fork()
again([reader], 1)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
again([shards.open(sys.argv[1]) for _ in range(8)], 1)  # together they would take more than there is
reader.close()
assert verify(__import__("pathlib").Path(sys.argv[1])) == []
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts its open files in /proc")
def test_the_number_of_open_shards_is_bounded(tmp_path: Path) -> None:
    """A process that may open 64 files reads a set of 86 shards: at random, from threads that push each other's shards
    out, in a forked child, through eight readers at once, and to verify it."""
    tree = mars_tree(tmp_path / "tree", size=(16, 8), repeat=20)
    out = build_mars(tree, tmp_path / "out", shard_bytes=1)
    done = subprocess.run(
        [sys.executable, "-c", MANY_SHARDS, str(out)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_frame_damaged_before_the_build_is_named(tree: Path, tmp_path: Path) -> None:
    """A JPEG whose coded pixels were damaged before it was stored is no half grey picture: its key is named."""
    path = tree / "bbox_train/0001/0001C1T0001F002.jpg"
    data = picture(7, (256, 128))
    path.write_bytes(data[: len(data) * 2 // 3] + data[-2:])
    reader = shards.open(build_mars(tree, tmp_path / "out"))
    i = reader.find("0001C1T0001")
    assert reader.frames(i, [0]).any()
    with pytest.raises(DataError, match=r"0001C1T0001 frame 1: damaged .*; replace it"):
        reader.frames(i, [0, 1])


def test_a_clip_never_holds_all_frames_at_full_size(tmp_path: Path) -> None:
    """Each is resized before the next is decoded: a clip of many large frames costs one of them."""
    tree = mars_tree(tmp_path / "tree")
    for path in (tree / "bbox_train/0001").glob("0001C2T0002F*.jpg"):
        path.write_bytes(picture(3, (1500, 750)))
    reader = shards.open(build_mars(tree, tmp_path / "out"))
    i = reader.find("0001C2T0002")
    length = reader[i].num_frames
    reader.frames(i, [0], size=(800, 400))
    tracemalloc.start()
    try:
        reader.frames(i, range(length), size=(800, 400))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    full, small = 1500 * 750 * 3, 800 * 400 * 3
    assert peak < 2 * full + 2 * length * small < length * full + length * small


def test_a_frame_larger_than_any_picture_is_refused(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are not even read."""
    reader = shards.open(build_mars(tree, tmp_path / "out"))
    monkeypatch.setattr(images, "max_bytes", lambda: 100)
    with pytest.raises(DataError, match=r"bytes is larger than a picture of 8,847,360 pixels .*MSTAT_MAX_PIXELS"):
        reader.frames(0, [0])
