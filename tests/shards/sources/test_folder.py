from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import shards
from shards.__main__ import main
from shards.records import DataError, Role
from shards.sources import folder
from tests.shards.trees import hostile_order, official_split, picture

seeds = itertools.count()


def make(root: Path, *tracklets: str, frames: tuple[str, ...] = ("1.jpg", "2.jpg", "10.jpg")) -> Path:
    for tracklet in tracklets:
        (root / tracklet).mkdir(parents=True)
        for name in frames:
            (root / tracklet / name).write_bytes(picture(next(seeds), (16, 8)))
    return root


def roles(root: Path) -> dict[str, tuple[Role, ...]]:
    return {tracklet.key: tracklet.roles for tracklet in folder.read(root).tracklets}


def test_train_and_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tracklet of an identity and camera asks, 2 before 10; distractors and junk never do; frames go by their
    numbers, however the disk lists them."""
    hostile_order(monkeypatch)
    root = make(
        tmp_path / "mine",
        *("train/3/1/a", "train/3/2/a", "test/7/1/10", "test/7/1/2", "test/7/2/1", "test/8/2/1"),
        *("test/distractor/1/1", "test/junk/2/1"),
    )
    (root / ".cache").mkdir()
    out = tmp_path / "out"
    assert main(["build", "folder", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    both = Role.QUERY | Role.GALLERY
    assert roles(root) == {
        "train-0003C1T0001": (Role.TRAIN,),
        "train-0003C2T0001": (Role.TRAIN,),
        "test-0007C1T0001": (both,),
        "test-0007C1T0002": (Role.GALLERY,),
        "test-0007C2T0001": (both,),
        "test-0008C2T0001": (both,),
        "test-distractorC1T0001": (Role.GALLERY,),
        "test-junkC2T0001": (Role.GALLERY | Role.JUNK,),
    }
    source = folder.read(root)
    tracklet = next(t for t in source.tracklets if t.key == "test-0007C1T0001")
    assert [Path(frame.name).relative_to(root) for frame in tracklet.frames()] == [
        Path("test/7/1/2") / name for name in ("1.jpg", "2.jpg", "10.jpg")
    ]
    counts = official_split(out)
    assert [counts[role]["tracklets"] for role in ("train", "query", "gallery", "distractors", "junk")] == [
        2,
        3,
        5,
        1,
        1,
    ]
    assert counts["valid_queries"] == 2
    assert (source.name, source.facts) == ("mine", {})


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target)


def test_query_and_gallery(tmp_path: Path) -> None:
    """A query that stands in the gallery, too, is one tracklet, also under another name of the tracklet or its
    pictures; one that does not is a query alone."""
    root = make(tmp_path / "mine", "train/1/1/a", "query/2/1/a", "query/3/1/a", "query/3/2/a", "gallery/3/2/b")
    copy(root / "query/2/1/a", root / "gallery/2/1/a")
    copy(root / "query/3/1/a", root / "gallery/3/1/other")
    for number, name in enumerate(("1.jpg", "2.jpg", "10.jpg"), start=7):
        (root / "gallery/3/1/other" / name).rename(root / "gallery/3/1/other" / f"{number}.JPG")
    assert roles(root) == {
        "train-0001C1T0001": (Role.TRAIN,),
        "query-0003C2T0001": (Role.QUERY,),
        "gallery-0002C1T0001": (Role.QUERY | Role.GALLERY,),
        "gallery-0003C1T0001": (Role.QUERY | Role.GALLERY,),
        "gallery-0003C2T0001": (Role.GALLERY,),
    }
    assert folder.read(root).facts["copies"] == "queries with the same bytes in the gallery, stored once: 2"


def other_pixels(gallery: Path) -> None:
    """The same size in bytes, and other bytes."""
    data = (gallery / "2.jpg").read_bytes()
    (gallery / "2.jpg").write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])


def other_order(gallery: Path) -> None:
    (gallery / "1.jpg").rename(gallery / "11.jpg")


@pytest.mark.parametrize(
    "change",
    [other_pixels, other_order, lambda gallery: (gallery / "10.jpg").unlink()],
    ids=["bytes", "order", "count"],
)
def test_namesakes_with_other_pictures_are_two_tracklets(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """A query and a gallery tracklet of one name whose pictures differ are both stored, each with its own pictures."""
    root = make(tmp_path / "mine", "train/1/1/a", "query/2/1/a", "gallery/2/2/a")
    copy(root / "query/2/1/a", root / "gallery/2/1/a")
    change(root / "gallery/2/1/a")
    assert main(["build", "folder", "--source", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    reader = shards.open(tmp_path / "out")
    for split, role in (("query", Role.QUERY), ("gallery", Role.GALLERY)):
        paths = sorted((root / split / "2/1/a").iterdir(), key=lambda path: int(path.stem))
        i = reader.find(f"{split}-0002C1T0001")
        assert (reader.roles()[i], reader.num_frames[i]) == (role, len(paths))
        assert [reader.encoded(i, number) for number in range(len(paths))] == [path.read_bytes() for path in paths]
    assert reader.facts["copies"] == "queries with a namesake of other pictures in the gallery, both stored: 1"


def test_each_copy_is_one_query(tmp_path: Path) -> None:
    """Two queries with the same bytes and one copy in the gallery: its namesake is the copy, the other a query."""
    root = make(tmp_path / "mine", "train/1/1/a", "query/2/1/b", "gallery/2/2/a")
    copy(root / "query/2/1/b", root / "query/2/1/a")
    copy(root / "query/2/1/b", root / "gallery/2/1/b")
    assert [key for key, (role,) in roles(root).items() if role & Role.QUERY] == [
        "query-0002C1T0001",
        "gallery-0002C1T0001",
    ]
    (kept,) = (t for t in folder.read(root).tracklets if t.key == "query-0002C1T0001")
    assert next(kept.frames()).name == str(root / "query/2/1/a/1.jpg")


def test_validation_and_names(tmp_path: Path) -> None:
    """`val` is a protocol of its own; names of people and cameras get numbers in their order, which the facts tell."""
    root = make(tmp_path / "mine", "train/ann/left/x", "train/bob/right/x", "val/cy/left/x", "val/cy/right/x")
    make(root, "test/dan/left/x")
    source = folder.read(root, name="ours")
    assert source.facts == {"identities": "1 ann, 2 bob, 3 cy, 4 dan", "cameras": "1 left, 2 right"}
    assert [protocol.name for protocol in source.protocols] == ["test", "validation"]
    both = Role.QUERY | Role.GALLERY
    assert [(t.pid, t.camid, t.roles) for t in source.tracklets] == [
        (1, 1, (Role.TRAIN, Role.TRAIN)),
        (2, 2, (Role.TRAIN, Role.TRAIN)),
        (4, 1, (both, Role.NONE)),
        (3, 1, (Role.NONE, both)),
        (3, 2, (Role.NONE, both)),
    ]
    assert source.name == "ours"


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    """Splits that make no layout, a level missing, a folder without pictures."""
    with pytest.raises(DataError, match="folders gallery, train; expected train and test"):
        folder.read(make(tmp_path / "a", "train/1/1/x", "gallery/1/1/x"))
    with pytest.raises(DataError, match="train/1/1: contains no folders of tracklets"):
        folder.read(make(tmp_path / "b", "train/1/1", "test/1/1/x"))
    with pytest.raises(DataError, match="test: no tracklet"):
        folder.read(make(tmp_path / "c", "train/1/1/x", "test/1"))
    with pytest.raises(DataError, match="x: contains no picture"):
        folder.read(make(tmp_path / "d", "train/1/1/x", "test/1/1/x", frames=("1.txt",)))
    with pytest.raises(DataError, match="train/junk/1/x: junk can be neither trained on nor queried"):
        folder.read(make(tmp_path / "e", "train/junk/1/x", "test/1/1/x"))
    with pytest.raises(DataError, match="query/distractor/1/x: distractor can be neither trained on nor queried"):
        folder.read(make(tmp_path / "f", "train/1/1/x", "query/distractor/1/x", "gallery/1/1/x"))
    with pytest.raises(DataError, match="nowhere: missing"):
        folder.read(tmp_path / "nowhere")
    root = make(tmp_path / "g", "train/1/1/x", "test/1/1/x")
    for name in ("train/2", "train/4"):
        (root / name).mkdir()
    with pytest.raises(DataError, match=r"train/2, .*train/4: contains no folders of cameras"):
        folder.read(root)
    with pytest.raises(DataError, match=r"1\.PNG and 0001\.jpg have the same frame number"):
        folder.read(make(tmp_path / "h", "train/1/1/x", "test/1/1/x", frames=("0001.jpg", "1.PNG")))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/1/1/x", "test/01/1/x"), "identities '01' and '1' differ in zeros, spaces or letter case alone"),
        (("train/Ann/1/x", "test/ann/1/x"), "identities 'Ann' and 'ann' differ"),
        (("train/1/1/x", "test/2/001/x"), "cameras '001' and '1' differ"),
        (("train/0000/1/x", "test/2/1/x"), "train/0000/1/x: 0000 can be neither trained on nor queried"),
        (("query/-1/1/x", "gallery/2/1/x"), "query/-1/1/x: -1 can be neither trained on nor queried"),
        (("train/1/1/x", "test/0/1/x"), "identity 0: a person, or MARS's distractors"),
    ],
)
def test_names_of_two_meanings_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    """One number or name in two spellings, a distractor that trains, an identity 0 that may be a person."""
    with pytest.raises(DataError, match=message):
        folder.read(make(tmp_path / "mine", *names))


def test_the_names_of_mars(tmp_path: Path) -> None:
    """`0000` is a distractor, `00-1` and `-1` are junk, which the facts say; a 0 that trains is a person."""
    root = make(tmp_path / "mine", "train/1/1/a", "test/2/1/a", "test/2/2/a")
    make(root, "test/0000/1/a", "test/distractor/1/a", "test/00-1/1/a", "test/-1/2/a")
    source = folder.read(root)
    assert {t.key: (t.pid, t.roles[0]) for t in source.tracklets if t.pid < 1} == {
        "test-distractorC1T0001": (0, Role.GALLERY),
        "test-distractorC1T0002": (0, Role.GALLERY),
        "test-junkC1T0001": (-1, Role.GALLERY | Role.JUNK),
        "test-junkC2T0001": (-1, Role.GALLERY | Role.JUNK),
    }
    assert source.facts == {"distractors and junk": "0000 is distractor, 00-1 is junk, -1 is junk"}
    zero = folder.read(make(tmp_path / "zero", "train/0/1/a", "test/1/1/a"))
    assert ([t.pid for t in zero.tracklets], zero.facts) == ([1, 2], {"identities": "1 0, 2 1"})


def test_what_is_not_read_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loose pictures, other types and folders too deep stand in the facts, which `info` shows; other types of pictures
    are read."""
    root = make(tmp_path / "mine", "train/1/1/a", "test/2/1/a", frames=("1.JPG", "2.jpe"))
    for name in ("train/loose.jpg", "test/2/1/loose.png", "test/2/1/a/3.heic"):
        (root / name).write_bytes(b"")
    (root / "train/1/1/a/deep").mkdir()
    out = tmp_path / "out"
    assert main(["build", "folder", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    facts = shards.open(out).facts
    assert facts["skipped"] == (
        "files of other types: 1 (test/2/1/a/3.heic); folders: 1 (train/1/1/a/deep/); "
        "pictures where folders belong: 2 (train/loose.jpg, test/2/1/loose.png)"
    )
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    assert "pictures where folders belong: 2" in capsys.readouterr().out.replace("\n", " ")


def test_tracklets_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --unlabelled, each folder is a tracklet of its name: a distractor of camera 0 in the gallery. The set is
    whole and can be shown, and has no queries."""
    root = make(tmp_path / "mine", "cam1-track10", "cam1-track2")
    out = tmp_path / "out"
    command = ["build", "folder", "--source", str(root), "--out", str(out), "--workers", "1"]
    assert main(command) == 1
    assert "expected train and test" in capsys.readouterr().err
    assert main([*command, "--unlabelled"]) == 0
    reader = shards.open(out)
    assert [reader[i].key for i in range(len(reader))] == ["cam1-track2", "cam1-track10"]
    assert (reader.pids.tolist(), reader.camids.tolist(), reader.num_frames.tolist()) == ([0, 0], [0, 0], [3, 3])
    assert reader.roles().tolist() == [Role.GALLERY, Role.GALLERY]
    assert reader.encoded(1, 2) == (root / "cam1-track10" / "10.jpg").read_bytes()
    for subcommand in ("verify", "info"):
        assert main([subcommand, str(out)]) == 0
    assert "nobody is identified" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "contains no folder"),
        (("a/1/1", "b/1/1"), "a: contains no picture .*, but 1"),
        (("a", "b.c", "ü"), "b.c, ü: the name of a tracklet has at most 80 letters"),
    ],
)
def test_unlabelled_folders_of_another_layout(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    """A labelled layout, an empty folder and names that cannot be keys are refused."""
    with pytest.raises(DataError, match=message):
        folder.read_unlabelled(make(tmp_path, *names))
