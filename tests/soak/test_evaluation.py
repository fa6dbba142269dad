"""One checkpoint has one score, however many processes find it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import shards
from mstat.evaluation.extraction import TILE
from mstat.evaluation.ranking import gallery_slices
from shards.records import Role
from tests.conftest import run
from tests.soak.conftest import Rows

PROCESSES = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def five_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a set with so many test tracklets that each of five processes has some, and not all equally many."""
    from shards.sources import mars
    from shards.synthetic.persons import write_synthetic
    from shards.write import building, write

    folder = tmp_path_factory.mktemp("five-tiles")
    write_synthetic(folder / "tree", 3, workers=1, num_train=1, num_val=1, num_test=50)
    with building(folder / "shards") as out:
        write(mars.read(folder / "tree", name="synthetic", partial=True), out, workers=1)
    num_searched = int((shards.open(folder / "shards").roles() & (Role.GALLERY | Role.QUERY) > 0).sum())
    sizes = {stop - start for start, stop in gallery_slices(num_searched, max(PROCESSES), TILE)}
    assert len(sizes) > 1
    assert min(sizes) > 0
    return folder / "shards"


@pytest.mark.parametrize("mode", ["sample", "clips"])
def test_any_number_of_processes_writes_the_same_scores(
    mode: str, reference: Path, five_tiles: Path, tmp_path: Path, rows: Rows
) -> None:
    """launch/evaluate.py of one run folder on 1, 2, 3, 5 processes: every score and every similarity bit for bit."""
    folder = Path(shutil.copytree(reference, tmp_path / "run"))
    arguments = ["--run", folder, "--data.shards", five_tiles, "--eval.mode", mode]
    files = [folder / name for name in ("evaluation.json", "rankings.json", "queries.json")]
    written = set()
    for processes in PROCESSES:
        for file in files:
            file.unlink()
        options = {} if processes == 1 else {"accelerate": "ddp", "processes": processes}
        status, output = run("evaluate", arguments, **options)
        assert status == 0, output
        written.add(tuple(file.read_bytes() for file in files))
    assert len(written) == 1
    scores = json.loads(files[0].read_text())
    rows.setdefault("Scores of one checkpoint", []).append(
        {
            "eval.mode": mode,
            "processes": ", ".join(map(str, PROCESSES)),
            "gallery": scores["num_gallery"],
            "queries": scores["num_query"],
            "mAP": f"{100 * scores['mAP']:.4f} %",
            "evaluation.json, rankings.json, queries.json": "the same bytes",
        }
    )
