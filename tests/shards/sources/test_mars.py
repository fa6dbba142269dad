from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shards
from shards.__main__ import main
from shards.records import DataError, Frame, Role, Source
from shards.sources import mars
from shards.summary import summary
from shards.write import building, write
from tests.shards.trees import TRAIN, mars_tree, picture, shared_data, write_info


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """MARS read from its real info files; only the name files are made: frames from 001 (F119 where MARS has that)."""
    import scipy.io

    real, root = shared_data("mars"), tmp_path_factory.mktemp("mars")
    shutil.copytree(real, root / "info")
    for part in ("train", "test"):
        rows = scipy.io.loadmat(real / f"tracks_{part}_info.mat")[f"track_{part}_info"].tolist()
        prefixes = [line.split()[0].split("/")[1] for line in (real / f"list_{part}_seq.txt").open()]
        names = []
        for (start, end, _, _), prefix in zip(rows, prefixes, strict=True):
            first = 119 if prefix == "0008C3T0004" else 1
            names += [f"{prefix}F{frame:03d}.jpg\n" for frame in range(first, first + end - start + 1)]
        (root / "info" / f"{part}_name.txt").write_text("".join(names))
    return mars.read(root, check_files=False)


def tracklets_of(source: Source, role: Role, protocol: str = "official") -> list[int]:
    """Positions of the tracklets with a role, junk left out unless it is asked for."""
    column = [p.name for p in source.protocols].index(protocol)
    junk = role & Role.JUNK
    return [
        i
        for i, t in enumerate(source.tracklets)
        if role in t.roles[column] and bool(t.roles[column] & Role.JUNK) == bool(junk)
    ]


def num_valid(source: Source, protocol: str) -> int:
    """Queries with a true match: the rule, written as directly as can be."""
    pid, cam = (np.array([getattr(t, name) for t in source.tracklets]) for name in ("pid", "camid"))
    query, gallery = tracklets_of(source, Role.QUERY, protocol), tracklets_of(source, Role.GALLERY, protocol)
    match = (pid[query][:, None] == pid[gallery]) & (cam[query][:, None] != cam[gallery])
    return int(match.any(1).sum())


def test_official_counts(official: Source) -> None:
    """The official protocol has MARS's published counts, with the queries in the gallery."""
    train, query, gallery, junk = (
        tracklets_of(official, role) for role in (Role.TRAIN, Role.QUERY, Role.GALLERY, Role.GALLERY | Role.JUNK)
    )
    t = official.tracklets
    assert (len({t[i].pid for i in train}), len(train), sum(t[i].num_frames for i in train)) == (625, 8_298, 509_914)
    assert (len({t[i].pid for i in query}), len(query), sum(t[i].num_frames for i in query)) == (626, 1_980, 114_493)
    assert len({t[i].pid for i in gallery} - {0}) == 634
    assert (len(gallery), sum(t[i].num_frames for i in gallery)) == (11_310, 657_709)
    assert (len(junk), sum(t[i].num_frames for i in junk)) == (870, 23_380)
    assert sum(t[i].pid == 0 for i in gallery) == 3_248
    assert set(query) <= set(gallery)
    assert not {t[i].pid for i in train} & {t[i].pid for i in gallery}
    assert num_valid(official, "official") == 1_980
    assert official.facts == {}


def test_official_counts_of_the_shards(official: Source, tmp_path: Path) -> None:
    """The counts are still MARS's after writing, the index and the summary; each tracklet holds one small picture."""
    frame = Frame("one", partial(bytes, picture(0, (8, 4))))
    short = [replace(t, num_frames=1, frames=partial(iter, (frame,))) for t in official.tracklets]
    with building(tmp_path / "out") as folder:
        write(replace(official, tracklets=tuple(short)), folder)
    content = summary(shards.open(tmp_path / "out"))
    assert (content["tracklets"], content["cameras"]) == (20_478, 6)
    whole, removed = (protocol["splits"]["0"] for protocol in content["protocols"])
    roles = ("train", "query", "gallery", "distractors", "junk")
    assert [whole[role]["tracklets"] for role in roles] == [8_298, 1_980, 11_310, 3_248, 870]
    assert [whole[role]["identities"] for role in ("train", "query", "gallery")] == [625, 626, 634]
    assert removed["gallery"]["tracklets"] == 9_330
    assert (whole["valid_queries"], removed["valid_queries"]) == (1_980, 1_840)


