from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.__main__ import main
from shards.records import DataError, Role
from shards.sources import prid
from tests.shards.trees import hostile_order, official_split, shared_data


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 4, 3), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def make(root: Path, persons: set[int], alone: tuple[int, ...] = (), frames: int = 2) -> Path:
    """Persons on both cameras, and such as one camera alone has seen."""
    for number, camera in enumerate(("cam_a", "cam_b")):
        for pid in sorted(persons | {p for p in alone if p % 2 == number}):
            folder = root / "multi_shot" / camera / f"person_{pid:04d}"
            folder.mkdir(parents=True)
            for frame in range(1, frames + 1):
                (folder / f"{frame:04d}.png").write_bytes(png(pid))
    return root


def number(name: str) -> int:
    return int(name.removeprefix("person_"))


def test_the_ten_real_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """178 persons on two cameras, stored once for ten splits of 89 and 89; query a, gallery b; people of one camera
    alone, or whom the splits leave out, are not taken."""
    splits = shared_data("prid2011") / "splits_prid2011.json"
    content = json.loads(splits.read_text())
    persons = {number(name) for half in content[0].values() for name in half}
    root = make(tmp_path / "prid_2011", persons | {999}, alone=(385, 386, 700), frames=1)
    out = tmp_path / "out"
    arguments = ["build", "prid", "--source", str(root), "--splits", str(splits), "--out", str(out), "--workers", "1"]
    assert main(arguments) == 0
    source = prid.read(root, splits)
    assert source.facts == {}
    assert len(source.tracklets) == 2 * 178
    (protocol,) = source.protocols
    assert (protocol.splits, protocol.cmc_only) == (tuple("0123456789"), True)
    for position, split in enumerate(content):
        test, train = ({number(name) for name in split[half]} for half in ("test", "train"))
        roles = {role: [t for t in source.tracklets if t.roles[position] == role] for role in Role}
        assert {t.pid for t in roles[Role.QUERY]} == {t.pid for t in roles[Role.GALLERY]} == test
        assert {t.camid for t in roles[Role.QUERY]} == {1}
        assert {t.camid for t in roles[Role.GALLERY]} == {2}
        assert all("/cam_a/" in frame.name for t in roles[Role.QUERY] for frame in t.frames())
        assert all("/cam_b/" in frame.name for t in roles[Role.GALLERY] for frame in t.frames())
        assert {t.pid for t in roles[Role.TRAIN]} == train
        assert len(roles[Role.TRAIN]) == 178
        counts = official_split(out, split=str(position))
        assert (counts["query"]["tracklets"], counts["gallery"]["tracklets"], counts["valid_queries"]) == (89, 89, 89)
    assert main(["info", str(out)]) == 0
    assert "official, split 9" in capsys.readouterr().out


def small(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def persons(*numbers: int) -> list[str]:
    return [f"person_{pid:04d}" for pid in numbers]


def test_frames_go_by_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are ordered by number in any order of the disk; the facts name unofficial counts."""
    hostile_order(monkeypatch)
    root = make(tmp_path / "prid_2011", {1, 2}, frames=12)
    source = prid.read(root, small(tmp_path, [{"train": persons(1), "test": persons(2)}]), partial=True)
    for tracklet in source.tracklets:
        assert [Path(frame.name).name for frame in tracklet.frames()] == [f"{n:04d}.png" for n in range(1, 13)]
    assert "persons 2, not 178" in source.facts["partial"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "splits.json: not a list of"),
        ([], "contains no split"),
        ([{"train": ["../person_0001"], "test": []}], "is not a name like person_0001"),
        ([{"train": persons(1), "test": persons(1, 2)}], "split 0: person_0001 both trains and tests"),
        ([{"train": persons(1), "test": persons(2)}, {"train": persons(1), "test": persons(3)}], "other persons than"),
        ([{"train": persons(1), "test": persons(3)}], "person_0003: missing; unpack"),
    ],
)
def test_bad_splits_are_named(tmp_path: Path, content: object, message: str) -> None:
    """Refused: content that is no list of splits, names that lead elsewhere, overlapping halves, missing persons."""
    root = make(tmp_path / "prid_2011", {1, 2}, alone=(4, 5))
    with pytest.raises(DataError, match=message):
        prid.read(root, small(tmp_path, content), partial=True)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    """The folder above, no splits file, and counts that are not those in common use."""
    root = make(tmp_path / "prid_2011", {1, 2})
    splits = small(tmp_path, [{"train": persons(1), "test": persons(2)}])
    with pytest.raises(DataError, match="contains no folder multi_shot"):
        prid.read(tmp_path, splits, partial=True)
    with pytest.raises(DataError, match="no such file; give --splits"):
        prid.read(root, tmp_path / "none.json")
    with pytest.raises(DataError, match=r"splits 1, not 10; persons 2, not 178"):
        prid.read(root, splits)


def test_foreign_pictures_and_gaps(tmp_path: Path) -> None:
    """A picture whose name is no number is refused; missing numbers, which count from 1, and foreign folders are said;
    persons whom the splits leave out are no fault."""
    root = make(tmp_path / "prid_2011", {1, 2}, alone=(385, 386), frames=6)
    splits = small(tmp_path, [{"train": persons(1), "test": persons(2)}])
    for frame in (1, 4):
        (root / "multi_shot/cam_b/person_0002" / f"{frame:04d}.png").unlink()
    (root / "multi_shot/cam_b/person_2").mkdir()
    (root / "multi_shot/cam_c").mkdir()
    facts = prid.read(root, splits, partial=True).facts
    assert facts["gaps"] == "frames missing by their numbers: 2 (0002C2T0001 2)"
    assert facts["skipped"] == "folders: 2 (multi_shot/cam_c/, multi_shot/cam_b/person_2/)"
    (root / "multi_shot/cam_a/person_0001/person_0002_0003.png").write_bytes(png(2))
    with pytest.raises(DataError, match=r"cam_a/person_0001: person_0002_0003.png: expected names <frame number>"):
        prid.read(root, splits, partial=True)
