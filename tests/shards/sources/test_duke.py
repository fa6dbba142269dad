from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.records import DataError, Role
from shards.sources import duke
from tests.shards.trees import hostile_order, official_split, picture, shared_data

# part, identity, tracklet, camera, frames, first frame's number
Row = tuple[str, int, int, int, int, int]
SMALL: list[Row] = [
    ("train", 1, 1, 1, 3, 1),
    ("train", 1, 2, 5, 12, 1),
    ("train", 9, 3, 2, 2, 1),
    ("query", 5, 2200, 2, 4, 77),
    ("query", 19, 2209, 2, 2, 1),
    ("gallery", 5, 2200, 2, 4, 77),
    ("gallery", 19, 2209, 2, 2, 1),
    ("gallery", 5, 2201, 7, 3, 1),
    ("gallery", 19, 2210, 2, 3, 1),  # the same camera as its query: no match
    ("gallery", 2, 2197, 8, 2, 1),
]


def new(pid: int, camid: int, frame: int) -> str:
    return f"{pid:04d}_C{camid}_F{frame:04d}_X{10 * frame + 7}.jpg"


def old(pid: int, camid: int, frame: int) -> str:
    return f"{pid:04d}C{camid}F{frame:04d}X{10 * frame + 7:06d}.jpg"


def distractor(pid: int, camid: int, frame: int) -> str:
    return f"{pid:04d}_C{camid}_F{frame:04d}_D{10 * frame + 7}.jpg"


def make(root: Path, rows: list[Row], name: Callable[[int, int, int], str] = new) -> Path:
    """A copy's bytes are those of its original."""
    for part, pid, number, camid, frames, first in rows:
        folder = root / part / f"{pid:04d}" / f"{number:04d}"
        folder.mkdir(parents=True)
        for frame in range(first, first + frames):
            (folder / name(pid, camid, frame)).write_bytes(picture(1000 * number + frame, (16, 8)))
    return root