def test_the_variant_without_queries(official: Source) -> None:
    """The second protocol has the gallery without queries, and the 140 queries that are then left without a match."""
    assert len(tracklets_of(official, Role.GALLERY, "queries-removed")) == 9_330
    assert len(tracklets_of(official, Role.QUERY, "queries-removed")) == 1_980
    assert num_valid(official, "queries-removed") == 1_840


def test_keys_cameras_and_junk(official: Source) -> None:
    """Keys are the names' prefixes, unique over all; lengths lie between 2 and 920; cameras are 1 to 6."""
    by_key = {t.key: t for t in official.tracklets}
    assert len(by_key) == 20_478
    assert by_key["00-1C1T0001"].pid == -1
    assert by_key["0008C3T0004"].camid == 3
    lengths = [t.num_frames for t in official.tracklets]
    assert (min(lengths), max(lengths)) == (2, 920)
    assert {t.camid for t in official.tracklets} == {1, 2, 3, 4, 5, 6}
    assert [f.name[-11:] for f in by_key["0008C3T0004"].frames()][:2] == ["004F119.jpg", "004F120.jpg"]


def test_frames_come_in_the_order_of_time(tmp_path: Path) -> None:
    """Frames are sorted by their number whatever the order of the name file."""
    tree = mars_tree(tmp_path)
    path = tree / "info/train_name.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[2::-1], *lines[3:]]))
    first = mars.read(tree, partial=True).tracklets[0]
    assert [Path(f.name).name[-7:-4] for f in first.frames()] == ["001", "002", "003"]


def test_validation_is_a_protocol_of_its_own(tmp_path: Path) -> None:
    """A validation part adds a protocol; its tracklets have no role in the test protocols, nor test's in it."""
    source = mars.read(mars_tree(tmp_path, val=True), partial=True)
    assert [p.name for p in source.protocols] == ["official", "queries-removed", "validation"]
    roles = {t.key: t.roles for t in source.tracklets}
    assert roles["0001C1T0001"] == (Role.TRAIN,) * 3
    assert roles["0004C1T0001"] == (Role.QUERY | Role.GALLERY, Role.QUERY, Role.NONE)
    assert roles["00-1C1T0001"] == (Role.GALLERY | Role.JUNK, Role.GALLERY | Role.JUNK, Role.NONE)
    assert roles["0010C1T0001"] == (Role.NONE, Role.NONE, Role.QUERY | Role.GALLERY)
    assert roles["0010C2T0002"] == (Role.NONE, Role.NONE, Role.GALLERY)


def test_other_counts_need_partial_and_are_recorded(tmp_path: Path) -> None:
    """A set that is not the whole of MARS is refused; with `partial` it is read, and says so in its facts."""
    tree = mars_tree(tmp_path)
    with pytest.raises(DataError, match=r"training identities 2, not 625.*--partial"):
        mars.read(tree)
    assert "training identities 2, not 625" in mars.read(tree, partial=True).facts["partial"]
    assert mars.read(tree, name="synthetic", official=None).facts == {}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def wrong_mat(tree: Path) -> None:
    shutil.copy(tree / "info/tracks_train_info.mat", tree / "info/tracks_test_info.mat")


def text_mat(tree: Path) -> None:
    import scipy.io

    scipy.io.savemat(tree / "info/tracks_test_info.mat", {"track_test_info": "text"})


