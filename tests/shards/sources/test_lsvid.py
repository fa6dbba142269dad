from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
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
# start, end, label, camera: counted by hand from the lists above
INFO = {"val": [(1, 2, 0, 1), (3, 5, 0, 3)], "test": [(1, 3, 0, 4), (4, 7, 0, 15), (8, 9, 0, 15), (10, 11, 5, 7)]}


def save_v5(path: Path, content: dict[str, np.ndarray]) -> None:
    scipy.io.savemat(path, content)


def save_v73(path: Path, content: dict[str, np.ndarray]) -> None:
    """As MATLAB does it: a head of 512 bytes before the HDF5, and matrices by columns, transposed for HDF5."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in content.items():
            file.create_dataset(name, data=array.T)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


Save = Callable[[Path, dict[str, np.ndarray]], None]


def make(root: Path, save: Mapping[str, Save]) -> Path:
    """A small set in the layout of the kit, whose info_val.mat calls its rows info_test, too."""
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
            path = root / part / "data" / f"info_{part}.mat"
            path.parent.mkdir(parents=True)
            save[part](path, {"info_test": np.array(INFO[part], float), "query": np.array([QUERIES[part]], float)})
    return root


BOTH_WAYS = [{"val": save_v5, "test": save_v73}, {"val": save_v73, "test": save_v5}]


@pytest.mark.parametrize("save", BOTH_WAYS, ids=["test v7.3", "val v7.3"])
def test_labels_of_three_parts_are_three_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Mapping[str, Save]
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


def info(root: Path, line: int, row: tuple[float, float, int, int]) -> None:
    """Put another row into info_test.mat, and write it as v5."""
    path = root / "test" / "data" / "info_test.mat"
    rows = np.array(INFO["test"], float)
    rows[line - 1] = row
    save_v5(path, {"info_test": rows, "query": np.array([QUERIES["test"]])})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: edit(root, "tracklet_test/0005", "../0005"), r"list_seq_test.txt:4: .* leads out of"),
        (lambda root: edit(root, "tracklet_test/0005", "/tmp/0005"), r"list_seq_test.txt:4: .* leads out of"),
        (lambda root: edit(root, "0005_0003_07 5", "0005_0003_07 5 x"), r"list_seq_test.txt:4: .* is not a line like"),
        (lambda root: edit(root, "0005_0003_07", "0005-07"), r"list_seq_test.txt:4: .* is not a line like"),
        (lambda root: edit(root, "0005_0003_07 5", "0005_0003_07 6"), r"info_test.mat: row 4: label 5, camera 7, but"),
        (lambda root: edit(root, "tracklet_test/0005/0005_0003_07 5\n", ""), r"shape \(4, 4\), but the list has 3"),
        (
            lambda root: (root / "test/data/info_test.mat").unlink(),
            "info_test.mat: missing in .*; it comes with LS-VID",
        ),
        (lambda root: (root / "val/data/info_val.mat").write_bytes(b"x"), "info_val.mat: not a readable MATLAB file"),
        (
            lambda root: (root / "test/data/info_test.mat").write_bytes(
                (root / "test/data/info_test.mat").read_bytes()[:700]
            ),
            "info_test.mat: not a readable MATLAB file",
        ),
        (lambda root: (root / "list_sequence/list_seq_val.txt").unlink(), "list_seq_val.txt: missing"),
        (lambda root: (root / "list_sequence/list_seq_train.txt").unlink(), "list_seq_train.txt: missing in"),
        (lambda root: info(root, 2, (4, 3, 0, 15)), r"info_test.mat: row 2: 4 to 3 is not a range"),
        (lambda root: info(root, 2, (0, 3, 0, 15)), r"info_test.mat: row 2: 0 to 3 is not a range"),
        (
            lambda root: info(root, 2, (4, 6, 0, 15)),
            r"row 2: 4 to 6 are 3 frames, but .*0000_0010_15_\* are 4 pictures",
        ),
        (lambda root: info(root, 2, (4, 7.5, 0, 15)), r"info_test does not hold whole numbers \(fractions"),
        (lambda root: info(root, 2, (4, np.nan, 0, 15)), r"info_test does not hold whole numbers \(fractions"),
        (
            lambda root: (root / "tracklet_test/0000/0000_0010_15_99.jpg").write_bytes(picture(99, (16, 8))),
            r"row 2: 4 to 7 are 4 frames, but .*0000_0010_15_\* are 5 pictures; remove those of other tracklets",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    """Lines that lead out of the folder or are of another form, lists and info that disagree, files gone or damaged."""
    root = make(tmp_path / "LS-VID", BOTH_WAYS[0])
    spoil(root)
    with pytest.raises(DataError, match=message):
        lsvid.read(root, partial=True)


def test_counts_are_official_or_refused(tmp_path: Path) -> None:
    """An incomplete data set is refused; so is a folder that is not part of one."""
    root = make(tmp_path / "LS-VID", BOTH_WAYS[0])
    with pytest.raises(DataError, match=r"test tracklets 4, not 11,333; .*accept it with --partial"):
        lsvid.read(root)
    with pytest.raises(DataError, match="give the folder LS-VID that holds list_sequence"):
        lsvid.read(tmp_path)


def test_a_query_outside_the_list_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows count from 1: 0 and one too many are none."""
    for number, wrong in enumerate((0, 5)):
        monkeypatch.setitem(QUERIES, "test", [1, wrong])
        root = make(tmp_path / str(number), BOTH_WAYS[0])
        with pytest.raises(DataError, match=rf"info_test.mat: query {wrong}, but the list has lines 1 to 4"):
            lsvid.read(root, partial=True)


