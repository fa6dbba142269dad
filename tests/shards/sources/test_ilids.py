from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from shards.__main__ import main
from shards.records import DataError, Role, Source
from shards.sources import ilids
from tests.shards.sources.test_prid import png
from tests.shards.trees import hostile_order, official_split

# 300 numbers up to 319, with 19 gaps, as the real ones have them.
NUMBERS = [n for n in range(1, 320) if n % 17 != 5]
NUMBERS = sorted(set(NUMBERS))[:299] + [319]


def make(root: Path, numbers: list[int], splits: np.ndarray, frames: int = 1) -> Path:
    for camid in (1, 2):
        for pid in numbers:
            folder = root / "i-LIDS-VID" / "sequences" / f"cam{camid}" / f"person{pid:03d}"
            folder.mkdir(parents=True)
            for frame in range(1, frames + 1):
                (folder / f"cam{camid}_person{pid:03d}_{frame + 317:05d}.png").write_bytes(png(1000 * camid + pid))
    path = root / ilids.SPLITS
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, {"ls_set": splits.astype(np.uint16)})
    return root


def rows(count: int, persons: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(persons) + 1 for _ in range(count)])


def roles(source: Source, protocol: int, split: int) -> dict[Role, set[int]]:
    """Persons by their role in a split."""
    column = protocol * len(source.protocols[0].splits) + split
    return {role: {t.pid for t in source.tracklets if t.roles[column] == role} for role in Role}


def test_positions_are_of_the_sorted_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten splits of 150 and 150 of 300 persons whose numbers have gaps: position n is the n-th folder, not number n.
    The second protocol reads the halves the other way. All is stored once."""
    assert len(NUMBERS) == 300
    hostile_order(monkeypatch)
    splits = rows(10, 300)
    root, out = make(tmp_path / "ilids", NUMBERS, splits), tmp_path / "out"
    assert main(["build", "ilids", "--source", str(root), "--out", str(out), "--workers", "1"]) == 0
    source = ilids.read(root)
    assert (len(source.tracklets), source.facts) == (600, {})
    for split in range(10):
        halves = [{NUMBERS[position - 1] for position in half} for half in np.split(splits[split], 2)]
        for protocol, (test, train) in enumerate([halves, halves[::-1]]):
            pids = roles(source, protocol, split)
            assert pids[Role.QUERY] == pids[Role.GALLERY] == test
            assert pids[Role.TRAIN] == train
    assert {t.camid for t in source.tracklets if t.roles[0] == Role.QUERY} == {1}
    assert {t.camid for t in source.tracklets if t.roles[0] == Role.GALLERY} == {2}
    assert all(f"/cam{t.camid}/person{t.pid:03d}/" in frame.name for t in source.tracklets for frame in t.frames())
    for protocol in (0, 1):
        counts = official_split(out, protocol, "7")
        assert (counts["query"]["tracklets"], counts["gallery"]["tracklets"], counts["valid_queries"]) == (
            150,
            150,
            150,
        )
    assert all(protocol.cmc_only for protocol in source.protocols)


def test_frames_go_by_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are ordered by number in any order of the disk; the facts name unofficial counts."""
    hostile_order(monkeypatch)
    source = ilids.read(make(tmp_path / "ilids", [1, 4], rows(2, 2), frames=11), partial=True)
    names = [Path(frame.name).name for frame in source.tracklets[-1].frames()]
    assert names == [f"cam2_person004_{frame + 317:05d}.png" for frame in range(1, 12)]
    assert "splits 2, not 10; persons 2, not 300" in source.facts["partial"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    """Too few persons, splits of other persons, a person on one camera, a foreign folder, no splits."""
    root = make(tmp_path / "ilids", [1, 4, 6, 7], rows(10, 4))
    cameras = root / "i-LIDS-VID" / "sequences"
    with pytest.raises(DataError, match="persons 4, not 300"):
        ilids.read(root)
    with pytest.raises(DataError, match="cam1: missing"):
        ilids.read(root / "i-LIDS-VID")
    (cameras / "cam2" / "person006").rename(cameras / "gone")
    with pytest.raises(DataError, match="person006 is on one camera only"):
        ilids.read(root, partial=True)
    (cameras / "gone").rename(cameras / "cam2" / "person006")
    for camera in ("cam1", "cam2"):
        (cameras / camera / "person009").mkdir()
    with pytest.raises(DataError, match="not the positions 1 to 5"):
        ilids.read(root, partial=True)
    for camera in ("cam1", "cam2"):
        (cameras / camera / "person009").rename(cameras / camera / "other")
    with pytest.raises(DataError, match="not a name like person001"):
        ilids.read(root, partial=True)
    for camera in ("cam1", "cam2"):
        (cameras / camera / "other").rmdir()
    (root / ilids.SPLITS).write_bytes(b"damaged")
    with pytest.raises(DataError, match="not a readable MATLAB file"):
        ilids.read(root, partial=True)
    (root / ilids.SPLITS).unlink()
    with pytest.raises(DataError, match="missing; it comes with iLIDS-VID"):
        ilids.read(root, partial=True)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("cam1/person004", "cam1_person001_00400.png"),
        ("cam2/person004", "cam1_person004_00400.png"),
        ("cam1/person004", "00400.png"),
    ],
)
def test_a_foreign_picture_is_refused(tmp_path: Path, folder: str, name: str) -> None:
    """Another person's, another camera's, and one of unknown origin, by their names."""
    root = make(tmp_path / "ilids", [1, 4], rows(10, 2))
    path = root / "i-LIDS-VID" / "sequences" / folder / name
    path.write_bytes(png(0))
    with pytest.raises(DataError, match=f"{folder}: {name}: expected names {folder.replace('/', '_')}_<frame number>"):
        ilids.read(root, partial=True)


def test_gaps_and_skipped_files_are_said(tmp_path: Path) -> None:
    """Missing numbers within a tracklet, pictures outside of all and other cameras stand in the facts."""
    root = make(tmp_path / "ilids", [1, 4], rows(10, 2), frames=9)
    sequences = root / "i-LIDS-VID" / "sequences"
    for frame in (2, 3, 7):
        (sequences / "cam2" / "person004" / f"cam2_person004_{frame + 317:05d}.png").unlink()
    (sequences / "cam1" / "loose.png").write_bytes(png(0))
    (sequences / "cam3").mkdir()
    facts = ilids.read(root, partial=True).facts
    assert facts["gaps"] == "frames missing by their numbers: 3 (0004C2T0001 3)"
    assert "(i-LIDS-VID/sequences/cam3/)" in facts["skipped"]
    assert "pictures where folders belong: 1 (i-LIDS-VID/sequences/cam1/loose.png)" in facts["skipped"]
