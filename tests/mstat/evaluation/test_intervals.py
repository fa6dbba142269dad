"""Bootstrap intervals: drawn by identity, seeded, and as wide as they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mstat.bootstrap import PERCENTILES, RESAMPLES
from mstat.evaluation.intervals import intervals
from mstat.evaluation.metrics import Scores


def scores_of(values: np.ndarray, first_hits: np.ndarray | None = None) -> Scores:
    hits = np.ones(len(values), np.int64) if first_hits is None else first_hits
    return Scores({"mAP": torch.from_numpy(values)}, torch.from_numpy(hits), num_gallery=9)


def test_equals_drawing_identities_one_by_one() -> None:
    """Each resample holds all counted queries of the drawn identities, as often as they were drawn."""
    rng = np.random.default_rng(1)
    pids, values, hits = rng.integers(0, 9, 40), rng.random(40), rng.integers(0, 4, 40)
    values[hits == 0] = 0
    for no_positive in ("skip", "zero"):
        counted = hits > 0 if no_positive == "skip" else np.ones(40, bool)
        queries = [np.flatnonzero((pids == pid) & counted) for pid in np.unique(pids[counted])]
        draws = np.random.default_rng(3)
        samples = []
        for _ in range(RESAMPLES):
            chosen = np.concatenate([queries[i] for i in draws.integers(len(queries), size=len(queries))])
            samples.append((values[chosen].mean(), np.mean((hits[chosen] > 0) & (hits[chosen] <= 1))))
        expected = np.percentile(samples, PERCENTILES, axis=0)
        bounds = intervals(scores_of(values, hits), pids, no_positive, seed=3)
        assert bounds["mAP"] == pytest.approx(expected[:, 0], abs=1e-12)
        assert bounds["rank1"] == pytest.approx(expected[:, 1], abs=1e-12)


def test_queries_of_one_person_count_as_one() -> None:
    """100 copies of each query tell no more: the interval stays. As queries of as many people, they narrow it."""
    values = np.random.default_rng(0).random(30)
    once = intervals(scores_of(values), np.arange(30))["mAP"]
    copied = intervals(scores_of(values.repeat(100)), np.arange(30).repeat(100))["mAP"]
    apart = intervals(scores_of(values.repeat(100)), np.arange(3000))["mAP"]
    assert copied == pytest.approx(once, abs=1e-12)
    assert apart[1] - apart[0] < (once[1] - once[0]) / 5
    assert once[0] < values.mean() < once[1]


def test_covers_the_truth_as_often_as_it_says() -> None:
    """Of 200 tests of 60 people drawn from known values, the interval has the true mean 95 % of the time, +- 4 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = intervals(scores_of(rng.beta(2, 1, 60)), np.arange(60), seed=seed)["mAP"]
        covered += low <= 2 / 3 <= high
    assert 0.91 <= covered / 200 <= 0.99


def test_one_identity_has_no_interval() -> None:
    """Nothing could be drawn but itself."""
    assert intervals(scores_of(np.array([0.2, 0.9])), np.array([7, 7])) == {}
