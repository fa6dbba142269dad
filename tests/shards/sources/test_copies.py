"""Tracklets that lie on a disk twice are known by their bytes."""

from __future__ import annotations

from pathlib import Path

from shards.sources.copies import Pictures, are_copies


def test_copies_are_the_same_bytes_in_the_same_order(tmp_path: Path) -> None:
    """Under other names, and as links; another order, a frame less or a changed byte make another tracklet."""
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"two", "e": b"twx"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "lost").symlink_to("nowhere")
    first = Pictures(tmp_path, ["a", "b"])
    others = [["c", "d"], ["link", "d"], ["d", "c"], ["c"], ["c", "e"], ["c", "lost"]]
    pairs = [(first, Pictures(tmp_path, names)) for names in others]
    assert are_copies(pairs) == [True, True, False, False, False, False]
    assert are_copies([]) == []
