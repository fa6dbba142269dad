"""Mean of several evaluations, over splits or seeds, in the form of one evaluation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mstat.errors import UserError
from mstat.runs.scored_set import TERMS

# Entries of an evaluation that hold scores by name.
GROUPS = ("stages", "baselines", "distances", "verification", "open_set", "by_matches", "by_length")


def mean_of(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average evaluations: the same keys with mean scores, and standard deviations under `sd`.

    `sd` is the sample standard deviation (n - 1); it is empty for a single evaluation. Other values are copied from the
    first evaluation, except scores per camera and intervals, since each split has other queries. Scores after
    re-ranking are averaged if all evaluations have them with equal settings, and left out otherwise.

    Raises:
        UserError: If the evaluations differ in data set, protocol or settings.
    """
    for key, words in {"dataset": "data set", **TERMS}.items():
        values = [{**(evaluation.get("eval") or {}), **evaluation}.get(key) for evaluation in evaluations]
        if key != "split" and (others := [value for value in values if value != values[0]]):
            raise UserError(f"scores of different {words} cannot be averaged: {values[0]} and {others[0]}")
    first = {key: value for key, value in evaluations[0].items() if key not in ("cameras", "intervals", "reranked")}
    return {
        **first,
        **_mean(evaluations),
        **_mean_after_reranking([evaluation.get("reranked") for evaluation in evaluations]),
        **{
            group: {
                name: _mean([evaluation[group][name] for evaluation in evaluations])
                for name in entries
                if all(name in (evaluation.get(group) or {}) for evaluation in evaluations)
            }
            for group, entries in first.items()
            if group in GROUPS and entries
        },
    }


def _mean_after_reranking(entries: Sequence[Any]) -> dict[str, Any]:
    known = [entry for entry in entries if isinstance(entry, Mapping) and entry.get("settings")]
    settings = [entry["settings"] for entry in known]
    if len(known) < len(entries) or any(other != settings[0] for other in settings):
        return {}
    return {"reranked": {"settings": settings[0], **_mean(known)}}


def numbers(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of an evaluation: scores, distances, and counts of queries and gallery, but no settings.

    New scores are included automatically. mAP and its like are None for a protocol without them.
    """
    settings = {*TERMS, "cameras"}
    return {
        key: value
        for key, value in scores.items()
        if key not in settings and (_is_number(value) or _are_numbers(value) or value is None)
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_number, value))


def _mean(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mean: dict[str, Any] = {}
    sd = {}
    for key, first in numbers(scores[0]).items():
        values: list[Any] = [score.get(key) for score in scores]
        if None in values:
            mean[key] = None
        elif isinstance(first, list) and len({len(value) for value in values}) > 1:
            mean[key] = None  # a curve that one evaluation does not have
        elif isinstance(first, list):
            mean[key] = [statistics.fmean(at_rank) for at_rank in zip(*values, strict=True)]
        elif key.startswith("num_"):
            mean[key] = first if set(values) == {first} else statistics.fmean(values)
        else:
            mean[key] = statistics.fmean(values)
            if len(values) > 1:
                sd[key] = statistics.stdev(values)
    return {**mean, "sd": sd}
