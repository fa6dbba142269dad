from __future__ import annotations

import os
from pathlib import Path

import pytest

from shards.records import DataError
from shards.sources.pictures import Folders


def touch(root: Path, *names: str) -> Folders:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Folders(root)


def test_a_number_is_not_cut(tmp_path: Path) -> None:
    """T1 selects T1 and not T12; T0 selects nothing, and the message says why."""
    folders = touch(tmp_path, "a/T1F2.jpg", "a/T1F10.jpg", "a/T12F1.jpg", "a/T1.png", "a/T012.jpg")
    assert folders.select("a/T1").names == ("T1.png", "T1F2.jpg", "T1F10.jpg")
    assert folders.select("a/T1F").names == ("T1F2.jpg", "T1F10.jpg")
    assert folders.select("./a//T12").names == ("T12F1.jpg",)
    with pytest.raises(DataError, match=r"a begins with T0 \(T012.jpg goes on with a digit\)"):
        folders.select("a/T0")


def test_a_folder_goes_before_a_prefix(tmp_path: Path) -> None:
    """A path of a folder is the folder, also beside pictures that begin so; links to folders are folders."""
    folders = touch(tmp_path, "a/1/1.jpg", "a/1_2.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert folders.select("a/1").names == ("1.jpg",)
    assert folders.select("b/1_").names == ("1_2.jpg",)


def test_frames_by_number(tmp_path: Path) -> None:
    """Both ends of a range are there; a number that two pictures have, or a name without one, is refused."""
    folders = touch(tmp_path, "a/x_3_1.jpg", "a/x_2_2.jpg", "a/y_1_1.jpg", "b/x.jpg")
    assert folders.select("a/x", (1, 2)).names == ("x_3_1.jpg", "x_2_2.jpg")
    with pytest.raises(DataError, match=r"x_3_1.jpg and y_1_1.jpg are both frame 1; give a longer prefix"):
        folders.select("a", (1, 2))
    with pytest.raises(DataError, match=r"x.jpg: no number in the name; omit start and end"):
        folders.select("b", (1, 1))


def test_a_folder_of_many_tracklets_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of listings is that of folders, whatever the number of selections, also of a folder at fault."""
    folders = touch(tmp_path, *(f"a/{number}_1.jpg" for number in range(50)), "b/notes.txt")
    listings: list[Path] = []
    listdir = os.listdir

    def count(folder: Path) -> list[str]:
        listings.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", count)
    for number in range(50):
        folders.select(f"a/{number}_")
        with pytest.raises(DataError, match="contains no picture"):
            folders.select("b/x")
    assert len(listings) == 2


def test_the_owner_of_a_picture(tmp_path: Path) -> None:
    """A picture has one owner; the second is told the first."""
    folders = touch(tmp_path, "a/1_1.jpg", "a/1_2.jpg")
    assert folders.claim(folders.select("a/1_2"), 5) is None
    assert folders.claim(folders.select("a"), 6) == (5, f"{tmp_path}/a/1_2.jpg")


def test_what_nobody_owns(tmp_path: Path) -> None:
    """Pictures without an owner are noted; folders that hold other selections are not."""
    folders = touch(tmp_path, "a/1_1.jpg", "a/2_1.jpg", "a/sub/1.jpg", "a/other/1.jpg")
    for owner, where in enumerate(("a/1_", "a/sub")):
        folders.claim(folders.select(where), owner)
    assert folders.facts() == {"skipped": "folders: 1 (a/other/); pictures in no row: 1 (a/2_1.jpg)"}


def test_a_word_is_not_cut(tmp_path: Path) -> None:
    """A beginning within a word is refused, since the rest may be of another tracklet; up to a number or a separator,
    it is not."""
    names = ("a/bob_1", "a/bobby_1", "b/T1_1", "b/T1b_1", "c/T1F001", "c/T2F001")
    folders = touch(tmp_path, *(f"{name}.jpg" for name in names))
    for where in ("a/bob", "b/T1"):
        with pytest.raises(DataError, match=r"cut within a word of (bobby|T1b)_1.jpg, .* up to a separator or number"):
            folders.select(where)
    assert folders.select("a/bob_").names == ("bob_1.jpg",)
    assert folders.select("b/T1_").names == ("T1_1.jpg",)
    assert folders.select("c/T1").names == ("T1F001.jpg",)


def test_two_pictures_of_one_number(tmp_path: Path) -> None:
    """They refuse the tracklet that has both, and no other one of the folder."""
    folders = touch(tmp_path, "a/T1_1.jpg", "a/T01_1.jpg", "a/T2_1.jpg", "a/T2_01.png")
    assert folders.select("a/T1_").names == ("T1_1.jpg",)
    assert folders.select("a/T01_").names == ("T01_1.jpg",)
    with pytest.raises(DataError, match=r"T2_1.jpg and T2_01.png have the same frame number; write a longer beginning"):
        folders.select("a/T2_")


def test_absolute_paths_and_links(tmp_path: Path) -> None:
    """An absolute path in the root is one; a picture has the same owner through a link."""
    folders = touch(tmp_path, "a/1.jpg")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    selection = folders.select(str(tmp_path / "a"))
    assert selection == folders.select("a")
    assert folders.claim(selection, 2) is None
    assert folders.claim(folders.select("b"), 3) == (2, f"{tmp_path}/b/1.jpg")
    assert folders.facts() == {}
    for outside in ("../a", "/etc"):
        with pytest.raises(DataError, match="leads out of"):
            folders.select(outside)