@pytest.mark.parametrize("name", [new, old, distractor])
def test_queries_are_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Callable[[int, int, int], str]
) -> None:
    """Old and new names; a query and its copy are one tracklet that is both; frames go by their numbers, which need
    not begin at 1, however the disk lists them."""
    hostile_order(monkeypatch)
    out = tmp_path / "out"
    root = make(tmp_path / "duke", SMALL, name)
    assert main(["build", "duke", "--partial", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    split = official_split(out)
    assert [split[role]["tracklets"] for role in ("train", "query", "gallery", "junk")] == [3, 2, 5, 0]
    assert split["gallery"]["identities"] == 3
    assert split["valid_queries"] == 1
    source = duke.read(root, partial=True)
    assert len(source.tracklets) == 8
    late = next(t for t in source.tracklets if t.key == "0005C2T2200")
    assert late.roles == (Role.QUERY | Role.GALLERY,)
    assert [Path(frame.name).name for frame in late.frames()] == [name(5, 2, frame) for frame in range(77, 81)]
    long = next(t for t in source.tracklets if t.num_frames == 12)
    assert [Path(frame.name).name for frame in long.frames()] == [name(1, 5, frame) for frame in range(1, 13)]
    assert source.facts["partial"].startswith("not the whole of DukeMTMC-VideoReID, figures are not comparable: ")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "query").rename(root / "queries"), "query: missing; unpack"),
        (lambda root: (root / "gallery/0005/2200" / new(5, 2, 80)).unlink(), "should hold the same frames"),
        (
            lambda root: (root / "train/0001/0001" / "0001_C1_F0001.jpg").write_bytes(b""),
            "not a name like 0005_C2_F0001",
        ),
        (lambda root: (root / "train/0001/0001" / new(2, 1, 9)).write_bytes(b""), r"\(identity, camera\) \[\(1, 1\)"),
        (lambda root: (root / "train/0001/0001" / new(1, 2, 9)).write_bytes(b""), r"\(identity, camera\) \[\(1, 1\)"),
        (lambda root: (root / "train/0001/0001" / old(1, 1, 2)).write_bytes(b""), "frame 2 is .*; remove one"),
        (lambda root: (root / "train/0001/0004").mkdir(), "0004: contains no picture"),
        (lambda root: (root / "gallery/0005/2200" / new(5, 2, 80)).write_bytes(picture(0)), "should hold the same"),
        (lambda root: (root / "train/0002").mkdir(), "train/0002: contains no folders of tracklets"),
        (lambda root: (root / "train/0001").rename(root / "train/one"), "not a folder like train/0005/2200"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    """A folder missing, a copy that differs in names or bytes, names of another form or tracklet, a frame twice, empty
    folders."""
    root = make(tmp_path / "duke", SMALL)
    spoil(root)
    with pytest.raises(DataError, match=message):
        duke.read(root, partial=True)


def test_counts_are_official_or_refused(tmp_path: Path) -> None:
    """An incomplete data set is refused with the missing counts."""
    with pytest.raises(DataError, match=r"training tracklets 3, not 2,196; .*accept it with --partial"):
        duke.read(make(tmp_path / "duke", SMALL))


def test_gaps_and_skipped_files_are_said(tmp_path: Path) -> None:
    """Missing frame numbers, and pictures outside of all tracklets."""
    root = make(tmp_path / "duke", SMALL)
    (root / "train/0001/0002" / new(1, 5, 7)).unlink()
    (root / "gallery/0005" / new(5, 2, 1)).write_bytes(picture(0))
    facts = duke.read(root, partial=True).facts
    assert facts["gaps"] == "frames missing by their numbers: 1 (0001C5T0002 1)"
    assert facts["skipped"] == "pictures where folders belong: 1 (gallery/0005/0005_C2_F0001_X17.jpg)"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The test part by its real lists: every tracklet, length, identity and camera; the names' frames count from 1, and
    the training part is one tracklet. Hard links to a picture, of which a file can have 65,000."""
    real, root = shared_data("duke"), tmp_path_factory.mktemp("duke")
    places = [line.split()[0] for line in (real / "list_duke_query_gallery.txt").open() if line.strip()]
    rows = [list(map(int, line.split())) for line in (real / "info_test.txt").open()]
    make(root, [("train", 1, 1, 1, 1, 1)])
    links = 0
    for place, (start, end, pid, camid) in zip(places, rows, strict=True):
        folder = str(root / place)
        os.makedirs(folder)
        for frame in range(1, end - start + 2):
            if links % 60_000 == 0:
                original = root / f"picture {links}"
                original.write_bytes(picture(0, (8, 4)))
            os.link(original, f"{folder}/{new(pid, camid, frame)}")
            links += 1
    yield root
    for part in ("query", "gallery"):  # pytest keeps folders of several runs, and this one is large
        os.system(f"rm -rf '{root / part}'")


@pytest.mark.slow
def test_the_test_part_at_full_count(full: Path) -> None:
    """702 queries of 702 persons and 111,848 frames; a gallery of 2,636 tracklets, 1,110 persons, 445,764 frames, in
    which the queries stand once; the 408 who are never asked for are identities like others."""
    source = duke.read(full, partial=True)
    query = [t for t in source.tracklets if t.roles[0] & Role.QUERY]
    gallery = [t for t in source.tracklets if t.roles[0] & Role.GALLERY]
    assert (len(query), len({t.pid for t in query}), sum(t.num_frames for t in query)) == (702, 702, 111_848)
    assert (len(gallery), len({t.pid for t in gallery}), sum(t.num_frames for t in gallery)) == (2_636, 1_110, 445_764)
    assert all(t in gallery for t in query)
    assert len({t.camid for t in gallery}) == 8
    assert {t.roles[0] for t in source.tracklets} == {Role.TRAIN, Role.GALLERY, Role.QUERY | Role.GALLERY}
    wrong = source.facts["partial"]
    assert "training" in wrong
    assert "quer" not in wrong
    assert "gallery" not in wrong
    assert "cameras" not in wrong
