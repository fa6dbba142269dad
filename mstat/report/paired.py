"""Paired differences of runs: by how much one is better than another on the same queries, with intervals.

The differences of a query's scores are drawn, because they vary less than the scores themselves. Identities are drawn
with all their queries (`mstat.bootstrap`). Runs that differ only in the seed are one side, with the mean over
these runs for each query.

Shape suffixes: Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mstat.bootstrap import mean_intervals
from mstat.report import page, scores
from mstat.report.run_groups import Compared, Group, why_not_comparable
from mstat.report.tables import Part, Row, Table
from mstat.runs.scored_set import DECIDING

FILE = "queries.json"
BELONGS = ("dataset", "protocol", "split", "eval")  # as in evaluation.json
MOST = 2**53  # of whole numbers in the file
NO_DIFFERENCE = "not shown to differ"


class NotComparableError(ValueError):
    """Reason why a paired difference would mean nothing, as a sentence without its full stop."""


@dataclass(frozen=True)
class Queries:
    """Scores of every query of a run, sorted by key.

    Attributes:
        keys, pids_Q: Key and identity of each query.
        values_Q: fp64 by name, NaN for a query without a true match.
    """

    keys: list[str]
    pids_Q: np.ndarray
    values_Q: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, run: Compared) -> Queries:
        """Read queries.json of a run folder, which a stranger may have written.

        Raises:
            NotComparableError: If there is none, or it does not hold scores of queries.
        """
        if run.folder.is_set:
            one = f"{run.folder.run}/split-NAME"
            raise NotComparableError(
                f"{run.name} holds the runs of all splits: compare runs of one split, such as {one}"
            )
        content = run.folder.json(FILE)
        if isinstance(content, str):
            again = f"launch/evaluate.py --run {run.folder.run}"
            raise NotComparableError(f"{run.name}: {content.rstrip('.')}; {again} makes it (earlier versions did not)")
        if any(key not in content or content[key] != run.evaluation.get(key) for key in BELONGS):
            raise NotComparableError(f"{run.name}: {FILE} does not belong to an evaluation.json beside it")
        ranks = [name for name in scores.HEADINGS if name.startswith("rank")]
        means = [name for name in scores.HEADINGS if name in content]
        columns: list[Any] = [content.get(name) for name in ("key", "pid", "first_hit", *means)]
        if not _are_scores(*columns):
            raise NotComparableError(f"{run.name}: {FILE} does not hold the scores of queries")
        keys, pids, first_hits, *values = columns
        order = sorted(range(len(keys)), key=keys.__getitem__)
        hit_Q = np.array(first_hits, dtype=np.float64)[order]
        values_Q = {name: np.array(column, dtype=np.float64)[order] for name, column in zip(means, values, strict=True)}
        values_Q |= {name: np.where(np.isnan(hit_Q), np.nan, hit_Q <= int(name[4:])) for name in ranks}
        return cls([keys[place] for place in order], np.array(pids)[order], values_Q)


def _are_scores(keys: Any, pids: Any, first_hits: Any, *means: Any) -> bool:
    """Return whether these are lists of one length: distinct texts, whole numbers, ranks or None, fractions or None."""
    if not all(
        isinstance(column, list) and 0 < len(column) == len(keys) for column in (keys, pids, first_hits, *means)
    ):
        return False
    return (
        all(isinstance(key, str) for key in keys)
        and len(set(keys)) == len(keys)
        and all(type(pid) is int and abs(pid) <= MOST for pid in pids)
        and all(hit is None or (type(hit) is int and 0 < hit <= MOST) for hit in first_hits)
        and all(
            value is None if hit is None else type(value) in (int, float) and 0 <= value <= 1
            for column in means
            for value, hit in zip(column, first_hits, strict=True)
        )
    )


class Difference(NamedTuple):
    """Difference of one score, as a fraction, and its 95 % interval.

    Attributes:
        deviations: Standard deviation over the seeds of each side; None for one seed.
    """

    mean: float
    low: float
    high: float
    deviations: tuple[float | None, float | None]

    @property
    def result(self) -> str:
        """Say what the interval shows."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else NO_DIFFERENCE


