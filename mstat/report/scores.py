"""One order, one naming and one rounding of the scores, shared by the terminal's table and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = ("I", "II", "III", "I+II", "I+III", "II+III", "I+II+III")
COLUMNS = {"mAP": "mAP", "rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "rank20": "rank-20"}
ABSENT = "–"


def percent(fraction: float | None) -> str:
    """0.4567 -> `45.7`; None (a protocol without mAP) -> a dash."""
    return ABSENT if fraction is None else f"{100 * fraction:.1f}"


def baseline_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, one cell for each of COLUMNS) of each baseline, as ordered in the evaluation."""
    return [(name, _cells(scores)) for name, scores in (evaluation.get("baselines") or {}).items()]


def stage_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, one cell for each of COLUMNS) of each subset of stages, single stages first."""
    stages = evaluation.get("stages") or {}
    return [(name, _cells(stages[name])) for name in STAGES if name in stages]


def title(evaluation: Mapping[str, Any]) -> str:
    return f"Protocol {evaluation['protocol']}, split {evaluation['split']}"


def caption(evaluation: Mapping[str, Any]) -> str:
    """How many queries and gallery tracklets stand behind the scores."""
    text = (
        f"{evaluation['num_valid_query']:,} valid of {evaluation['num_query']:,} queries, "
        f"{evaluation['num_gallery']:,} gallery tracklets. In percent."
    )
    if evaluation.get("partial"):
        text += " Partial data set: not comparable with published scores."
    return text


def _cells(scores: Mapping[str, Any]) -> list[str]:
    return [percent(scores.get(column)) for column in COLUMNS]
