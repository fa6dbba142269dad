"""The synthetic set: MARS's layout to the letter, everything from the seed, and neither too easy nor hopeless."""

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from scipy.io import loadmat

from mstat.evaluation.baselines import hsv_histogram
from shards.records import DataError
from shards.synthetic.drawing.people import make_person
from shards.synthetic.drawing.walks import draw_tracklet
from shards.synthetic.persons import PARTS, plan, provenance, write_synthetic

NAME = re.compile(r"^(\d{4}|00-1)C([1-6])T(\d{4})F(\d{3})\.jpg$")
SMALL = {"num_train": 2, "num_val": 1, "num_test": 2}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of seed 0 in its default size, drawn once for this file."""
    out = tmp_path_factory.mktemp("synthetic") / "tree"
    write_synthetic(out, 0)
    return out


def read_bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def rows_of(tree: Path, part: str) -> np.ndarray:
    return loadmat(tree / "info" / f"tracks_{part}_info.mat")[f"track_{part}_info"]


def queries_of(tree: Path, part: str) -> np.ndarray:
    key = "query_IDX" if part == "test" else f"query_{part}_IDX"
    return loadmat(tree / "info" / f"{key}.mat")[key]


def names_of(tree: Path, part: str) -> list[str]:
    return (tree / "info" / f"{part}_name.txt").read_text().splitlines()


def parse(name: str) -> tuple[str, ...]:
    """(identity, camera, tracklet, frame) of a file name."""
    match = NAME.match(name)
    assert match, name
    return match.groups()


@pytest.mark.slow
def test_same_seed_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    """1, 2 and 3 processes write the same tree, byte by byte, with its seed, and leave nothing beside it; nor does
    what a killed one left get in."""
    (tmp_path / "1.drawing").mkdir()
    (tmp_path / "1.drawing" / "half.jpg").write_bytes(b"half")
    trees = []
    for workers in (1, 2, 3):
        write_synthetic(tmp_path / str(workers), 5, workers=workers, **SMALL)
        trees.append(read_bytes(tmp_path / str(workers)))
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) > 50
    assert trees[0]["seed.txt"] == provenance(5).encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]


def test_another_seed_is_another_world() -> None:
    """Other people before other walls: no frame of the first tracklet comes again, nor does the plan."""
    frames = [np.stack(list(draw_tracklet(seed, 1, 1, 1, 3))) for seed in (0, 1)]
    assert np.abs(frames[0].astype(int) - frames[1]).mean() > 10
    assert plan(0, **SMALL) != plan(1, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_rows_name_every_frame_on_disk_once(tree: Path, part: str) -> None:
    """Rows are 1-based, inclusive and without gaps; names follow MARS's pattern; no frame is lost or left over."""
    rows, names = rows_of(tree, part), names_of(tree, part)
    assert rows.dtype == np.int32
    assert rows.shape[1] == 4
    assert rows[0, 0] == 1
    assert rows[-1, 1] == len(names)
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, 1] + 1)
    for start, end, pid, camid in rows.tolist():
        parsed = [parse(name) for name in names[start - 1 : end]]
        assert {groups[:2] for groups in parsed} == {("00-1" if pid == -1 else f"{pid:04d}", str(camid))}
        assert len({groups[2] for groups in parsed}) == 1
        assert [int(groups[3]) for groups in parsed] == list(range(1, end - start + 2))
    assert names == sorted(names)  # as MARS's are
    on_disk = [path.relative_to(tree / f"bbox_{part}") for path in (tree / f"bbox_{part}").glob("*/*")]
    assert sorted(path.name for path in on_disk) == names
    assert all(path.name.startswith(f"{path.parent}C") for path in on_disk)


def test_frames_are_rgb_of_mars_size(tree: Path) -> None:
    """Every frame of one identity, one distractor and one junk folder decodes to 128 x 64 RGB."""
    for folder in ("0151", "0000", "00-1"):
        for path in (tree / "bbox_test" / folder).iterdir():
            assert simplejpeg.decode_jpeg_header(path.read_bytes())[:3] == (128, 64, "YCbCr")
            assert simplejpeg.decode_jpeg(path.read_bytes()).shape == (128, 64, 3)


