"""AG-VPReID, on trees made from the layout and the names that its authors' repositories describe; no list is public."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import shards
from shards.__main__ import main
from shards.records import DataError, Role
from shards.sources import agvpreid
from tests.shards.trees import hostile_order, official_split, picture

CASE1, CASE2, CASE3 = agvpreid.CASES
Row = tuple[str, int, str, int, list[int]]  # part, identity, tracklet, camera, frames

SMALL: list[Row] = [
    ("train", 0, "tracklet_1", 0, [3, 4]),
    ("train", 0, "tracklet_2", 4, [7]),
    ("train", 6, "tracklet_3", 2, [1]),
    (f"{CASE1}/query", 1604, "tracklet_10", 4, [9, 10, 100]),
    (f"{CASE1}/query", 1605, "tracklet_11", 5, [1]),
    (f"{CASE1}/gallery", 1604, "tracklet_20", 0, [1, 2]),
    (f"{CASE1}/gallery", 1604, "tracklet_21", 3, [1]),
    (f"{CASE2}/query", 1604, "tracklet_20", 0, [1, 2]),  # as in case 1
    (f"{CASE2}/gallery", 1604, "tracklet_10", 4, [9, 10, 100]),  # as in case 1
    (f"{CASE2}/gallery", 1700, "tracklet_30", 5, [1]),
    (f"{CASE3}/query", 1604, "tracklet_10", 4, [9, 10, 100]),  # as in case 1
    (f"{CASE3}/gallery", 1604, "tracklet_10", 4, [9, 10, 100]),  # its own copy
    (f"{CASE3}/gallery", 1604, "tracklet_12", 5, [4]),
]


def name(camid: int, frame: int) -> str:
    return f"P81T2310171A2C{camid}E152K7F{frame}.jpg"


def make(root: Path, rows: list[Row] = SMALL) -> Path:
    for part, pid, tracklet, camid, frames in rows:
        folder = root / part / str(pid) / tracklet
        folder.mkdir(parents=True)
        for frame in frames:
            seed = 1000 * pid + 10 * int(tracklet.rpartition("_")[2]) + frame
            (folder / name(camid, frame)).write_bytes(picture(seed, (16, 8)))
    return root


def test_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One directed protocol for each case: queries of one side, gallery of the other; what several cases contain is
    stored once with the roles of all; identities are folders + 1; frames are sorted by number, 9 before 10 and 100."""
    hostile_order(monkeypatch)
    root, out = make(tmp_path / "agvpreid"), tmp_path / "out"
    assert main(["build", "agvpreid", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    reader = shards.open(out)
    names = ["aerial-to-ground", "ground-to-aerial", "aerial-to-aerial"]
    assert [protocol.name for protocol in reader.protocols] == names
    expected = [([2, 2], 1, {4, 5}, {0, 3}), ([1, 2], 1, {0}, {4, 5}), ([1, 2], 1, {4}, {4, 5})]
    for number, (tracklets, valid, query_cameras, gallery_cameras) in enumerate(expected):
        split = official_split(out, number)
        assert split["train"]["tracklets"] == 3
        assert [split[role]["tracklets"] for role in ("query", "gallery")] == tracklets
        assert split["valid_queries"] == valid
        assert set(split["query"]["cameras"]) == query_cameras
        assert set(split["gallery"]["cameras"]) == gallery_cameras
        assert split["in_train_and_test"] == []
    roles = {reader[i].key: tuple(reader[i].roles.values()) for i in range(len(reader))}
    assert roles["case1-query-1604-tracklet_10"] == (Role.QUERY, Role.GALLERY, Role.QUERY | Role.GALLERY)
    assert roles["case1-gallery-1604-tracklet_20"] == (Role.GALLERY, Role.QUERY, Role.NONE)
    assert roles["case2-gallery-1700-tracklet_30"] == (Role.NONE, Role.GALLERY, Role.NONE)
    assert len(roles) == 9
    assert sorted(set(reader.pids.tolist())) == [1, 7, 1605, 1606, 1701]
    assert reader.facts["copies"].endswith("stored once: 4 copies left out")
    query = next(t for t in agvpreid.read(root).tracklets if t.key == "case1-query-1604-tracklet_10")
    assert [Path(frame.name).name for frame in query.frames()] == [name(4, frame) for frame in (9, 10, 100)]


def test_fewer_cases(tmp_path: Path) -> None:
    """A copy with the authors' two cases has two protocols."""
    source = agvpreid.read(make(tmp_path / "agvpreid", [row for row in SMALL if not row[0].startswith(CASE3)]))
    assert [protocol.name for protocol in source.protocols] == ["aerial-to-ground", "ground-to-aerial"]


def test_tracklets_of_equal_names_and_other_bytes_stay_two(tmp_path: Path) -> None:
    """A copy is one by its bytes; two equal tracklets of one gallery are both in it."""
    root = make(tmp_path / "agvpreid", [*SMALL, (f"{CASE1}/gallery", 1604, "tracklet_22", 3, [1])])
    for tracklet in ("tracklet_21", "tracklet_22"):
        (root / CASE1 / "gallery/1604" / tracklet / name(3, 1)).write_bytes(picture(5, (16, 8)))
    (root / CASE2 / "query/1604/tracklet_20" / name(0, 2)).write_bytes(picture(6, (16, 8)))
    roles = {tracklet.key: tracklet.roles for tracklet in agvpreid.read(root).tracklets}
    assert roles["case1-gallery-1604-tracklet_20"] == (Role.GALLERY, Role.NONE, Role.NONE)
    assert roles["case2-query-1604-tracklet_20"] == (Role.NONE, Role.QUERY, Role.NONE)
    assert {"case1-gallery-1604-tracklet_21", "case1-gallery-1604-tracklet_22"} <= set(roles)


def add(place: str) -> Callable[[Path], None]:
    """Add a picture, with its folders."""

    def change(root: Path) -> None:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(picture(0, (16, 8)))

    return change


def no_cases(root: Path) -> None:
    for case in agvpreid.CASES:
        shutil.rmtree(root / case)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no case": (no_cases, "contains none of case1_aerial_to_"),
    "no train": (lambda r: shutil.rmtree(r / "train"), "train: missing"),
    "no gallery": (lambda r: shutil.rmtree(r / CASE1 / "gallery"), "gallery: missing"),
    "nothing": (lambda r: shutil.rmtree(r / CASE2 / "query/1604"), "query: contains no tracklet"),
    "no tracklets": (lambda r: (r / "train/7").mkdir(), "train/7: contains no folders of tracklets"),
    "no frames": (lambda r: (r / "train/6/tracklet_9").mkdir(), "tracklet_9: contains no picture"),
    "identity": (add(f"train/person/tracklet_1/{name(1, 1)}"), "train/person: not the number of an identity"),
    "identity twice": (add(f"train/006/tracklet_1/{name(1, 1)}"), "train/0*6 and 0*6 are the same identity"),
    "tracklet": (add(f"train/6/track let/{name(1, 1)}"), "track let: not a folder like tracklet_12"),
    "name": (add("train/6/tracklet_3/0001_C1_F1.jpg"), "0001_C1_F1.jpg: not a name like P81T2310171A2C2"),
    "camera": (add(f"train/6/tracklet_3/{name(1, 2)}"), "tracklet_3: frames of cameras C1, C2"),
    "ground in aerial": (
        add(f"{CASE1}/query/1604/tracklet_99/{name(3, 1)}"),
        "tracklet_99: camera C3, but case1_aerial_to_ground/query is of aerial cameras",
    ),
    "aerial in ground": (
        add(f"{CASE2}/query/1604/tracklet_99/{name(4, 1)}"),
        "tracklet_99: camera C4, but case2_ground_to_aerial/query is of ground cameras",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_one_clear_message(tmp_path: Path, fault: str) -> None:
    """For each fault, one line names the folder and a way out."""
    root = make(tmp_path / "agvpreid")
    damage, message = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=message) as error:
        agvpreid.read(root)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_identities_that_attributes_contradict_are_said(tmp_path: Path) -> None:
    """Attributes of one identity that differ between query and gallery make the build warn; equal ones do not."""
    root = make(tmp_path / "agvpreid")
    folder = root / "attributes" / CASE1
    folder.mkdir(parents=True)
    (folder / "query.csv").write_text("id,gender,age\n1604,0,2\n1605,1,3\n1606,1,3\n")
    (folder / "gallery.csv").write_text("id,gender,age\r\n1604,0,2\r\n1605,1,3\r\n")
    assert set(agvpreid.read(root).facts) == {"identities", "copies"}
    (folder / "gallery.csv").write_text("id,gender,age\n1604,1,2\n1605,1,3\n")
    assert "attributes of 1 of 2 identities differ between query and gallery" in agvpreid.read(root).facts["doubtful"]


def test_skipped_folders_are_said(tmp_path: Path) -> None:
    """Folders beside train and the cases, and loose pictures."""
    root = make(tmp_path / "agvpreid")
    (root / "case4_ground_to_ground").mkdir()
    (root / "train/loose.jpg").write_bytes(b"")
    assert agvpreid.read(root).facts["skipped"] == (
        "folders: 1 (case4_ground_to_ground/); pictures where folders belong: 1 (train/loose.jpg)"
    )
