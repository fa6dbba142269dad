from __future__ import annotations

from pathlib import Path

import pytest

from shards.records import DataError
from shards.sources.walk import Walk


def make(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_what_systems_leave_is_ignored(tmp_path: Path) -> None:
    """Hidden files and folders, resource forks, thumbnails' databases, and documents at the top have no fact."""
    junk = (".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", ".git/x.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg")
    root = make(tmp_path, "README.md", "LICENSE", "a/1.jpg", *junk, *(f"a/{name}" for name in junk))
    walk = Walk(root)
    assert (walk.folders(root), walk.pictures(root / "a"), walk.facts()) == (["a"], ["1.jpg"], {})


def test_all_else_has_a_fact(tmp_path: Path) -> None:
    """Pictures where folders belong, hidden ones, folders, and files by their kind; only ten of a kind are named."""
    root = make(tmp_path, "a/1.jpg", "a/.2.jpg", "a/2.jpg.part", "a/b/1.jpg", "a/notes.txt", "loose.WEBP", "c.zip")
    make(root, *(f"a/{number:02d}.heic" for number in range(12)))
    walk = Walk(root)
    assert (walk.folders(root), walk.pictures(root / "a")) == (["a"], ["1.jpg"])
    named = ", ".join(f"a/{number:02d}.heic" for number in range(9))
    assert walk.facts() == {
        "skipped": f"files of other types: 14 (c.zip, {named} and 4 more); folders: 1 (a/b/); "
        "hidden pictures: 1 (a/.2.jpg); pictures where folders belong: 1 (loose.WEBP)",
        "documents": "1, not read (a/notes.txt)",
    }


def test_every_type_of_picture_is_listed(tmp_path: Path) -> None:
    """In capital letters, too, and 2 before 10."""
    names = ["1.jpg", "2.JPEG", "3.jpe", "4.jfif", "5.png", "6.webp", "7.BMP", "8.tif", "9.TIFF", "10.jpg"]
    walk = Walk(make(tmp_path, *names))
    assert (walk.pictures(tmp_path), walk.facts()) == (names, {})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "2, .*3: a broken link"),
        ("2", "2, .*3: a broken link"),  # 2 is a link to itself
        (".", "2: a link to a folder above it"),
        ("..", "2: a link to a folder above it"),
    ],
)
def test_links_that_lead_astray_are_refused(tmp_path: Path, target: str, message: str) -> None:
    """Nowhere, to themselves, or back up; a link to another folder is as good as the folder."""
    root = make(tmp_path / "root", "in/1/1.jpg", "elsewhere/1.jpg")
    (root / "in/link").symlink_to(root / "elsewhere")
    assert Walk(root).folders(root / "in") == ["1", "link"]
    for name in ("2", "3"):
        (root / "in" / name).symlink_to(target)
    with pytest.raises(DataError, match=message):
        Walk(root).folders(root / "in")


def test_names_that_are_no_utf8_can_be_printed(tmp_path: Path) -> None:
    """A fact is text for every terminal."""
    root = make(tmp_path, "a/1.jpg", "a/\udcff.heic")
    walk = Walk(root)
    walk.pictures(root / "a")
    assert walk.facts()["skipped"].encode() == rb"files of other types: 1 (a/\xff.heic)"


def test_a_folder_without_pictures_says_what_it_has(tmp_path: Path) -> None:
    """So that a type that cannot be read is seen."""
    with pytest.raises(DataError, match=r"a: contains no picture .*, but 1\.heic, 2\.heic"):
        Walk(tmp_path).pictures(make(tmp_path, "a/1.heic", "a/2.heic") / "a")
