"""CCVID, on trees made from its described form: its lists are not public without the pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import shards
from shards.__main__ import main
from shards.records import DataError, Role
from shards.sources import ccvid
from tests.shards.trees import hostile_order, official_split, picture

Row = tuple[str, str, str, int]  # list, folder, clothes, frames

SMALL: list[Row] = [
    ("train", "session1/001_01", "u0_l0_s0_c0_a0", 3),
    ("train", "session1/001_02", "u1_l0_s0_c0_a0", 12),
    ("train", "session3/002_01", "u0_l0_s0_c0_a0", 2),
    ("query", "session1/100_01", "u0_l0_s0_c0_a0", 2),  # matched in the same clothes and in others
    ("query", "session1/101_03", "u0_l0_s0_c0_a0", 2),  # matched in other clothes only
    ("gallery", "session1/100_02", "u0_l0_s0_c0_a0", 2),
    ("gallery", "session3/100_01", "u10_l1_s1_c1_a1", 2),  # camera 13: not the query's camera 1
    ("gallery", "session2/101_03", "u0_l0_s0_c0_a0", 2),  # the same camera as its query, in the loader's numbering
    ("gallery", "session2/101_04", "u1_l0_s0_c0_a0", 2),
]


def make(root: Path, rows: list[Row] = SMALL) -> Path:
    for number, (part, place, clothes, frames) in enumerate(rows):
        folder = root / place
        folder.mkdir(parents=True)
        for frame in range(1, frames + 1):
            (folder / f"{frame:05d}.jpg").write_bytes(picture(100 * number + frame, (16, 8)))
        with (root / f"{part}.txt").open("a") as file:
            file.write(f"{place}\t{place.split('/')[1][:3]}\t{clothes}\n")
    (root / "readme.txt").write_text("licence")
    return root


def test_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three protocols with the valid queries of their rules; cameras of session3 are others; outfits are labels in
    sorted order, 2 before 10, and the fact tells their numbers; frames are sorted by number."""
    hostile_order(monkeypatch)
    root, out = make(tmp_path / "ccvid"), tmp_path / "out"
    assert main(["build", "ccvid", "--partial", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    reader = shards.open(out)
    assert [protocol.name for protocol in reader.protocols] == ["standard", "clothes-changing", "same-clothes"]
    for number, valid in enumerate((2, 2, 1)):
        split = official_split(out, number)
        assert [split[role]["tracklets"] for role in ("train", "query", "gallery")] == [3, 2, 4]
        assert split["valid_queries"] == valid
    assert reader.pids.tolist() == [1, 1, 2, 100, 101, 100, 100, 101, 101]
    assert reader.camids.tolist() == [1, 2, 13, 1, 3, 2, 13, 3, 4]
    assert reader.outfits.tolist() == [1, 2, 1, 1, 1, 1, 3, 1, 2]
    assert reader.facts["outfits"] == "1 u0_l0_s0_c0_a0, 2 u1_l0_s0_c0_a0, 3 u10_l1_s1_c1_a1"
    assert "skipped" not in reader.facts
    assert [reader[i].key for i in (0, 6)] == ["session1-001_01", "session3-100_01"]
    long = ccvid.read(root, partial=True).tracklets[1]
    assert [Path(frame.name).name for frame in long.frames()] == [f"{frame:05d}.jpg" for frame in range(1, 13)]


def add(name: str, line: str) -> Callable[[Path], None]:
    """Add a line to a list."""

    def change(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(f"{line}\n")

    return change


def empty_folder(root: Path) -> None:
    for picture_path in (root / "session1/001_01").iterdir():
        picture_path.unlink()


def no_folders(root: Path) -> None:
    for session in ccvid.SESSIONS:
        shutil.rmtree(root / session)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (lambda r: (r / "query.txt").unlink(), "query.txt: missing; give the folder CCVID"),
    "empty list": (lambda r: (r / "query.txt").write_text("\n"), "query.txt: empty"),
    "two columns": (add("query.txt", "session1/100_04 100"), "query.txt: line 3: .* is not a line like"),
    "four columns": (add("query.txt", "session1/100_04 100 u0 x"), "query.txt: line 3: .* is not a line like"),
    "other session": (add("query.txt", "session4/100_04 100 u0"), "line 3: .* is not a line like"),
    "out of root": (add("query.txt", "../session1/100_04 100 u0"), "line 3: .* is not a line like"),
    "identity": (add("query.txt", "session1/100_04 101 u0"), "line 3: identity 101, but the folder is session1/100_04"),
    "identity 0": (add("query.txt", "session1/000_04 000 u0"), "line 3: identity 000"),
    "no identity": (add("query.txt", "session1/100_04 x u0"), "line 3: .* is not a line like"),
    "number 0": (add("query.txt", "session1/100_00 100 u0"), "number 0, but a session has 1 to 12"),
    "number 13": (add("query.txt", "session1/100_13 100 u0"), "number 13, but a session has 1 to 12"),
    "listed twice": (add("query.txt", "session1/100_01 100 u0"), r"100_01 is listed twice \(query.txt\)"),
    "in two lists": (add("gallery.txt", "session1/100_01 100 u0"), r"listed twice \(gallery.txt, query.txt\)"),
    "similar labels": (
        add("query.txt", "session1/100_04 100 U0_l0_s0_c0_a0"),
        "differ in zeros, spaces or letter case",
    ),
    "no frames": (empty_folder, "001_01: contains no picture"),
    "two formats": (
        lambda r: (r / "session1/001_01/1.png").write_bytes(b""),
        "1.png and 00001.jpg|00001.jpg and 1.png",
    ),
    "no folders": (no_folders, "no tracklet has its folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_one_clear_message(tmp_path: Path, fault: str) -> None:
    """For each fault of lists and folders, one line names the file or folder, also with --partial."""
    root = make(tmp_path / "ccvid")
    damage, message = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=message) as error:
        ccvid.read(root, partial=True)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_partial_download(tmp_path: Path) -> None:
    """A missing folder is refused by name; --partial leaves its tracklet out, counts missing frames, and numbers
    outfits as in the whole set."""
    root = make(tmp_path / "ccvid")
    shutil.rmtree(root / "session1/001_02")
    (root / "session1/001_01/00002.jpg").unlink()
    with pytest.raises(DataError, match=r"listed in the lists, but missing: .*001_02; .*--partial"):
        ccvid.read(root)
    whole = ccvid.read(make(tmp_path / "whole"), partial=True)
    source = ccvid.read(root, partial=True)
    outfits = {tracklet.key: tracklet.outfit for tracklet in whole.tracklets if tracklet.key != "session1-001_02"}
    assert {tracklet.key: tracklet.outfit for tracklet in source.tracklets} == outfits
    assert source.facts["partial"].endswith("since their folders are missing: 1 (session1/001_02)")
    assert source.facts["gaps"] == "frames missing by their numbers: 1 (session1-001_01 1)"


def test_unlisted_folders_are_said(tmp_path: Path) -> None:
    """Folders that no list names, of a session or beside the sessions, and loose pictures."""
    root = make(tmp_path / "ccvid")
    for place in ("session1/300_01", "session9"):
        (root / place).mkdir()
    (root / "session2/loose.jpg").write_bytes(b"")
    assert ccvid.read(root, partial=True).facts["skipped"] == (
        "folders: 2 (session1/300_01/, session9/); pictures where folders belong: 1 (session2/loose.jpg)"
    )


def test_official_counts(tmp_path: Path) -> None:
    """A set with the official numbers of identities and tracklets in each list is accepted without --partial (one frame
    per tracklet, hard links to a picture); one line less is refused with the counts that differ."""
    original = tmp_path / "picture"
    original.write_bytes(picture(0, (8, 4)))
    counts = {"train": (1, 75, 948), "query": (76, 151, 834), "gallery": (76, 151, 1_074)}
    used: dict[int, int] = {}
    for part, (first, identities, tracklets) in counts.items():
        lines = []
        for number in range(tracklets):
            pid = first + number % identities
            used[pid] = used.get(pid, -1) + 1
            place = f"session{used[pid] // 12 + 1}/{pid:03d}_{used[pid] % 12 + 1:02d}"
            os.makedirs(tmp_path / place)
            os.link(original, tmp_path / place / "00001.jpg")
            lines.append(f"{place} {pid:03d} u{number % 2}_l0_s0_c0_a0\n")
        (tmp_path / f"{part}.txt").write_text("".join(lines))
    source = ccvid.read(tmp_path, official={**ccvid.OFFICIAL_COUNTS, "frames": 2_856})
    roles = [tracklet.roles for tracklet in source.tracklets]
    assert [roles.count((role,) * 3) for role in (Role.TRAIN, Role.QUERY, Role.GALLERY)] == [948, 834, 1_074]
    assert "partial" not in source.facts
    (tmp_path / "query.txt").write_text("".join((tmp_path / "query.txt").read_text().splitlines(True)[:-1]))
    with pytest.raises(DataError, match=r"queries 833, not 834; frames 2,855, not 347,833; .*--partial"):
        ccvid.read(tmp_path)
