"""Paired differences: drawn by identity from differences of queries, and refused where they would mean nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstat.bootstrap import PERCENTILES, RESAMPLES
from mstat.report import scores
from mstat.report.paired import FILE, NO_DIFFERENCE, NotComparableError, differences, table
from mstat.report.run_groups import Group, compared, grouped
from tests.mstat.report.conftest import make_evaluation

NUM_QUERY = 60
PIDS = np.random.default_rng(0).integers(0, 12, NUM_QUERY).tolist()
TERMS = {"dataset": {"name": "set", "checksum": "abc"}, "protocol": "official", "split": "0", "eval": {"seed": 0}}


def make_queries(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Content of queries.json; each tenth query has no true match."""
    rng = np.random.default_rng(seed)
    hits = [None if q % 10 == 0 else int(rng.integers(1, 30)) for q in range(NUM_QUERY)]
    means = {name: [hit and float(rng.random()) for hit in hits] for name in ("mAP", "mINP")}
    keys = [f"key{q:03}" for q in range(NUM_QUERY)]
    return {**TERMS, "key": keys, "pid": PIDS, "camid": [1] * NUM_QUERY, "first_hit": hits, **means, **changes}


def make(folder: Path, queries: Any = None, seed: int = 0, lr: float = 0.1, **evaluation: Any) -> Path:
    """A run folder with scores alone; None writes no queries.json."""
    folder.mkdir()
    (folder / "config.yaml").write_text(f"seed: {seed}\noptim: {{lr: {lr}}}\n")
    (folder / "evaluation.json").write_text(json.dumps({**make_evaluation(), **TERMS, **evaluation}))
    if queries is not None:
        (folder / FILE).write_text(json.dumps(queries))
    return folder


def sides(*paths: Path) -> Sequence[Group]:
    return grouped(compared(paths))


def brute_force(one: dict[str, Any], other: dict[str, Any], counted: Sequence[int], name: str) -> list[float]:
    """Mean difference and its interval, from resamples that hold every query of each drawn identity."""

    def score(content: dict[str, Any], q: int) -> float:
        hit = content["first_hit"][q]
        if hit is None:
            return 0.0
        return float(hit <= int(name[4:])) if name.startswith("rank") else content[name][q]

    gains = {q: score(other, q) - score(one, q) for q in counted}
    people = [[q for q in counted if PIDS[q] == pid] for pid in sorted({PIDS[q] for q in counted})]
    draws, samples = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = [q for i in draws.integers(len(people), size=len(people)) for q in people[i]]
        samples.append(np.mean([gains[q] for q in drawn]))
    return [float(np.mean(list(gains.values()))), *np.percentile(samples, PERCENTILES).tolist()]


@pytest.mark.parametrize("no_positive", ["skip", "zero"])
def test_equals_drawing_identities_one_by_one(tmp_path: Path, no_positive: str) -> None:
    """Queries are paired by key in whatever order; those without a true match are left out, or count as 0."""
    terms: dict[str, Any] = {"eval": {"seed": 0, "no_positive": None if no_positive == "skip" else no_positive}}
    one, other = make_queries(1, **terms), make_queries(2, **terms)
    order = np.random.default_rng(0).permutation(NUM_QUERY).tolist()
    turned = {name: [of[q] for q in order] if isinstance(of, list) else of for name, of in other.items()}
    result = differences(*sides(make(tmp_path / "a", one, **terms), make(tmp_path / "b", turned, lr=0.2, **terms)))
    counted = [q for q in range(NUM_QUERY) if no_positive == "zero" or one["first_hit"][q]]
    assert set(result) == set(scores.HEADINGS)
    for name in result:
        assert result[name][:3] == pytest.approx(brute_force(one, other, counted, name), abs=1e-12)


