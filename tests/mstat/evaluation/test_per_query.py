"""Scores of each query, and means over groups of queries, from a loop over queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mstat.bootstrap import PERCENTILES, RESAMPLES
from mstat.evaluation.metrics import Scores
from mstat.evaluation.per_query import LENGTHS, MATCHES, by_number, columns, group_scores

RNG = np.random.default_rng(0)
PIDS = RNG.integers(0, 9, 60)
FIRST_HITS = RNG.integers(0, 4, 60)
VALUES = np.where(FIRST_HITS > 0, RNG.random(60), 0)
SCORES = Scores({"mAP": torch.from_numpy(VALUES)}, torch.from_numpy(FIRST_HITS), num_gallery=9)


def test_a_query_without_a_true_match_has_no_values() -> None:
    """None in every column, for those that are asked for."""
    result = columns(SCORES, ["mAP"])
    assert list(result) == ["first_hit", "mAP"]
    assert result["first_hit"] == [hit or None for hit in FIRST_HITS.tolist()]
    assert result["mAP"] == [
        value if hit else None for value, hit in zip(VALUES.tolist(), FIRST_HITS.tolist(), strict=True)
    ]
    assert list(columns(SCORES, ())) == ["first_hit"]


@pytest.mark.parametrize("lower_bounds", [MATCHES, LENGTHS])
def test_groups_are_the_queries_of_a_range(lower_bounds: tuple[int, ...]) -> None:
    """Every query with a true match is in one group; those below the first bound are in none."""
    numbers = RNG.integers(0, 2 * lower_bounds[-1], 60)
    groups = by_number(torch.from_numpy(numbers), lower_bounds, SCORES, PIDS, seed=0)
    total = 0
    for name, group in groups.items():
        low = int(name.rstrip("+").split("-")[0])
        high = np.inf if name.endswith("+") else int(name.split("-")[-1])
        assert low in lower_bounds
        chosen = [q for q in range(60) if low <= numbers[q] <= high and FIRST_HITS[q]]
        assert group["num_valid_query"] == len(chosen) > 0
        assert group["mAP"] == pytest.approx(np.mean(VALUES[chosen]), abs=1e-12)
        assert group["rank1"] == np.mean(FIRST_HITS[chosen] == 1)
        total += len(chosen)
    assert total == sum((FIRST_HITS > 0) & (numbers >= lower_bounds[0]))


def test_names_of_groups() -> None:
    """As one number, a range or without an end; a group without a query is not there."""
    numbers = torch.tensor([1, 2, 4, 25, 2])
    scores = Scores({"mAP": torch.ones(5).double()}, torch.tensor([1, 1, 1, 2, 1]), num_gallery=9)
    assert list(by_number(numbers, MATCHES, scores, np.arange(5), 0)) == ["1", "2", "3-5", "21+"]


def test_intervals_draw_the_identities_of_the_group() -> None:
    """Those that have a query in it, as `intervals` draws those of all; one identity has no interval."""
    chosen = np.arange(60) % 2 == 0
    group = group_scores(SCORES, torch.from_numpy(chosen), PIDS, seed=3)
    queries = np.flatnonzero(chosen & (FIRST_HITS > 0))
    people = [queries[PIDS[queries] == pid] for pid in np.unique(PIDS[queries])]
    draws = np.random.default_rng(3)
    samples = [
        VALUES[np.concatenate([people[i] for i in draws.integers(len(people), size=len(people))])].mean()
        for _ in range(RESAMPLES)
    ]
    assert group["intervals"]["mAP"] == pytest.approx(np.percentile(samples, PERCENTILES).tolist(), abs=1e-12)
    assert group_scores(SCORES, torch.from_numpy(PIDS == 4), PIDS, seed=0)["intervals"] == {}


def test_without_queries_or_map() -> None:
    """A group without a query with a true match is empty; a protocol of CMC alone has no mAP."""
    assert group_scores(SCORES, torch.from_numpy(FIRST_HITS == 0), PIDS, seed=0) == {}
    group = group_scores(SCORES, torch.ones(60, dtype=torch.bool), PIDS, seed=0, has_map=False)
    assert group["mAP"] is None
    assert list(group["intervals"]) == ["rank1"]
