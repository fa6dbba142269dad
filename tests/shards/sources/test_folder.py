from __future__ import annotations

import itertools
from pathlib import Path

import pytest

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
    asked = next(t for t in source.tracklets if t.key == "test-0007C1T0001")
    assert [Path(frame.name).relative_to(root) for frame in asked.frames()] == [
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


def test_query_and_gallery(tmp_path: Path) -> None:
    """A query that stands in the gallery, too, is one tracklet; one that does not is a query alone."""
    root = make(tmp_path / "mine", "train/1/1/a", "query/2/1/a", "query/3/1/a", "gallery/3/2/b")
    copy = root / "gallery/2/1/a"
    copy.parent.mkdir(parents=True)
    copy.mkdir()
    for path in (root / "query/2/1/a").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert roles(root) == {
        "train-0001C1T0001": (Role.TRAIN,),
        "query-0003C1T0001": (Role.QUERY,),
        "gallery-0002C1T0001": (Role.QUERY | Role.GALLERY,),
        "gallery-0003C2T0001": (Role.GALLERY,),
    }
    (copy / "1.jpg").unlink()
    with pytest.raises(DataError, match="have one name and other pictures"):
        folder.read(root)


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
    with pytest.raises(DataError, match="folders gallery, train; train and test belong here"):
        folder.read(make(tmp_path / "a", "train/1/1/x", "gallery/1/1/x"))
    with pytest.raises(DataError, match="train/1/1: no folders of tracklets in it"):
        folder.read(make(tmp_path / "b", "train/1/1", "test/1/1/x"))
    with pytest.raises(DataError, match="test: not one tracklet"):
        folder.read(make(tmp_path / "c", "train/1/1/x", "test/1"))
    with pytest.raises(DataError, match="x: no picture in it"):
        folder.read(make(tmp_path / "d", "train/1/1/x", "test/1/1/x", frames=("1.txt",)))
    with pytest.raises(DataError, match="train/junk/1/x: junk neither trains nor asks"):
        folder.read(make(tmp_path / "e", "train/junk/1/x", "test/1/1/x"))
    with pytest.raises(DataError, match="query/distractor/1/x: distractor neither trains nor asks"):
        folder.read(make(tmp_path / "f", "train/1/1/x", "query/distractor/1/x", "gallery/1/1/x"))
    with pytest.raises(DataError, match="nowhere: missing"):
        folder.read(tmp_path / "nowhere")
