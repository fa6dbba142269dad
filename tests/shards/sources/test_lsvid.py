from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from shards.__main__ import main
from shards.records import DataError, Role
from shards.sources import lsvid
from tests.shards.trees import hostile_order, official_split, picture

# path prefix, label, frames: label 0 is another person in each part; a camera stands in the third part of the name
Row = tuple[str, int, int]
LISTS: dict[str, list[Row]] = {
    "train": [("tracklet_train/0000/0000_0001_13", 0, 12), ("tracklet_train/0001/0001_0002_02", 1, 2)],
    "val": [("tracklet_val/0000/0000_0001_01", 0, 2), ("tracklet_val/0000/0000_0002_03", 0, 3)],
    "test": [
        ("tracklet_test/0000/0000_0001_04", 0, 3),
        ("tracklet_test/0000/0000_0010_15", 0, 4),
        ("tracklet_test/0000/0000_001_15", 0, 2),  # a prefix of the one before, but for the _
        ("tracklet_test/0005/0005_0003_07", 5, 2),
    ],
}
QUERIES = {"val": [1], "test": [1, 4]}


def save_v5(path: Path, content: dict[str, np.ndarray]) -> None:
    scipy.io.savemat(path, content)


def save_v73(path: Path, content: dict[str, np.ndarray]) -> None:
    """As MATLAB does it: a head of 512 bytes before the HDF5, and matrices by columns, transposed for HDF5."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in content.items():
            file.create_dataset(name, data=array.T)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def make(root: Path, save: dict[str, Callable[[Path, dict[str, np.ndarray]], None]]) -> Path:
    seed = 0
    (root / "list_sequence").mkdir(parents=True)
    for part, rows in LISTS.items():
        (root / "list_sequence" / f"list_seq_{part}.txt").write_text("".join(f"{row[0]} {row[1]}\n" for row in rows))
        for prefix, _, frames in rows:
            (root / prefix).parent.mkdir(parents=True, exist_ok=True)
            for frame in range(8, 8 + frames):
                seed += 1
                (root / f"{prefix}_{frame}.jpg").write_bytes(picture(seed, (16, 8)))
        if part != "train":
            ends = np.cumsum([row[2] for row in rows])
            info = [
                (end - n + 1, end, label, int(prefix[-2:])) for (prefix, label, n), end in zip(rows, ends, strict=True)
            ]
            path = root / part / "data" / f"info_{part}.mat"
            path.parent.mkdir(parents=True)
            save[part](path, {f"info_{part}": np.array(info, float), "query": np.array([QUERIES[part]], float)})
    return root


BOTH_WAYS = [{"val": save_v5, "test": save_v73}, {"val": save_v73, "test": save_v5}]


@pytest.mark.parametrize("save", BOTH_WAYS, ids=["test v7.3", "val v7.3"])
def test_labels_of_three_parts_are_three_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: dict[str, Callable[[Path, dict[str, np.ndarray]], None]]
) -> None:
    """MATLAB files of both versions; labels that each part begins at 0; frames by number, of this prefix alone; the
    gallery with the queries in it; a query that nobody else has seen stays, and is not valid."""
    hostile_order(monkeypatch)
    root, out = make(tmp_path / "LS-VID", save), tmp_path / "out"
    assert main(["build", "lsvid", "--partial", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    source = lsvid.read(root, partial=True)
    assert [(t.pid, t.camid, t.num_frames) for t in source.tracklets] == [
        (1, 13, 12),
        (2, 2, 2),
        (10_001, 1, 2),
        (10_001, 3, 3),
        (20_001, 4, 3),
        (20_001, 15, 4),
        (20_001, 15, 2),
        (20_006, 7, 2),
    ]
    assert [Path(f.name).name for f in source.tracklets[0].frames()] == [f"0000_0001_13_{n}.jpg" for n in range(8, 20)]
    both = Role.QUERY | Role.GALLERY
    assert [t.roles for t in source.tracklets] == [
        (Role.TRAIN, Role.TRAIN),
        (Role.TRAIN, Role.TRAIN),
        (Role.NONE, both),
        (Role.NONE, Role.GALLERY),
        (both, Role.NONE),
        (Role.GALLERY, Role.NONE),
        (Role.GALLERY, Role.NONE),
        (both, Role.NONE),
    ]
    test, val = (official_split(out, protocol) for protocol in (0, 1))
    assert [test[role]["tracklets"] for role in ("train", "query", "gallery")] == [2, 2, 4]
    assert (test["valid_queries"], val["valid_queries"]) == (1, 1)
    assert "queries 2, not 3,504" in source.facts["partial"]


def edit(root: Path, old: str, new: str, part: str = "test") -> None:
    path = root / "list_sequence" / f"list_seq_{part}.txt"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: edit(root, "tracklet_test/0005", "../0005"), r"list_seq_test.txt:4: .* leads out of"),
        (lambda root: edit(root, "tracklet_test/0005", "/tmp/0005"), r"list_seq_test.txt:4: .* leads out of"),
        (lambda root: edit(root, "0005_0003_07 5", "0005_0003_07 5 x"), r"list_seq_test.txt:4: .* is no line like"),
        (lambda root: edit(root, "0005_0003_07", "0005-07"), r"list_seq_test.txt:4: .* is no line like"),
        (lambda root: edit(root, "0005_0003_07 5", "0005_0003_07 6"), r"info_test.mat: row 4: label 5, camera 7, but"),
        (lambda root: edit(root, "0005_0003_07", "0005_0009_07"), r"missing: .*0005_0009_07_\*"),
        (lambda root: edit(root, "tracklet_test/0005/0005_0003_07 5\n", ""), r"shape \(4, 4\), but the list has 3"),
        (lambda root: (root / "test/data/info_test.mat").unlink(), "info_test.mat: missing; it comes with LS-VID"),
        (lambda root: (root / "val/data/info_val.mat").write_bytes(b"x"), "info_val.mat: no MATLAB file"),
        (
            lambda root: (root / "test/data/info_test.mat").write_bytes(
                (root / "test/data/info_test.mat").read_bytes()[:700]
            ),
            "info_test.mat: no MATLAB file",
        ),
        (lambda root: (root / "list_sequence/list_seq_val.txt").unlink(), "list_seq_val.txt: missing"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    """Lines that lead out of the folder or are of another form, lists and info that disagree, files gone or damaged."""
    root = make(tmp_path / "LS-VID", BOTH_WAYS[0])
    spoil(root)
    with pytest.raises(DataError, match=message):
        lsvid.read(root, partial=True)


def test_counts_are_official_or_refused(tmp_path: Path) -> None:
    """What is not the whole data set is refused; so is a folder that is none of it."""
    root = make(tmp_path / "LS-VID", BOTH_WAYS[0])
    with pytest.raises(DataError, match=r"test tracklets 4, not 11,333; .*accept it with --partial"):
        lsvid.read(root)
    with pytest.raises(DataError, match="no folder list_sequence here"):
        lsvid.read(tmp_path)


def test_a_query_outside_the_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows count from 1: 0 and one too many are none."""
    for number, wrong in enumerate((0, 5)):
        monkeypatch.setitem(QUERIES, "test", [1, wrong])
        root = make(tmp_path / str(number), BOTH_WAYS[0])
        with pytest.raises(DataError, match=rf"info_test.mat: query {wrong}, but the list has lines 1 to 4"):
            lsvid.read(root, partial=True)
