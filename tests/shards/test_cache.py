"""The cache of sets from afar: bounded, shared, and never in the way of reading."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from shards.cache import Cache

SET = "a" * 64


def test_what_is_put_is_got(tmp_path: Path) -> None:
    """As a plain file, whole; nothing else is left in the folder."""
    cache = Cache(tmp_path, 1 << 20)
    assert cache.get(f"{SET}/block") is None
    assert cache.put(f"{SET}/block", b"data")
    assert cache.get(f"{SET}/block") == b"data"
    assert [path.name for path in (tmp_path / SET).iterdir()] == ["block"]
    assert cache.drop(f"{SET}/block")
    assert not cache.drop(f"{SET}/block")
    assert cache.get(f"{SET}/block") is None


def test_a_file_larger_than_asked_for_is_not_read(tmp_path: Path) -> None:
    """Nor one that is none: whoever writes there may leave a pipe, which would hold a reader up for ever."""
    cache = Cache(tmp_path, 1 << 20)
    cache.put(f"{SET}/block", b"12345")
    assert cache.get(f"{SET}/block", max_bytes=4) is None
    os.mkfifo(tmp_path / SET / "pipe")
    assert cache.get(f"{SET}/pipe") is None


def test_the_oldest_go_first(tmp_path: Path) -> None:
    """Down to three quarters of the limit; files that are not the cache's stay, however old."""
    cache = Cache(tmp_path, 6400)
    (tmp_path / "mine").mkdir()
    for folder in ("mine", SET):
        cache.put(f"{folder}/old", b"x" * 50)
        os.utime(tmp_path / folder / "old", (1, 1))
    for number in range(70):
        assert cache.put(f"{SET}/{number:02d}", b"x" * 100)
        os.utime(tmp_path / SET / f"{number:02d}", (100 + number, 100 + number))
    left = sorted(path.name for path in (tmp_path / SET).iterdir())
    assert sum(path.stat().st_size for path in (tmp_path / SET).iterdir()) <= 6400
    assert (tmp_path / "mine" / "old").exists()
    assert "old" not in left
    assert left == [f"{number:02d}" for number in range(70 - len(left), 70)]
    assert len(left) >= 6400 * 3 // 4 // 100 - 1


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    """Reading goes on without it."""
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file", 1 << 20)
    with pytest.warns(UserWarning, match=r"file: cannot write the cache .*"):
        assert not cache.put(f"{SET}/block", b"data")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not cache.put(f"{SET}/block", b"data")
