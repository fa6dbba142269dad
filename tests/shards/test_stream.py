"""Streamed sets: the frames of random access, each byte requested once, and damage and hostile tars refused."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import shards
from shards import images, stream
from shards.read import Reader
from shards.records import DataError
from shards.storage import LocalFiles
from shards.stream import Span, StreamedReader, samples
from tests.helpers.file_server import Server
from tests.shards.trees import build_mars, mars_tree


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of several tars."""
    folder = tmp_path_factory.mktemp("set")
    return build_mars(mars_tree(folder / "tree", repeat=3), folder / "out", shard_bytes=40_000)


@pytest.fixture
def server(out: Path) -> Iterator[Server]:
    serving = Server(out)
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.mark.parametrize(
    ("ends", "piece"), [(range(1, 19), 1 << 20), ([5, 10, 15], 1 << 20), ([18], 1 << 20), ([18], 1000)]
)
def test_frames_are_those_of_random_access(
    ends: Sequence[int], piece: int, out: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is requested at most once; pieces of any size join; tars are crossed."""
    monkeypatch.setattr(stream, "PIECE", piece)
    near, far = shards.open(out), pickle.loads(pickle.dumps(StreamedReader(server.url, ends)))
    assert len(near.description.shards) > 3
    server.asked.clear()
    for i in range(len(near)):
        for number in reversed(range(near.num_frames[i])):
            assert far.encoded(i, number) == near.encoded(i, number)
    assert all(part for _, part in server.asked)
    assert near.num_bytes.sum() <= server.bytes_once() <= sum(shard.bytes for shard in near.description.shards)


def test_any_order_is_read(out: Path, server: Server) -> None:
    """Tracklets may be left out, or read again; a resized clip is that of random access."""
    near, far = shards.open(out), StreamedReader(server.url, [7, 14])
    for i in [3, 3, 6, 5, 13, 15, 0, len(near) - 1]:
        np.testing.assert_array_equal(far.frames(i, [0, 1, 0], (16, 8)), near.frames(i, [0, 1, 0], (16, 8)))


@pytest.mark.parametrize(
    ("offset", "message"),
    [
        (0, "frame 0: its bytes have changed since the build"),
        (-512, "does not have it where the index says|not a tar from byte|its tar has 0 frames"),
        (-256, "does not have it where the index says|not a tar from byte|its tar has 0 frames"),
    ],
)
def test_damage_is_named(offset: int, message: str, out: Path, tmp_path: Path) -> None:
    """A frame or a header that has changed: one line, and never other pixels."""
    reader = shards.open(out)
    place = reader._stored(4, [0])[0][0] + offset
    damaged = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for path, data in damaged.items():
        copy = tmp_path / "set" / path.relative_to(out)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.name == reader._shard(4):
            data = data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]
        copy.write_bytes(data)
    serving = Server(tmp_path / "set")
    far = StreamedReader(serving.url, [])
    far.encoded(3, 0)
    with pytest.raises(DataError, match=message):
        far.encoded(4, 0)
    with pytest.raises(DataError, match=message):  # nothing of the failed read is left
        far.encoded(4, 0)
    serving.shutdown()
    serving.server_close()


def test_hostile_tars_take_no_memory(tmp_path: Path) -> None:
    """Compressed tars are not unpacked, and members larger than a picture are not read; links are skipped."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("a.00000.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        member = tarfile.TarInfo("b.00000.jpg")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    plain = buffer.getvalue()
    (tmp_path / "plain.tar").write_bytes(plain)
    (tmp_path / "packed.tar").write_bytes(gzip.compress(plain))
    member.size = images.max_bytes() + 1
    (tmp_path / "large.tar").write_bytes(member.tobuf())
    member.size = 2000
    (tmp_path / "cut.tar").write_bytes(member.tobuf() + bytes(512))

    def read(name: str) -> list[dict[str, object]]:
        size = (tmp_path / name).stat().st_size
        return list(samples(LocalFiles(tmp_path), [Span(name, 0, size)]))

    assert [(sample["__key__"], sample["00000.jpg"]) for sample in read("plain.tar")] == [("b", b"abc")]
    for name, message in (("packed.tar", "not a tar"), ("large.tar", "more than a picture"), ("cut.tar", "not a tar")):
        with pytest.raises(DataError, match=message):
            read(name)


def test_a_lost_connection_is_tried_again(out: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shards.storage.WAITS", (0.01, 0.01))
    near, far = shards.open(out), StreamedReader(server.url, [])
    server.refuse = 2
    assert far.encoded(2, 0) == near.encoded(2, 0)
    server.refuse = 1000
    with pytest.raises(DataError, match="3 times in a row"):
        far.encoded(1, 0)
    server.refuse = 0
    assert far.encoded(1, 0) == near.encoded(1, 0)
    assert isinstance(far, Reader)
