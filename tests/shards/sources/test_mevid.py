"""MEVID, on trees made from its described form: its lists cannot be downloaded here. Persons, outfits, cameras and
tracklets of the small tree are real ones, of README and test_track_scale.txt in github.com/Kitware/MEVID; lengths are
not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import shards
from shards.__main__ import main
from shards.records import DataError, Role
from shards.sources import mevid
from tests.shards.trees import hostile_order, official_split, picture

Row = tuple[int, int, int, int, int]  # identity, outfit, camera, tracklet, frames

TRAIN: list[Row] = [(103, 20, 424, 0, 10), (103, 20, 424, 1, 2)]
TEST: list[Row] = [
    (201, 3, 330, 18, 2),  # query, matched in the same outfit only
    (201, 3, 336, 3, 3),
    (202, 3, 336, 79, 2),
    (202, 5, 336, 3, 12),
    (202, 5, 436, 1, 2),  # query, matched in the same outfit and in another
    (204, 3, 336, 2, 2),  # query, matched in another outfit only
    (204, 3, 336, 3, 2),
    (204, 5, 329, 5, 1),
]
QUERIES = [0, 4, 5]
PREFIX = "0202O005C336T003"


def names_of(row: Row) -> list[str]:
    pid, outfit, camid, tracklet, frames = row
    return [f"{pid:04d}O{outfit:03d}C{camid}T{tracklet:03d}F{frame:05d}.jpg" for frame in range(frames)]


def write_lists(folder: Path, part: str, rows: Sequence[Row], queries: Sequence[int] = ()) -> None:
    """A part's lists as MEVID prints them: numbers as floats, rows from 0, ends inclusive."""
    folder.mkdir(parents=True, exist_ok=True)
    table: list[tuple[int, ...]] = []
    names: list[str] = []
    for row in rows:
        table.append((len(names), len(names) + row[4] - 1, *row[:3]))
        names += names_of(row)
    (folder / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
    lines = (" ".join(f"{number:.18e}" for number in row) for row in table)
    (folder / f"track_{part}_info.txt").write_text("".join(f"{line}\n" for line in lines))
    if queries:
        (folder / "query_IDX.txt").write_text("".join(f"{row:.18e}\n" for row in queries))


def make(root: Path, lists: str = ".") -> Path:
    for part, rows, queries in (("train", TRAIN, ()), ("test", TEST, QUERIES)):
        write_lists(root / lists, part, rows, queries)
        for seed, row in enumerate(rows):
            folder = root / f"bbox_{part}" / f"{row[0]:04d}"
            folder.mkdir(parents=True, exist_ok=True)
            for frame, name in enumerate(names_of(row)):
                (folder / name).write_bytes(picture(100 * seed + frame, (16, 8)))
    return root


@pytest.mark.parametrize("lists", [".", mevid.LISTS])
def test_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lists: str) -> None:
    """Three protocols with the valid queries of their rules; roles, cameras and outfits come from the lists, frames in
    the order of their numbers; lists beside the pictures or in the folder of their archive."""
    hostile_order(monkeypatch)
    root, out = make(tmp_path / "mevid", lists), tmp_path / "out"
    assert main(["build", "mevid", "--partial", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    reader = shards.open(out)
    assert [protocol.name for protocol in reader.protocols] == ["official", "same-clothes", "clothes-changing"]
    for number, valid in enumerate((3, 2, 2)):
        split = official_split(out, number)
        assert [split[role]["tracklets"] for role in ("train", "query", "gallery")] == [2, 3, 5]
        assert split["valid_queries"] == valid
    assert reader.camids.tolist() == [row[2] for row in (*TRAIN, *TEST)]
    assert reader.outfits.tolist() == [row[1] for row in (*TRAIN, *TEST)]
    long = next(t for t in mevid.read(root, partial=True).tracklets if t.key == PREFIX)
    assert [Path(frame.name).name for frame in long.frames()] == names_of(TEST[3])
    assert next(long.frames()).read() == (root / "bbox_test/0202" / f"{PREFIX}F00000.jpg").read_bytes()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def set_row(name: str, number: int, values: str) -> Callable[[Path], None]:
    """Replace a line of a list."""

    def change(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        lines[number] = values
        (root / name).write_text("\n".join(lines))

    return change


def no_pictures(root: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(root / f"bbox_{part}")


def no_lists(root: Path) -> None:
    for name in mevid.FILES:
        (root / name).unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no info": (lambda r: (r / "track_test_info.txt").unlink(), "track_test_info.txt: missing in"),
    "no names": (lambda r: (r / "train_name.txt").unlink(), "train_name.txt: missing in .*bbox_train"),
    "no query": (lambda r: (r / "query_IDX.txt").unlink(), "query_IDX.txt: missing"),
    "empty": (lambda r: (r / "query_IDX.txt").write_text("\n"), "query_IDX.txt: empty"),
    "four columns": (set_row("track_test_info.txt", 2, "5 6 202 336"), "line 3: 4 columns instead of 5"),
    "six columns": (set_row("track_test_info.txt", 2, "5 6 202 3 336 1"), "line 3: 6 columns instead of 5"),
    "fraction": (set_row("track_test_info.txt", 0, "0 1.5 201 3 330"), "line 1: .* not whole numbers"),
    "nan": (set_row("track_test_info.txt", 0, "0 nan 201 3 330"), "line 1: .* not whole numbers"),
    "inf": (set_row("track_test_info.txt", 0, "0 inf 201 3 330"), "line 1: .* not whole numbers"),
    "text": (set_row("query_IDX.txt", 1, "four"), "query_IDX.txt: line 2: 'four': not whole numbers"),
    "end": (set_row("track_test_info.txt", 7, "25 26 204 5 329"), "row 7: lines 25 to 26, but .*lines 0 to 25"),
    "start": (set_row("track_test_info.txt", 0, "-1 1 201 3 330"), "row 0: lines -1 to 1"),
    "identity 0": (set_row("track_test_info.txt", 0, "0 1 0 3 330"), "row 0: identity 0"),
    "identity": (set_row("track_test_info.txt", 0, "0 1 202 3 330"), "row 0: identity 202, .* lists 0201O003C330"),
    "outfit": (set_row("track_test_info.txt", 0, "0 1 201 4 330"), "row 0: .*outfit 4, .* lists 0201O003C330"),
    "camera": (set_row("track_test_info.txt", 0, "0 1 201 3 331"), "row 0: .*camera 331, but it lists 0201O003C330"),
    "two tracklets": (set_row("track_train_info.txt", 0, "0 10 103 20 424"), "row 0: .* not the frames of one"),
    "from 1": (set_row("track_train_info.txt", 0, "1 10 103 20 424"), "row 0: .* not the frames of one tracklet"),
    "row twice": (set_row("track_train_info.txt", 1, "0 4 103 20 424"), "two rows .* 0103O020C424T000"),
    "frame twice": (lambda r: edit(r / "test_name.txt", "T018F00001", "T018F00000"), "not the frames of one"),
    "name": (lambda r: edit(r / "test_name.txt", "0201O003C330T018F00000", "Thumbs"), "'Thumbs.jpg' is not a name"),
    "ending": (lambda r: edit(r / "test_name.txt", "T018F00001.jpg", "T018F1.png"), "F1.png' is not a name"),
    "query row": (set_row("query_IDX.txt", 2, "8"), "row 8, but track_test_info.txt has rows 0 to 7"),
    "query twice": (set_row("query_IDX.txt", 2, "4.0e0"), "names row 4 twice"),
    "query empty": (set_row("track_test_info.txt", 4, "4 3 202 5 436"), "row 4 of track_test_info.txt has no frame"),
    "no pictures": (no_pictures, "no tracklet has all its pictures"),
    "wrong folder": (no_lists, "track_train_info.txt: missing in .* or mevid-v1-annotation-data in it; .*bbox_train"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_one_clear_message(tmp_path: Path, fault: str) -> None:
    """For each missing or damaged list, the error names it, with one line, also with --partial."""
    root = make(tmp_path / "mevid")
    damage, message = FAULTS[fault]
    damage(root)
    with pytest.raises(DataError, match=message) as error:
        mevid.read(root, partial=True)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_without_frames_are_left_out(tmp_path: Path) -> None:
    """A row that ends before it starts is no tracklet, and the fact names it."""
    root = make(tmp_path / "mevid")
    edit(root / "track_train_info.txt", "", "3.0 2.0 103 20 424\n")
    source = mevid.read(root, partial=True)
    assert len(source.tracklets) == 10
    assert source.facts["empty rows"] == "rows that end before they start, left out: 1 (train 0)"


def test_a_partial_download(tmp_path: Path) -> None:
    """Missing pictures are refused by name; --partial leaves out their tracklets and counts them."""
    root = make(tmp_path / "mevid")
    (root / "bbox_test/0202/0202O005C436T001F00001.jpg").unlink()
    shutil.rmtree(root / "bbox_train/0103")
    with pytest.raises(DataError, match=r"bbox_train/0103, .*0202O005C436T001F00001.jpg; .*--partial"):
        mevid.read(root)
    source = mevid.read(root, partial=True)
    assert [t.key[:4] for t in source.tracklets] == ["0201", "0201", "0202", "0202", "0204", "0204", "0204"]
    assert source.facts["partial"].endswith(
        "are missing: 3 (0103O020C424T000, 0103O020C424T001, 0202O005C436T001), queries among them: 1"
    )


def test_unlisted_pictures_are_said(tmp_path: Path) -> None:
    """Pictures and folders that the lists do not name are counted; a complete tree has none."""
    root = make(tmp_path / "mevid")
    assert set(mevid.read(root, partial=True).facts) == {"partial"}
    (root / "bbox_test/0204/0204O005C329T005F00001.jpg").write_bytes(b"")
    (root / "bbox_test/0300").mkdir()
    assert mevid.read(root, partial=True).facts["skipped"] == (
        "folders: 1 (bbox_test/0300/); pictures that the info files do not list: 1 "
        "(bbox_test/0204/0204O005C329T005F00001.jpg)"
    )


def official_rows() -> tuple[list[Row], list[Row], list[int]]:
    """Rows of one frame that have MEVID's official counts; which outfit and camera a person has is made up."""
    tracklets: dict[int, int] = {}

    def row(pid: int, outfit: int, camid: int) -> Row:
        tracklets[pid] = tracklets.get(pid, -1) + 1
        return pid, outfit, camid, tracklets[pid], 1

    train = [
        row(number % 104 + 1, number // 104 % (5 if number % 104 < 69 else 4), 300 + number % 33)
        for number in range(6_338)
    ]
    gallery = []
    for person in range(54):  # two outfits by two cameras, three for six persons
        outfits = {49: (1,), 50: (2,)}.get(person, (1, 2, 3) if person < 6 else (1, 2))
        gallery += [row(201 + person, outfit, camid) for outfit in outfits for camid in (301, 302)]
    gallery += [row(254, 1, 301) for _ in range(1_438 - len(gallery))]
    both = [person for person in range(52) if person not in (49, 50)]
    query = [row(201 + both[number % 50], 1, 303) for number in range(260)]
    query += [row(201 + person, 1, 303) for person in (49, 50) for _ in range(28)]  # the same outfit, another outfit
    return train, gallery + query, list(range(len(gallery), len(gallery) + len(query)))


def test_official_counts(tmp_path: Path) -> None:
    """Lists with the official counts are accepted without --partial, their roles and lengths counted; one query less
    is refused with the counts that differ, but not for its match in other clothes, of which no count is certain."""
    train, test, queries = official_rows()
    write_lists(tmp_path, "train", train)
    write_lists(tmp_path, "test", test, queries)
    source = mevid.read(tmp_path, check_files=False)
    assert source.facts == {}
    roles = [tracklet.roles for tracklet in source.tracklets]
    assert [roles.count((role,) * 3) for role in (Role.TRAIN, Role.QUERY, Role.GALLERY)] == [6_338, 316, 1_438]
    write_lists(tmp_path, "test", test, queries[:-1])
    message = (
        r"queries 315, not 316; gallery tracklets 1,439, not 1,438; valid queries \(official\) 315, not 316; "
        r"complete it, or accept it with --partial"
    )
    with pytest.raises(DataError, match=message):
        mevid.read(tmp_path, check_files=False)
