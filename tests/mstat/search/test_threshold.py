"""Measured thresholds: their rates, the bounds of rates between them, and evaluations that have none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mstat.errors import UserError
from mstat.evaluation.verification import BINS, accepted, verification
from mstat.search.threshold import Measured, chosen, measured

SETTINGS = {"num_frames": 4, "mode": "sample", "stage_norm": True, "occlusion": 0.0}
INFO = {"eval": SETTINGS}


@pytest.fixture(scope="module")
def counts() -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities of pairs of one person and of two, in bins."""
    generator = torch.Generator().manual_seed(0)
    drawn = 0.7 + 0.1 * torch.randn(500, generator=generator), 0.3 + 0.15 * torch.randn(20_000, generator=generator)
    places = [((values + 1) * BINS / 2).long().clamp(0, BINS - 1) for values in drawn]
    return torch.bincount(places[0], minlength=BINS), torch.bincount(places[1], minlength=BINS)


def evaluation(**changes: Any) -> dict[str, Any]:
    return {"dataset": {"name": "made"}, "protocol": "cross-camera", "eval": SETTINGS, **changes}


def write(folder: Path, content: object) -> Path:
    (folder / "evaluation.json").write_text(json.dumps(content))
    return folder / "evaluation.json"


def test_rates_of_measured_thresholds_and_bounds_of_others(
    counts: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """True rates, counted for many thresholds, lie within the printed bounds."""
    scores = verification(*counts)
    found = measured(write(tmp_path, evaluation(verification={"cosine": scores})), INFO)
    assert isinstance(found, Measured)
    assert [point.fpr for point in found.points] == [0.1, 0.01, 0.001, 0.0001]
    assert found.named("fpr=0.01") == scores["threshold_at_0.01"]
    text = found.rates(scores["threshold_at_0.01"])
    assert f"TPR {100 * scores['tpr_at_0.01']:.4g} %, FPR 0.1 to 1 %, on 500 pairs of one person and 20,000" in text
    tpr, fpr = (accepted(side).double() / side.sum() for side in counts)
    for index in range(0, BINS, 9_973):
        words = found.rates(2 * index / BINS - 1).split("measured TPR ")[1].split(", on ")[0]
        for rate, bounds in zip((tpr, fpr), words.split(" %, FPR "), strict=True):
            assert inside(100 * float(rate[index]), bounds.removesuffix(" %")), (index, words)


def inside(rate: float, bounds: str) -> bool:
    if bounds.startswith("at least "):
        return rate >= float(bounds.removeprefix("at least ")) - 0.01
    if bounds.startswith("at most "):
        return rate <= float(bounds.removeprefix("at most ")) + 0.01
    low, _, high = bounds.partition(" to ")
    return float(low) - 0.01 <= rate <= float(high or low) + 0.01


def test_an_evaluation_without_thresholds_says_why(counts: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    """Other settings, projected features, a missing, damaged or older file, and pairs that are too few."""
    cosine = {"cosine": verification(*counts)}
    for content, info, reason in (
        (evaluation(verification=cosine), {**INFO, "pca": {"dims": 2}}, "not on their principal components"),
        (
            evaluation(verification=cosine),
            {"eval": {**SETTINGS, "mode": "clips"}},
            "eval.mode sample, but the features",
        ),
        (evaluation(), INFO, "has no thresholds that can be read (KeyError('verification'))"),
        (evaluation(verification={"cosine": {**cosine["cosine"], "threshold_at_0.1": "x"}}), INFO, "ValueError"),
        (evaluation(verification={"cosine": {**cosine["cosine"], "tpr_at_0.1": float("nan")}}), INFO, "not a number"),
        ([1], INFO, "has no thresholds that can be read"),
        (evaluation(verification={"cosine": verification(counts[0] * 0, counts[1] * 0)}), INFO, "too few pairs"),
    ):
        found = measured(write(tmp_path, content), info)
        assert isinstance(found, str)
        assert reason in found
        assert chosen(0.5, found) == (0.5, f"TPR and FPR were not measured: {found}")
        with pytest.raises(UserError, match="no threshold was measured"):
            chosen("fpr=0.1", found)
    missing = tmp_path / "none.json"
    assert measured(missing, INFO) == f"{missing} does not exist: launch/evaluate.py writes it"