def test_the_variables_of_the_kit_and_of_older_tools(tmp_path: Path) -> None:
    """The kit's info_val.mat holds `info_test` and `query`; a file with `info_val` is taken, too; any other name is
    refused by naming what is there. info_test.mat has no second name."""
    root = make(tmp_path / "LS-VID", BOTH_WAYS[0])
    path = root / "val/data/info_val.mat"
    assert "info_test" in scipy.io.loadmat(path)
    kit = lsvid.read(root, partial=True)
    rows, query = np.array(INFO["val"], float), np.array([QUERIES["val"]], float)
    save_v5(path, {"info_val": rows, "query": query})
    assert [t.roles for t in lsvid.read(root, partial=True).tracklets] == [t.roles for t in kit.tracklets]
    save_v5(path, {"info": rows, "query": query})
    with pytest.raises(DataError, match=r"info_val.mat: no variable info_test or info_val \(only info, query\)"):
        lsvid.read(root, partial=True)
    save_v5(path, {"info_val": rows, "query": query})
    save_v5(root / "test/data/info_test.mat", {"info_val": np.array(INFO["test"]), "query": query})
    with pytest.raises(DataError, match=r"info_test.mat: no variable info_test"):
        lsvid.read(root, partial=True)


@pytest.mark.parametrize("place", ["test/data", "data", "info/data", "."])
def test_lists_and_info_lie_in_several_places(tmp_path: Path, place: str) -> None:
    """The tracklets are the same in each place where copies of the set keep these files."""
    root = make(tmp_path / "LS-VID", BOTH_WAYS[0])
    before = lsvid.read(root, partial=True)
    (root / place).mkdir(parents=True, exist_ok=True)
    for part in ("val", "test"):
        (root / part / "data" / f"info_{part}.mat").rename(root / place / f"info_{part}.mat")
    lists = root / ("info/list_sequence" if "info" in place else place)
    lists.mkdir(exist_ok=True)
    for path in (root / "list_sequence").iterdir():
        path.rename(lists / path.name)
    after = lsvid.read(root, partial=True)
    assert [(t.key, t.pid, t.roles) for t in after.tracklets] == [(t.key, t.pid, t.roles) for t in before.tracklets]


@pytest.mark.parametrize("name", ["info_test.mat", "list_seq_train.txt"])
def test_two_files_of_a_name_must_be_equal(tmp_path: Path, name: str) -> None:
    """A copy of a list or info file in a second place is no matter; another version of it is refused, both named."""
    root = make(tmp_path / "LS-VID", BOTH_WAYS[0])
    (path,) = root.rglob(name)
    second = root / "data" / name
    second.parent.mkdir()
    second.write_bytes(path.read_bytes())
    lsvid.read(root, partial=True)
    second.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=rf"LS-VID/\S+{name} and \S+{name} differ; keep the original"):
        lsvid.read(root, partial=True)