def test_seeds_are_one_side(tmp_path: Path) -> None:
    """The mean over the seeds of each query, and beside it how far the scores of the seeds vary."""
    contents = [make_queries(seed) for seed in range(4)]
    paths = [
        make(tmp_path / f"run-{number}", content, seed=number % 2, lr=1 + number // 2, mAP=0.5 + number / 10)
        for number, content in enumerate(contents)
    ]
    groups = sides(*paths)
    assert [len(group.runs) for group in groups] == [2, 2]
    result = differences(*groups)["mAP"]
    values = np.array([[value for value in content["mAP"] if value is not None] for content in contents])
    assert result.mean == pytest.approx((values[2:].mean(0) - values[:2].mean(0)).mean(), abs=1e-12)
    assert list(result.deviations) == pytest.approx([np.sqrt(0.005)] * 2)
    made = table(groups)
    assert made.warnings == []
    assert made.rows[1].cells[2] == "7.1, 7.1"  # type: ignore[union-attr]
    alone = table(sides(*paths[:3]))
    assert "Train several seeds of both" in alone.warnings[0]
    assert alone.rows[1].cells[2] == scores.ABSENT  # type: ignore[union-attr]
    assert "nothing to compare" in table(sides(*paths[:2])).warnings[0]


def test_words_say_what_the_interval_shows(tmp_path: Path) -> None:
    """Higher, lower, or not shown to differ if the interval includes 0, such as for equal scores."""
    content = make_queries()
    better = make_queries(mAP=[value and (1 + value) / 2 for value in content["mAP"]])
    paths = [make(tmp_path / name, made, lr=lr) for name, made, lr in (("a", content, 1), ("b", better, 2))]
    first, other = sides(*paths)
    assert differences(first, other)["mAP"].result == "higher"
    assert differences(other, first)["mAP"].result == "lower"
    assert differences(first, other)["rank1"].result == NO_DIFFERENCE
    rows = {row.name: row.cells for row in table([first, other]).rows[1:]}  # type: ignore[union-attr]
    assert list(rows) == list(scores.HEADINGS.values())
    assert rows["mAP"][0].startswith("+")
    assert rows["rank-1"] == ["+0.0", "+0.0 to +0.0", scores.ABSENT, NO_DIFFERENCE]


OTHERS: dict[str, tuple[dict[str, Any] | None, dict[str, Any], str]] = {
    "data set": ({}, {"dataset": {"name": "set", "checksum": "xyz"}}, "different shards"),
    "protocol": ({}, {"protocol": "own"}, "different protocol: official"),
    "split": ({}, {"split": "1"}, "different split"),
    "settings": ({}, {"eval": {"seed": 0, "flip": True}}, "different averaging with the mirror image"),
    "none": (None, {}, r"b: queries.json is not in the run folder; launch/evaluate.py --run .*b makes it"),
    "key": ({"key": [f"other{q}" for q in range(NUM_QUERY)]}, {}, "b and a have different queries"),
    "pid": ({"pid": PIDS[1:] + PIDS[:1]}, {}, "b and a have different queries"),
    "matches": ({"first_hit": [1] * NUM_QUERY, "mAP": [0.5] * NUM_QUERY}, {}, "true matches for different queries"),
    "old": ({"eval": {"seed": 9}}, {}, "does not belong to an evaluation.json"),
    "splits": ({}, {"splits": {}}, "runs of all splits"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_what_means_nothing_is_said_so(case: str, tmp_path: Path) -> None:
    """The reason stands in the table; other runs are compared as ever."""
    changes, evaluation, message = OTHERS[case]
    content = None if changes is None else {**make_queries(), **evaluation, **changes}
    if case == "matches":
        assert content is not None
        content = {name: of for name, of in content.items() if name != "mINP"}
    paths = [make(tmp_path / "a", make_queries()), make(tmp_path / "b", content, lr=2, **evaluation)]
    first, other = sides(*paths)
    with pytest.raises(NotComparableError, match=message):
        differences(first, other)
    made = table(sides(*paths, make(tmp_path / "c", make_queries(1), lr=3)))
    assert made.warnings[0].startswith("b minus a means nothing: ")
    assert [row.title for row in made.rows if not hasattr(row, "cells")] == ["c minus a"]


def test_one_identity_has_no_interval(tmp_path: Path) -> None:
    """Nothing could be drawn but itself."""
    contents = [make_queries(seed, pid=[7] * NUM_QUERY) for seed in range(2)]
    paths = [make(tmp_path / f"{seed}", content, lr=1 + seed) for seed, content in enumerate(contents)]
    with pytest.raises(NotComparableError, match="of one identity"):
        differences(*sides(*paths))


@pytest.mark.parametrize(
    "changes",
    [
        {"key": 3},
        {"key": [["x"]] * NUM_QUERY},
        {"key": ["x"] * NUM_QUERY},
        {"key": []},
        {"pid": [True] * NUM_QUERY},
        {"pid": [10**400] * NUM_QUERY},
        {"first_hit": [0.5] * NUM_QUERY},
        {"first_hit": [0] * NUM_QUERY},
        {"first_hit": None},
        {"mAP": [0.5] * 3},
        {"mAP": [0.5] * NUM_QUERY},
        {"mAP": ["<b>"] * NUM_QUERY},
        {"mINP": [float("nan")] * NUM_QUERY},
        {"mINP": [1e300] * NUM_QUERY},
        {"mINP": {"a": 1}},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_what_holds_no_scores_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    """Other types, lengths, ranges, keys twice, scores where there is no match: one sentence, no number."""
    content = make_queries() if changes.get("first_hit", 1) else make_queries(mAP=[], mINP=[])
    paths = [make(tmp_path / "a", make_queries()), make(tmp_path / "b", {**content, **changes}, lr=2)]
    made = table(sides(*paths))
    assert made.rows == []
    assert made.warnings[0] == "b minus a means nothing: b: queries.json does not hold the scores of queries."


@pytest.mark.parametrize("text", ["[" * 200_000, "null", "{", '{"key": []}', "\x00"])
def test_odd_files_cost_a_sentence(text: str, tmp_path: Path) -> None:
    """Deep, empty, cut: the table stands, and says of whom it cannot speak. So does an evaluation of odd types."""
    paths = [make(tmp_path / "a", make_queries()), make(tmp_path / "b", make_queries(), lr=2)]
    (paths[1] / FILE).write_text(text)
    assert "b minus a means nothing: b: queries.json" in table(sides(*paths)).warnings[0]
    (paths[1] / FILE).unlink()
    (paths[1] / FILE).symlink_to(paths[0] / FILE)
    assert "is a link" in table(sides(*paths)).warnings[0]
