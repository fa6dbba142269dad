"""Scores as the tables show them."""

from __future__ import annotations

from typing import Any

import pytest

from mstat.report import scores
from mstat.report.tables import Part, Row
from tests.mstat.report.conftest import make_evaluation


@pytest.mark.parametrize(
    ("fraction", "sd", "text"),
    [(0.4567, None, "45.7"), (1.0, None, "100.0"), (0.5, 0.0123, "50.0 ± 1.2"), (None, None, "–"), (None, 0.1, "–")],
)
def test_percent(fraction: float | None, sd: float | None, text: str) -> None:
    """A protocol without mAP has a dash in its place, not a zero."""
    assert scores.percent(fraction, sd) == text


def test_rows_have_one_order() -> None:
    """Single stages first, the whole last, whatever the order in the file; unknown stages are left out."""
    of_stage = {column: 0.5 + index / 100 for index, column in enumerate(scores.HEADINGS)}
    stages = dict.fromkeys(("I+II+III", "IV", "II", "I"), of_stage)
    table = scores.score_table({**make_evaluation(), "stages": stages, "baselines": None})
    rows = [row for row in table.rows if isinstance(row, Row)]
    assert [row.name for row in rows] == ["Stage I", "Stage II", "Stage I+II+III"]
    assert rows[0].cells == [f"{50 + index}.0" for index in range(len(scores.HEADINGS))]
    assert table.headings[1:3] == ["mAP", "rank-1"]
    assert len(table.headings) == 1 + len(rows[0].cells)
    assert scores.score_table({**make_evaluation(), "stages": None, "baselines": None}).rows == [Part()]


def test_titles_name_protocol_split_and_set() -> None:
    evaluation = {"protocol": "official", "split": "0", "dataset": {"name": "MARS"}}
    assert scores.title(evaluation) == "Protocol official, split 0, of MARS"
    mean = {"protocol": "half", "splits": {"a": {}, "b": {}}}
    assert scores.title(mean) == "Protocol half, mean ± standard deviation of 2 splits"


def test_captions_count_the_queries() -> None:
    evaluation = {"num_valid_query": 1840, "num_query": 1980, "num_gallery": 11310}
    assert scores.caption(evaluation) == "1,840 valid of 1,980 queries, 11,310 gallery tracklets. In percent."
    assert "11,310 gallery tracklets in each split. " in scores.caption({**evaluation, "splits": {}})


def test_scores_after_reranking_have_a_table_of_their_own() -> None:
    """It names the steps and says that they are not comparable; the table of scores is the same with and without."""
    settings: dict[str, Any] = {"expansion": 5, "expansion_alpha": 3.0}
    settings |= {"rerank": "k-reciprocal", "rerank_k1": 20, "rerank_k2": 6, "rerank_lambda": 0.3}
    reranked = {"settings": settings, "mAP": 0.913, "rank1": 0.955, "intervals": {"mAP": [0.9, 0.92]}}
    plain, (own, apart) = make_evaluation(), scores.score_tables({**make_evaluation(), "reranked": reranked})
    assert scores.score_tables(plain) == [own]
    steps = "query expansion (nearest 5, α 3) and re-ranking (k1 20, k2 6, λ 0.3)"
    assert apart.title == f"After {steps}"
    assert apart.warnings == [f"Scores after {steps}: not comparable with scores without."]
    assert apart.rows == [Row("all stages", ["91.3", "95.5", "–", "–", "–", "–"])]
    assert "mAP 90.0–92.0" in apart.caption