COUNTS = {
    "training identities": 2,
    "training tracklets": 2,
    "validation identities": 1,
    "validation tracklets": 2,
    "validation queries": 1,
    "test identities": 2,
    "test tracklets": 4,
    "queries": 2,
    "cameras": 7,
}


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set whose counts are the official ones."""
    monkeypatch.setattr(lsvid, "OFFICIAL_COUNTS", COUNTS)
    return make(tmp_path / "LS-VID", BOTH_WAYS[0])


@pytest.mark.parametrize("gone", ["list and info", "pictures", "list, info and pictures"])
def test_a_copy_without_the_validation_part_is_whole(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    """Many copies hold train and test alone: they build without --partial, with one protocol; `info` says it."""
    monkeypatch.setitem(COUNTS, "cameras", 5)
    if "pictures" in gone:
        shutil.rmtree(whole / "tracklet_val")
    if "list" in gone:
        (whole / "list_sequence/list_seq_val.txt").unlink()
        (whole / "val/data/info_val.mat").unlink()
    out = whole.parent / "out"
    assert main(["build", "lsvid", "--source", str(whole), "--out", str(out), "--workers", "1"]) == 0
    source = lsvid.read(whole)
    assert [protocol.name for protocol in source.protocols] == ["official"]
    assert len(source.tracklets) == 6
    assert "partial" not in source.facts
    assert source.facts["validation"].startswith("none in this copy: no ")
    assert main(["info", str(out)]) == 0
    assert "validation: none in this copy" in capsys.readouterr().out


def test_half_a_validation_part_is_named(whole: Path) -> None:
    """List and pictures without info_val.mat: refused, or left out with --partial, which says so; info_val.mat without
    the list: refused."""
    path, listed = whole / "val/data/info_val.mat", whole / "list_sequence/list_seq_val.txt"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"info_val.mat: missing in .*LS-VID, but list and pictures .* --partial"):
        lsvid.read(whole)
    source = lsvid.read(whole, partial=True)
    assert source.facts["validation"] == "left out: info_val.mat is missing"
    assert len(source.tracklets) == 6
    path.write_bytes(content)
    listed.unlink()
    for partial in (False, True):
        with pytest.raises(DataError, match=r"list_seq_val.txt: missing in .*LS-VID, but \S+info_val.mat exists"):
            lsvid.read(whole, partial=partial)


def test_missing_pictures_are_refused_or_counted(whole: Path) -> None:
    """Rows say how many pictures a tracklet has. Without --partial each tracklet that lacks some is named; with it, one
    that has none is left out, and the fact `partial` counts all that is missing."""
    (whole / "tracklet_test/0000/0000_0010_15_9.jpg").unlink()
    for frame in (8, 9):
        (whole / f"tracklet_test/0000/0000_001_15_{frame}.jpg").unlink()
        (whole / f"tracklet_train/0001/0001_0002_02_{frame}.jpg").unlink()
    message = (
        r"listed in \S+list_seq_train.txt, but missing: \S+0001_0002_02_\*; unpack them again\n"
        r"\S+info_test.mat: pictures of 2 tracklets are missing, 3 in all: \S+0000_0010_15_\* \(3 of 4\), "
        r"\S+0000_001_15_\* \(0 of 2\)\n.*--partial"
    )
    with pytest.raises(DataError, match=message):
        lsvid.read(whole)
    source = lsvid.read(whole, partial=True)
    assert [(t.key, t.num_frames) for t in source.tracklets if t.pid > 20_000] == [
        ("test-0000_0001_04", 3),
        ("test-0000_0010_15", 3),
        ("test-0005_0003_07", 2),
    ]
    assert "test tracklets 3, not 4" in source.facts["partial"]
    assert "pictures of 2 tracklets are missing, 3 in all" in source.facts["partial"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((5, 8, 0, 15), "1 rows overlap, the first is 8 to 9"),
        ((3, 6, 0, 15), "1 rows overlap, the first is 3 to 6"),
        ((14, 17, 0, 15), "2 rows leave a gap before them, the first is 8 to 9"),
    ],
)
def test_rows_follow_each_other(whole: Path, row: tuple[int, int, int, int], message: str) -> None:
    """Rows count the frames of a part from 1 to the last: where they overlap or leave frames out, the file is not the
    original."""
    info(whole, 2, row)
    with pytest.raises(DataError, match=rf"info_test.mat: {message}"):
        lsvid.read(whole)
    assert message in lsvid.read(whole, partial=True).facts["partial"]


def test_pictures_in_no_list_are_counted(whole: Path) -> None:
    """They are in no tracklet, and `info` says how many there are."""
    for frame in (1, 2, 3):
        (whole / f"tracklet_test/0005/0005_0044_07_{frame}.jpg").write_bytes(picture(frame, (16, 8)))
    assert lsvid.read(whole).facts["not listed"].startswith("3 pictures")