def test_parts_share_no_identity(tree: Path) -> None:
    """Training, validation and test have 120, 30 and 50 people, no number twice, nobody with another's looks."""
    pids = [set(rows_of(tree, part)[:, 2].tolist()) - {0, -1} for part in PARTS]
    assert [len(part) for part in pids] == [120, 30, 50]
    assert len(set.union(*pids)) == 200
    assert len({make_person(np.random.default_rng([0, 0, pid])) for pid in range(1, 201)}) == 200
    numbers = [parse(name)[:3:2] for part in PARTS for name in names_of(tree, part)]
    assert len(set(numbers)) == sum(len(rows_of(tree, part)) for part in PARTS)  # (pid, T) is unique over everything


@pytest.mark.parametrize("part", ["val", "test"])
def test_one_query_for_each_identity_and_camera(tree: Path, part: str) -> None:
    """As in MARS: uint16 1 x Q, 1-based, one for each camera of everybody whom two cameras see, and of nobody else."""
    rows, queries = rows_of(tree, part), queries_of(tree, part)
    assert queries.dtype == np.uint16
    assert queries.shape[0] == 1
    cameras = defaultdict(set)
    for pid, camid in rows[:, 2:].tolist():
        cameras[pid].add(camid)
    expected = [(pid, camid) for pid, seen in cameras.items() if pid > 0 and len(seen) > 1 for camid in seen]
    assert sorted(map(tuple, rows[queries[0] - 1, 2:].tolist())) == sorted(expected)


def test_shape_of_the_set(tree: Path) -> None:
    """Lengths from 2 to 40 with a mean of 11 to 15, six cameras, and MARS's shares of distractors and junk."""
    rows = np.concatenate([rows_of(tree, part) for part in PARTS])
    lengths = rows[:, 1] - rows[:, 0] + 1
    assert lengths.min() == 2
    assert 35 <= lengths.max() <= 40
    assert 11 <= lengths.mean() <= 15
    assert set(rows[:, 3]) == set(range(1, 7))
    test = rows_of(tree, "test")
    assert np.mean(test[:, 2] == 0) == pytest.approx(0.20, abs=0.01)
    assert np.mean(test[:, 2] == -1) == pytest.approx(0.07, abs=0.01)
    train = rows_of(tree, "train")
    assert {len(set(train[train[:, 2] == pid, 3])) for pid in set(train[:, 2])} == {1, 2, 3, 4}


def test_colour_histograms_score_between_25_and_50(tree: Path) -> None:
    """The better histogram's mAP on the test part under MARS's protocol: hard, but people can be told apart."""
    rows, names = rows_of(tree, "test"), names_of(tree, "test")
    features: dict[int, list[np.ndarray]] = {1: [], 6: []}
    for start, end, *_ in rows.tolist():
        paths = [tree / "bbox_test" / name[:4] / name for name in names[start - 1 : end]]
        frames_THWC = np.stack([simplejpeg.decode_jpeg(path.read_bytes()) for path in paths])
        for stripes, histograms in features.items():
            histograms.append(hsv_histogram(frames_THWC, stripes))
    scores = [mean_ap(np.stack(rows_ND), rows, queries_of(tree, "test")[0] - 1) for rows_ND in features.values()]
    assert 0.25 <= max(scores) <= 0.50


def mean_ap(features_ND: np.ndarray, rows: np.ndarray, queries: np.ndarray) -> float:
    """MARS's rule, query by query: junk and the own identity in the own camera are ignored."""
    pids, camids = rows[:, 2], rows[:, 3]
    scores = []
    for query in queries:
        kept = (pids != -1) & ~((pids == pids[query]) & (camids == camids[query]))
        order = np.argsort(-features_ND[kept] @ features_ND[query], kind="stable")
        hits = np.flatnonzero(pids[kept][order] == pids[query])
        scores.append(np.mean((np.arange(len(hits)) + 1) / (hits + 1)))
    return float(np.mean(scores))


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    """Something at the place of the tree is an error that names it, and stays as it is."""
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        write_synthetic(tmp_path, 0, **SMALL)
    assert read_bytes(tmp_path) == {"note.txt": b"mine"}


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"workers": 0}, {"num_val": 0}, {"num_train": 9999}])
def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, int]) -> None:
    """ValueError, and no folder appears."""
    with pytest.raises(ValueError, match="write_synthetic"):
        write_synthetic(tmp_path / "out", **{"seed": 0, **SMALL, **wrong})
    assert not list(tmp_path.iterdir())