def no_pictures(tree: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(tree / f"bbox_{part}")


def no_frames(tree: Path) -> None:
    for number in (119, 121):
        (tree / f"bbox_test/0004/0004C1T0001F{number}.jpg").unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "wrong folder": (lambda t: shutil.rmtree(t / "info"), "give the folder that holds bbox_train"),
    "no info": (lambda t: (t / "info/tracks_test_info.mat").unlink(), "tracks_test_info.mat: missing"),
    "no names": (lambda t: (t / "info/train_name.txt").unlink(), "train_name.txt: missing"),
    "no query": (lambda t: (t / "info/query_IDX.mat").unlink(), "query_IDX.mat: missing"),
    "no mat": (lambda t: (t / "info/query_IDX.mat").write_bytes(b"<html>" * 99), "not a readable MATLAB file"),
    "empty mat": (lambda t: (t / "info/query_IDX.mat").write_bytes(b""), "not a readable MATLAB file"),
    "text mat": (text_mat, "tracks_test_info.mat: track_test_info does not hold whole numbers"),
    "wrong mat": (wrong_mat, "no variable track_test_info .only track_train_info"),
    "short names": (lambda t: edit(t / "info/train_name.txt", "0003C6T0002F002.jpg\n", ""), "row 4: .* has 13"),
    "no name": (lambda t: edit(t / "info/test_name.txt", "00-1C1T0001F001", "Thumbs"), "'Thumbs.jpg' is not a name"),
    "other identity": (lambda t: edit(t / "info/train_name.txt", "0003C1", "0007C1"), "row 3: identity 3, camera 1"),
    "other camera": (lambda t: edit(t / "info/train_name.txt", "0003C1", "0003C2"), "lists 0003C2T0001F001.jpg"),
    "mixed": (lambda t: edit(t / "info/train_name.txt", "T0001F002", "T0009F002"), "not the frames of one tracklet"),
    "twice": (lambda t: edit(t / "info/train_name.txt", "T0001F002", "T0001F001"), "not the frames of one tracklet"),
    "no pictures": (no_pictures, "no tracklet has all"),
    "query row": (lambda t: write_info(t, "test", TRAIN, [5]), "query_IDX.mat: row 5, but .* 1 to 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_one_clear_message(tmp_path: Path, fault: str) -> None:
    """For each missing or damaged file, the error names it and what was expected there."""
    tree = mars_tree(tmp_path / "tree")
    damage, message = FAULTS[fault]
    damage(tree)
    with pytest.raises(DataError, match=message) as error:
        mars.read(tree, partial=True)
    assert str(tree) in str(error.value)
    assert "\n" not in str(error.value)


MISSING: dict[str, tuple[Callable[[Path], object], list[str], set[str], tuple[int, int]]] = {
    "part": (lambda t: shutil.rmtree(t / "bbox_test"), ["bbox_test"], {"test"}, (6, 3)),
    "identity": (lambda t: shutil.rmtree(t / "bbox_test/0006"), ["0006"], {"0006C5T0001"}, (1, 1)),
    "frames": (
        no_frames,
        ["0004C1T0001F119.jpg", "0004C1T0001F121.jpg"],
        {"0004C1T0001"},
        (1, 1),
    ),
    "train": (
        lambda t: (t / "bbox_train/0003/0003C1T0001F002.jpg").unlink(),
        ["0003C1T0001F002.jpg"],
        {"0003C1T0001"},
        (1, 0),
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_partial_download(tmp_path: Path, case: str) -> None:
    """Missing pictures are refused by name; with --partial, whole tracklets are built with the roles they had, and
    those left out are counted, queries apart."""
    tree = mars_tree(tmp_path / "tree")
    roles = {t.key: t.roles for t in mars.read(tree, partial=True).tracklets}
    tests = {key for key, (role, _) in roles.items() if role != Role.TRAIN}
    remove, named, gone, (tracklets, queries) = MISSING[case]
    remove(tree)
    as_synthetic: dict[str, Any] = {"name": "synthetic", "official": None}
    for options in ({}, as_synthetic):
        with pytest.raises(DataError, match="listed in the info files, but missing") as error:
            mars.read(tree, **options)
        assert all(name in str(error.value) for name in named)
        assert ("--partial" in str(error.value)) == (not options)
    out = tmp_path / "out"
    assert main(["build", "mars", "--partial", "--source", str(tree), "--out", str(out), "--workers", "1"]) == 0
    reader = shards.open(out)
    left = {reader[i].key: tuple(reader[i].roles.values()) for i in range(len(reader))}
    gone = tests if gone == {"test"} else gone
    assert left == {key: role for key, role in roles.items() if key not in gone}
    keys = ", ".join(key for key in roles if key in gone)
    assert reader.facts["partial"].endswith(
        f"; tracklets left out, since pictures of them are missing: {tracklets} ({keys}), queries among them: {queries}"
    )


def test_unlisted_pictures_are_said(tmp_path: Path) -> None:
    """Another person's picture, a loose one, and a folder that the info files do not name; Thumbs.db is ignored."""
    tree = mars_tree(tmp_path)
    assert "skipped" not in mars.read(tree, partial=True).facts
    for name in ("0003/0001C1T0001F001.jpg", "loose.jpg", "0003/Thumbs.db"):
        (tree / "bbox_train" / name).write_bytes(b"")
    (tree / "bbox_train/0009").mkdir()
    assert mars.read(tree, partial=True).facts["skipped"] == (
        "folders: 1 (bbox_train/0009/); pictures that the info files do not list: 2 (bbox_train/loose.jpg, "
        "bbox_train/0003/0001C1T0001F001.jpg)"
    )
