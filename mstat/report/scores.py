"""Formatting of the scores of evaluation.json: order, names, rounding and table, for terminals and pages alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mstat.report.tables import Part, Row, Table

STAGES = ("I", "II", "III", "I+II", "I+III", "II+III", "I+II+III")
HEADINGS = {
    "mAP": "mAP",
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "mINP": "mINP",
}
DISTANCES = {"intra": "intra", "intra_correct": "intra, correct", "inter": "inter", "inter_mean": "inter, mean"}
ABSENT = "–"


def number(value: float | None, sd: float | None = None, digits: int = 1) -> str:
    """Return a number as text: `45.7`, with a standard deviation `45.7 ± 1.2`; a dash for None."""
    if value is None:
        return ABSENT
    return f"{value:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def percent(fraction: float | None, sd: float | None = None) -> str:
    """Return a fraction in percent, as `number` does."""
    return number(None if fraction is None else 100 * fraction, None if sd is None else 100 * sd)


def score(scores: Mapping[str, Any], column: str) -> str:
    """Return a score in percent; a mean has its standard deviation."""
    return percent(scores.get(column), scores.get("sd", {}).get(column))


def interval(bounds: Sequence[float] | None) -> str:
    """Return an interval of a fraction in percent; a dash for None."""
    return ABSENT if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}"


def intervals(evaluation: Mapping[str, Any]) -> str:
    """Return a sentence with the intervals of the scores of all stages; empty if there are none."""
    bounds = evaluation.get("intervals") or {}
    texts = [f"{heading} {interval(bounds[column])}" for column, heading in HEADINGS.items() if column in bounds]
    return f" 95 % intervals of all stages, over identities: {', '.join(texts)}." if texts else ""


def score_table(evaluation: Mapping[str, Any], splits: bool = True) -> Table:
    """Return the scores in percent: baselines, the splits of a mean (none if not `splits`), every subset of stages."""
    rows = baseline_rows(evaluation)
    if splits:
        rows += [
            Row(f"split {name}", cells(scores), "faint") for name, scores in (evaluation.get("splits") or {}).items()
        ]
    stages = evaluation.get("stages") or {}
    of_stages = [
        Row(f"Stage {name}", cells(stages[name]), "strong" if name == STAGES[-1] else "")
        for name in STAGES
        if name in stages
    ]
    return Table(
        ["features", *HEADINGS.values()],
        [*rows, Part(), *of_stages],
        title(evaluation),
        caption(evaluation),
        warnings(evaluation),
    )


def score_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """Return `score_table`, and the table of the scores after re-ranking if there are any."""
    return [score_table(evaluation), *reranked_tables(evaluation)]


def reranked_tables(evaluation: Mapping[str, Any]) -> list[Table]:
    """Return the table of the scores after re-ranking or query expansion; none without such scores."""
    reranked = evaluation.get("reranked")
    if not reranked:
        return []
    steps = reranking_steps(reranked["settings"])
    caption = f"{title(evaluation)}. In percent.{intervals(reranked)}"
    return [
        Table(
            ["features", *HEADINGS.values()],
            [Row("all stages", cells(reranked))],
            f"After {steps}",
            caption,
            [f"Scores after {steps}: not comparable with scores without."],
        )
    ]


def reranking_steps(settings: Mapping[str, Any]) -> str:
    """Return the words for the query expansion and re-ranking of these settings (`reranked` in evaluation.json)."""
    steps = []
    if "expansion" in settings:
        steps.append(f"query expansion (nearest {settings['expansion']:d}, α {settings['expansion_alpha']:g})")
    if "rerank" in settings:
        parameters = f"k1 {settings['rerank_k1']:d}, k2 {settings['rerank_k2']:d}, λ {settings['rerank_lambda']:g}"
        steps.append(f"re-ranking ({parameters})")
    return " and ".join(steps)


def baseline_rows(evaluation: Mapping[str, Any]) -> list[Row]:
    """Return a row for each baseline, in the order of the evaluation."""
    return [Row(name, cells(scores), "faint") for name, scores in (evaluation.get("baselines") or {}).items()]


def title(evaluation: Mapping[str, Any]) -> str:
    splits = evaluation.get("splits")
    scope = f"mean ± standard deviation of {len(splits)} splits" if splits else f"split {evaluation['split']}"
    return f"Protocol {evaluation['protocol']}, {scope}{of_set(evaluation)}"


def of_set(evaluation: Mapping[str, Any]) -> str:
    """Return the name of the data set, with a comma; empty for an evaluation of an earlier version, which has none."""
    named = evaluation.get("dataset")
    return f", of {named['name']}" if isinstance(named, dict) else ""


def short(evaluation: Mapping[str, Any]) -> str:
    """Return scores during training in one line; the final table has the whole warnings."""
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
        f"{intervals(evaluation)}"
    )


def cells(scores: Mapping[str, Any]) -> list[str]:
    """Return one cell for each key of HEADINGS."""
    return [score(scores, column) for column in HEADINGS]
