"""One order, one naming and one rounding of the scores, shared by the terminal's table and the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = ("I", "II", "III", "I+II", "I+III", "II+III", "I+II+III")
COLUMNS = {"mAP": "mAP", "rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "rank20": "rank-20"}
HEADINGS = [text.replace("-", "\N{NON-BREAKING HYPHEN}") for text in COLUMNS.values()]  # narrow, on a page
ABSENT = "–"


def percent(fraction: float | None, sd: float | None = None) -> str:
    """0.4567 -> `45.7`, with a deviation `45.7 ± 1.2`; None (a protocol without mAP) -> a dash."""
    if fraction is None:
        return ABSENT
    return f"{100 * fraction:.1f}" + (f" ± {100 * sd:.1f}" if sd is not None else "")


def score(scores: Mapping[str, Any], column: str) -> str:
    """One score in percent; of a mean over splits with its standard deviation."""
    return percent(scores.get(column), scores.get("sd", {}).get(column))


def baseline_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, one cell for each of COLUMNS) of each baseline, as ordered in the evaluation."""
    return [(name, cells(scores)) for name, scores in (evaluation.get("baselines") or {}).items()]


def stage_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, one cell for each of COLUMNS) of each subset of stages, single stages first."""
    stages = evaluation.get("stages") or {}
    return [(name, cells(stages[name])) for name in STAGES if name in stages]


def split_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(name, one cell for each of COLUMNS) of each split that a mean is of; none where it is of a single run."""
    return [(name, cells(scores)) for name, scores in (evaluation.get("splits") or {}).items()]


def title(evaluation: Mapping[str, Any]) -> str:
    splits = evaluation.get("splits")
    message = f"mean ± standard deviation of {len(splits)} splits" if splits else f"split {evaluation['split']}"
    return f"Protocol {evaluation['protocol']}, {message}{of_set(evaluation)}"


def of_set(evaluation: Mapping[str, Any]) -> str:
    """The set in words; of an evaluation by an earlier version, which names none, nothing."""
    named = evaluation.get("dataset")
    return f", of {named['name']}" if isinstance(named, dict) else ""


def short(evaluation: Mapping[str, Any]) -> str:
    """Scores during a training, on a line; what speaks against comparing them is told whole in the final table."""
    text = f"mAP {percent(evaluation['mAP'])}, rank-1 {percent(evaluation['rank1'])}"
    return text + (", not comparable with published scores" if evaluation["warnings"] else "")


def warnings(evaluation: Mapping[str, Any]) -> list[str]:
    """Return the reasons against comparing the scores, as sentences."""
    return [f"Not comparable with published scores: {warning}." for warning in evaluation["warnings"]]


def caption(evaluation: Mapping[str, Any]) -> str:
    """Return a sentence on the number of queries and gallery tracklets behind the scores."""
    return (
        f"{evaluation['num_valid_query']:,} valid of {evaluation['num_query']:,} queries, "
        f"{evaluation['num_gallery']:,} gallery tracklets{' in each split' * ('splits' in evaluation)}. In percent."
    )


def cells(scores: Mapping[str, Any]) -> list[str]:
    """One cell for each of COLUMNS."""
    return [score(scores, column) for column in COLUMNS]
