"""The comparison of runs as a page: whole, safe and frank like the report of one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from mstat.report.compare import SECTIONS, write_comparison
from tests.mstat.report.conftest import make_evaluation
from tests.mstat.report.test_html import Page

DISTANCES = {kind: {"intra": 0.25, "intra_correct": 0.2, "inter": 0.5} for kind in ("cosine", "euclidean")}


@pytest.fixture
def runs(run: Path) -> list[Path]:
    """Two seeds of one configuration, and a run with another loss that was evaluated on the way."""
    (run / "evaluation.json").write_text(json.dumps(make_evaluation() | {"distances": DISTANCES}))
    made = [run, run.with_name("other-seed"), run.with_name("other-loss")]
    for folder in made[1:]:
        shutil.copytree(run, folder)
    (made[1] / "config.yaml").write_text("seed: 8\ndata:\n  shards: nowhere/shards\n")
    better = make_evaluation() | {"rank1": 0.9172, "distances": DISTANCES}
    (made[1] / "evaluation.json").write_text(json.dumps(better))
    (made[2] / "config.yaml").write_text("seed: 7\ndata:\n  shards: nowhere/shards\nloss: {metric: oim}\n")
    (made[2] / "evaluations.jsonl").write_text('{"step": 9, "mAP": null, "rank1": 0.5, "protocol": "official"}\n')
    return made


def test_whole_comparison(runs: list[Path], tmp_path: Path) -> None:
    """Every section once; mean ± deviation of the seeds, each run beneath, the other one alone; its pictures as files;
    nothing from the network."""
    page = Page(write_comparison(runs, tmp_path / "out" / "page.html"))
    ids = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert ids == [section.name for section in SECTIONS if section.name != "cross"]  # one data set
    for part in (
        "3 runs compared", "89.7 ± 2.8", "some-run 81.2 87.7", "other-seed 81.2 91.7", "other-loss 81.2 87.7",
        "setting some-run, other-seed other-loss", "seed 7, 8 7", "loss.metric – oim", "76.1 ± 0.0",
        "some-run, other-seed, cosine 0.2500 ± 0.0000", "other-loss, cosine 0.2500 0.2000 0.5000 –",
        "done 60 130 2 CPU cores",
    ):  # fmt: skip
        assert part in page.text, part
    assert "Not comparable" not in page.text
    figures = tmp_path / "out" / "page-figures"
    assert {path.name for path in figures.iterdir()} == {"cmc.svg", "loss.svg", "learning-rate.svg", "scores.svg"}
    assert page.tags.count("img") == 4
    assert len(set(page.values("alt"))) == 4
    source = re.sub(r"base64,[\w+/=]+", "", page.source)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:", source, re.IGNORECASE)


def test_what_speaks_against_comparing_comes_first(runs: list[Path], tmp_path: Path) -> None:
    """Another protocol, a run that is not done, one without scores, a data set that is not whole: notes of the head."""
    (runs[0] / "state.json").write_text('{"state": "running", "step": 3, "reason": null}')
    (runs[1] / "evaluation.json").unlink()
    (runs[2] / "evaluation.json").write_text(
        json.dumps(make_evaluation() | {"protocol": "own", "warnings": ["partial"]})
    )
    head = Page(write_comparison(runs, tmp_path / "page.html")).source.split("</header>")[0]
    for part in (
        "Not comparable: different protocol: official (some-run); own (other-loss).",
        "some-run: running at step 3, not done.",
        "other-seed: evaluation.json is not in the run folder.",
        "Not comparable with published scores: partial.",
    ):
        assert part in head, part


def test_baselines_once_where_they_are_the_same(runs: list[Path], tmp_path: Path) -> None:
    """A histogram that needs no seed is one line; what differs between the runs is told for each group."""
    evaluation = json.loads((runs[2] / "evaluation.json").read_text())
    evaluation["baselines"]["untrained"]["mAP"] = 0.2
    (runs[2] / "evaluation.json").write_text(json.dumps(evaluation))
    text = Page(write_comparison(runs, tmp_path / "page.html")).text
    assert text.count("HSV histogram, 6 stripes") == 1
    assert "untrained, some-run, other-seed 12.3 ± 0.0" in text
    assert "untrained, other-loss 20.0" in text


def test_folders_of_splits(runs: list[Path], tmp_path: Path) -> None:
    """The folder of `--data.split all` stands there with its mean and deviation over the splits."""
    for folder, rank1 in zip(runs[::2], (0.5, 0.6), strict=True):
        of_splits = {"split": "all", "rank1": rank1, "sd": {"rank1": 0.012}, "splits": {"0": {}, "1": {}}}
        (folder / "evaluation.json").write_text(json.dumps(make_evaluation() | of_splits))
    text = Page(write_comparison(runs[::2], tmp_path / "page.html")).text
    assert "50.0 ± 1.2" in text
    assert "60.0 ± 1.2" in text
    assert "has the mean ± standard deviation over its splits" in text


def test_evaluations_alone(tmp_path: Path) -> None:
    """Folders that hold nothing but an evaluation are compared by it; what is missing is said."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(make_evaluation()))
    page = Page(write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html"))
    assert "config.yaml cannot be read for a, b" in page.text
    assert "a 81.2 87.7" in page.text
    assert page.tags.count("img") == 1


def test_hostile_and_broken_files(runs: list[Path], tmp_path: Path) -> None:
    """Text from any file is shown as text; an evaluation that lacks its keys costs no more than what reads it."""
    bad = "<script>alert('x')</script>"
    (runs[0] / "config.yaml").write_text(f'seed: 7\n"{bad}": "{bad}"\n')
    (runs[0] / "environment.json").write_text(json.dumps({"hardware": bad, "commit": bad, "versions": {bad: bad}}))
    (runs[1] / "evaluation.json").write_text(json.dumps({"protocol": bad, "stages": 3, "cmc": [1], "warnings": 4}))
    (runs[2] / "state.json").write_text("{}")
    page = Page(write_comparison(runs, tmp_path / "page.html"))
    assert "script" not in page.tags
    assert page.text.count("<script>alert(") >= 3
    assert "cannot be shown" in page.text
    assert page.tags.count("section") >= 5


def test_a_folder_is_no_page(runs: list[Path], tmp_path: Path) -> None:
    """`--out` of a folder is refused, with what to give."""
    with pytest.raises(ValueError, match=r"is a folder; --out must be a file, such as .*comparison\.html"):
        write_comparison(runs, tmp_path)