def differences(first: Group, other: Group) -> dict[str, Difference]:
    """Return other minus first for each mean and rank-k score.

    Raises:
        NotComparableError: If the difference would mean nothing: other data sets, protocols, splits, settings or
            queries, no scores of queries, or a single identity.
    """
    if reasons := why_not_comparable([*first.runs, *other.runs]):
        raise NotComparableError("; ".join(reasons))
    sides = [[Queries.read(run) for run in group.runs] for group in (first, other)]
    reference = sides[0][0]
    for run, queries in zip([*first.runs, *other.runs], sides[0] + sides[1], strict=True):
        if queries.keys != reference.keys or not np.array_equal(queries.pids_Q, reference.pids_Q):
            raise NotComparableError(f"{run.name} and {first.runs[0].name} have different queries")
        if not np.array_equal(np.isnan(queries.values_Q["rank1"]), np.isnan(reference.values_Q["rank1"])):
            raise NotComparableError(f"{run.name} and {first.runs[0].name} have true matches for different queries")
    counted_Q = ~np.isnan(reference.values_Q["rank1"])
    if first.runs[0].terms.get(DECIDING["no_positive"]) == "zero":
        counted_Q[:] = True
    pids_Q = reference.pids_Q[counted_Q]
    if len(np.unique(pids_Q)) < 2:
        raise NotComparableError("all queries that count are of one identity, so there is no interval")
    means = [{name: np.mean([run.values_Q[name] for run in side], axis=0) for name in _shared(sides)} for side in sides]
    difference_Q = {name: np.nan_to_num(means[1][name] - means[0][name])[counted_Q] for name in means[0]}
    bounds = mean_intervals(difference_Q, pids_Q)
    return {
        name: Difference(
            float(values.mean()), bounds[name][0], bounds[name][1], (_deviation(first, name), _deviation(other, name))
        )
        for name, values in difference_Q.items()
    }


def _shared(sides: Sequence[Sequence[Queries]]) -> list[str]:
    runs = [run for side in sides for run in side]
    return [name for name in runs[0].values_Q if all(name in run.values_Q for run in runs)]


def _deviation(group: Group, name: str) -> float | None:
    return group.evaluation["sd"].get(name) if len(group.runs) > 1 else None


def table(groups: Sequence[Group]) -> Table:
    """Return the paired differences of each group from the first one, and in words what they do not show."""
    rows: list[Row | Part] = []
    warnings = []
    for other in groups[1:]:
        title = f"{other.name} minus {groups[0].name}"
        try:
            result = differences(groups[0], other)
        except NotComparableError as reason:
            warnings.append(f"{title} means nothing: {reason}.")
        except page.UNEXPECTED as error:
            warnings.append(f"{title}: evaluation.json cannot be used: {page.reason(error)}.")
        else:
            shown = [name for name in scores.HEADINGS if name in result]
            rows += [Part(title), *(Row(scores.HEADINGS[name], _cells(result[name])) for name in shown)]
    if len(groups) < 2:
        warnings.append("The runs differ only in the seed, so all are one side and there is nothing to compare.")
    elif any(len(group.runs) == 1 for group in groups):
        warnings.append(
            "A side of one run: the interval does not contain how scores vary with the seed of the training, so a "
            "difference is one of these runs and not yet one of their methods. Train several seeds of both."
        )
    caption = (
        "In percentage points, for the same queries, with the 95 % interval over identities. It is over the people "
        "tested, not over seeds of the training, whose standard deviations are beside it. If it includes 0, the runs "
        f"are {NO_DIFFERENCE}. Of 20 scores of equal runs, one is expected to show a difference."
    )
    headings = ["score", "difference", "95 % interval", "sd over seeds", "result"]
    return Table(headings, rows, "Paired differences", caption, warnings, align="lrrrl")


def _cells(difference: Difference) -> list[str]:
    one, other = difference.deviations
    return [
        f"{100 * difference.mean:+.1f}",
        f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}",
        scores.ABSENT if one is None or other is None else f"{scores.percent(one)}, {scores.percent(other)}",
        difference.result,
    ]
