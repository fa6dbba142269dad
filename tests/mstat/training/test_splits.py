"""`data.split: all`: the mean of several splits' scores, and the guard against scoring what has trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shards
from mstat.config import Config, DataConfig
from mstat.config.cli import save_config
from mstat.evaluation.evaluate import refuse_trained
from mstat.training.splits import mean_of_splits
from shards.__main__ import main
from tests.mstat.report.conftest import make_evaluation
from tests.shards.sources.test_prid import make


def evaluation_of(split: str, rank1: float, num_gallery: int) -> dict[str, Any]:
    evaluation = {**make_evaluation(), "split": split, "rank1": rank1, "mAP": None, "num_gallery": num_gallery}
    evaluation["stages"] = {"I": {"mAP": None, "rank1": rank1 / 2, "cmc": [rank1 / 2, 1.0]}}
    return evaluation


def test_mean_and_deviation_of_every_score() -> None:
    """Mean and sample deviation, stages and baselines too; no mAP stays none; equal counts stay whole numbers."""
    values = [0.5, 0.75, 0.7]
    mean = mean_of_splits(
        {str(split): evaluation_of(str(split), value, 90 + split) for split, value in enumerate(values)}
    )
    assert mean["split"] == "all"
    assert mean["rank1"] == pytest.approx(np.mean(values), rel=1e-12)
    assert mean["sd"]["rank1"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert mean["stages"]["I"]["rank1"] == pytest.approx(np.mean(values) / 2, rel=1e-12)
    assert mean["stages"]["I"]["sd"]["rank1"] == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-12)
    assert mean["stages"]["I"]["cmc"] == [pytest.approx(np.mean(values) / 2), 1.0]
    assert (mean["mAP"], mean["stages"]["I"]["mAP"]) == (None, None)
    assert "mAP" not in mean["sd"]
    assert mean["baselines"]["untrained"]["sd"]["mAP"] == pytest.approx(0, abs=1e-12)
    assert (mean["num_query"], mean["num_gallery"]) == (1980, 91)
    assert [scores["rank1"] for scores in mean["splits"].values()] == values


def test_a_single_split_has_no_deviation() -> None:
    """A sample of one says nothing of its spread: no number is made up."""
    assert mean_of_splits({"0": evaluation_of("0", 0.5, 90)})["sd"] == {}


def test_runs_of_all_splits_on_one_split_of_another_set() -> None:
    """Their mean is of that split, as are the scores of other runs there."""
    mean = mean_of_splits({name: evaluation_of("0", value, 90) for name, value in (("0", 0.5), ("1", 0.75))})
    assert (mean["split"], list(mean["splits"])) == ("0", ["0", "1"])


def test_what_has_trained_is_not_scored(tmp_path: Path) -> None:
    """Split 1 tests persons that split 0 trains; the same split, and another set, are no one's fault."""
    root = make(tmp_path / "prid", set(range(1, 9)), frames=1)
    names = [f"person_{pid:04d}" for pid in range(1, 9)]
    splits = [{"train": names[:4], "test": names[4:]}, {"train": names[2:6], "test": names[:2] + names[6:]}]
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    arguments = ["--source", str(root), "--splits", str(tmp_path / "splits.json"), "--workers", "1", "--partial"]
    assert main(["build", "prid", *arguments, "--out", str(tmp_path / "out")]) == 0
    reader = shards.open(tmp_path / "out")
    first, second = (DataConfig(shards=str(tmp_path / "out"), split=split) for split in "01")
    by_path, by_checksum, of_another = (tmp_path / name for name in ("by-path", "by-checksum", "of-another"))
    for run, data, checksum in (
        (by_path, first, None),
        (by_checksum, dataclasses.replace(first, shards="moved"), reader.checksum),
        (of_another, dataclasses.replace(first, shards="another"), "of another"),
    ):
        run.mkdir()
        save_config(Config(data=data), run / "config.yaml")
        if checksum:
            (run / "environment.json").write_text(json.dumps({"shards_checksum": checksum}))
    for run in (by_path, by_checksum):
        with pytest.raises(ValueError, match=r"with 4 of the tracklets that split '1'.* score its own split '0'"):
            refuse_trained(reader, run, second)
        refuse_trained(reader, run, first)
    refuse_trained(reader, of_another, second)
