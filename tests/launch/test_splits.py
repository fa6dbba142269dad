"""`--data.split all` as a user starts it, on a data set of three splits."""

from __future__ import annotations

import json
import os
import signal
import statistics
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.training.data_sets import evaluate_on_sets
from shards.__main__ import main
from tests.conftest import NO_SCORES, TINY, Processes, metrics, run, start, state, wait_for_step
from tests.shards.sources.test_prid import make

NUM_PERSONS = 16


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YAML for short runs on 16 persons of two cameras in three splits, in PRID's layout and not all of it."""
    folder = tmp_path_factory.mktemp("prid")
    names = [f"person_{pid:04d}" for pid in range(1, NUM_PERSONS + 1)]
    halves = [(names[:8], names[8:]), (names[8:], names[:8]), (names[::2], names[1::2])]
    (folder / "splits.json").write_text(json.dumps([{"train": train, "test": test} for train, test in halves]))
    root, out = make(folder / "prid", set(range(1, NUM_PERSONS + 1)), frames=3), folder / "shards"
    arguments = ["--source", str(root), "--splits", str(folder / "splits.json"), "--workers", "1", "--partial"]
    assert main(["build", "prid", *arguments, "--out", str(out)]) == 0
    path = folder / "config.yaml"
    path.write_text(TINY.replace("data: {", f"data: {{shards: {out}, split: all, ").replace("steps: 20", "steps: 6"))
    return path


@pytest.fixture(scope="module")
def run_set(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of all splits, trained by one launch of two processes that was stopped in the second split."""
    folder = tmp_path_factory.mktemp("set") / "run"
    options: Processes = {"accelerate": "zero2", "processes": 2}
    process = start("train", ["--config", config, "--run", folder], **options)
    wait_for_step(folder / "split-1", 2, process)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate()
    assert state(folder)["state"] == "requeue"
    assert state(folder)["reason"] == "split 1: stopped by SIGTERM"
    assert not (folder / "split-2").exists()
    status, output = run("train", ["--config", config, "--run", folder], **options)
    assert status == 0, output
    assert "mean ± standard deviation of 3 splits" in " ".join(output.split())
    assert "Not comparable" in " ".join(output.split())
    assert f"report: {folder}/report.html" in output.replace("\n", "")
    return folder


def evaluate(folder: Path, *flags: str) -> None:
    """Evaluate a run in this process, as launch/evaluate.py does."""
    config = load_config(folder / "config.yaml", ["--run", str(folder), "--data.num_workers", "0", *flags])
    evaluate_on_sets([config], Engine(config))


def test_each_run_is_the_split_trained_alone(run_set: Path, config: Path, tmp_path: Path) -> None:
    """The third run of the set, after two others in the same processes, against one launch for it alone: bitwise."""
    arguments = ["--config", config, "--data.split", "2", "--run", tmp_path / "run", *NO_SCORES]
    status, output = run("train", arguments, accelerate="zero2", processes=2)
    assert status == 0, output
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path / "run", run_set / "split-2")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    losses = [[record["loss"] for record in metrics(folder)] for folder in (tmp_path / "run", run_set / "split-2")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_the_set_has_the_mean_of_its_splits(run_set: Path) -> None:
    """evaluation.json, bitwise the same where launch/evaluate.py makes it anew; state and report beside it."""
    mean = json.loads((run_set / "evaluation.json").read_text())
    each = [json.loads((run_set / f"split-{split}" / "evaluation.json").read_text()) for split in range(3)]
    for key in ("rank1", "rank5"):
        assert mean[key] == statistics.fmean(evaluation[key] for evaluation in each)
        assert mean["sd"][key] == statistics.stdev(evaluation[key] for evaluation in each)
    assert mean["mAP"] is None  # one true match a query
    assert mean["num_query"] == mean["num_gallery"] == NUM_PERSONS // 2
    assert mean["warnings"] == each[0]["warnings"] != []
    assert state(run_set) == {"state": "done", "step": 6, "reason": None}
    report = (run_set / "report.html").read_text()
    assert 'href="split-2/report.html"' in report
    assert "Not comparable with published scores: partial" in report
    written = (run_set / "evaluation.json").read_bytes()
    (run_set / "evaluation.json").unlink()
    evaluate(run_set)
    assert (run_set / "evaluation.json").read_bytes() == written


def test_a_model_is_not_scored_on_what_it_learned(run_set: Path) -> None:
    """Another split than a run's own is refused and nothing changed; a split of the set is scored by its own run;
    all splits are not to be had from a run of one."""
    written = (run_set / "split-0" / "evaluation.json").read_bytes()
    with pytest.raises(ValueError, match="the model was trained with 16 of the tracklets"):
        evaluate(run_set / "split-0", "--data.split", "1")
    with pytest.raises(
        ValueError, match=r"split-0/split-0: no config.yaml in it; make the run with launch/train.py --data.split 0"
    ):
        evaluate(run_set / "split-0", "--data.split", "all")
    assert (run_set / "split-0" / "evaluation.json").read_bytes() == written
    report = run_set / "split-1" / "report.html"
    report.unlink()
    evaluate(run_set, "--data.split", "1")
    assert report.exists()
