"""Pipes, devices and links where files belong: named at once, and never waited for."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import shards
from mstat.runs.folder import locked
from shards import guarded
from shards.records import DataError
from shards.verify import verify
from shards.write import building
from tests.shards.trees import build_mars, mars_tree


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


KINDS = (os.mkfifo, make_socket, Path.mkdir, lambda path: path.symlink_to("/dev/zero"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    return build_mars(mars_tree(folder / "tree"), folder / "out")


@pytest.mark.parametrize("make", KINDS)
def test_only_regular_files_are_read(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe, a socket, a folder, a device: each is named."""
    monkeypatch.chdir(tmp_path)  # a socket's path has 100 letters at most
    make(Path("x"))
    with pytest.raises(DataError, match="x: no regular file"):
        guarded.read_regular(Path("x"))


def test_a_file_has_a_largest_size(tmp_path: Path) -> None:
    """A larger file is refused; one of exactly that size is read, in one piece or several."""
    path = tmp_path / "x"
    for size in (0, 5, guarded.READ_BYTES, 20 * guarded.READ_BYTES + 3):
        path.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
        assert guarded.read_regular(path, size) == path.read_bytes()
        if size:
            with pytest.raises(DataError, match="larger than"):
                guarded.read_regular(path, size - 1)


@pytest.mark.parametrize("name", ["dataset.json", "index/data-00000-of-00001.arrow", "shard-000000.tar"])
def test_a_set_with_a_pipe_in_it_is_refused(built: Path, tmp_path: Path, name: str) -> None:
    """In the place of any file that a reader or `verify` opens."""
    out = Path(shutil.copytree(built, tmp_path / "set"))
    (out / name).unlink()
    os.mkfifo(out / name)
    with pytest.raises(DataError, match=name):
        shards.open(out)
    assert name in verify(out)[0]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("elsewhere")])
def test_a_lock_that_is_none_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A pipe, on which nobody would ever open the other end, and a link, which would make a file elsewhere: for a build
    and for a training."""
    for place in (tmp_path / "out.building" / "lock", tmp_path / "run" / ".lock"):
        place.parent.mkdir()
        make(place)
    with pytest.raises(DataError, match=r"out.building/lock: "), building(tmp_path / "out"):
        pass
    with pytest.raises(DataError, match=r"run/.lock: "), locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "out.building" / "elsewhere").exists()
    assert not (tmp_path / "run" / "elsewhere").exists()


def test_a_pipe_among_pictures_is_a_bad_frame(tmp_path: Path) -> None:
    """It is listed as the others are, by its key."""
    tree = mars_tree(tmp_path / "tree")
    path = tree / "bbox_train/0001/0001C1T0001F002.jpg"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"^{path}: 0001C1T0001: no regular file .*\n1 bad frame;"):
        build_mars(tree, tmp_path / "out")
