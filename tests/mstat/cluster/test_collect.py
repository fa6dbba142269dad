"""Means over the runs of an array."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mstat.cluster.collect import collect
from mstat.files import write_json


def test_means_over_seeds(tmp_path: Path) -> None:
    """Scores are means with standard deviations, in the order of the seeds; a missing evaluation is an error."""
    for seed, score in ((9, 0.5), (10, 0.7)):
        (tmp_path / f"seed-{seed}").mkdir()
        scores = {"mAP": score, "rank1": score, "num_query": 3}
        evaluation = {"protocol": "official", "split": "test", **scores, "stages": {"I": scores}}
        write_json(tmp_path / f"seed-{seed}" / "evaluation.json", evaluation)
    collect(tmp_path)
    mean = json.loads((tmp_path / "evaluation.json").read_text())
    assert mean["mAP"] == pytest.approx(0.6)
    assert mean["sd"]["rank1"] == pytest.approx(0.02**0.5)
    assert mean["stages"]["I"]["rank1"] == pytest.approx(0.6)
    assert mean["split"] == "test"
    assert list(mean["seeds"]) == ["seed-9", "seed-10"]

    (tmp_path / "seed-11").mkdir()
    with pytest.raises(ValueError, match=r"no evaluation\.json in seed-11; .* continue"):
        collect(tmp_path)
