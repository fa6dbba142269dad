"""Matrix of runs and data sets, from the evaluation.json of each run and those in its `evaluations`.

Run folders may come from strangers, so every value is checked before it is used; what is left out is remarked.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mstat.report import scores
from mstat.report.run_groups import Compared, Group
from mstat.report.run_reader import Json
from mstat.runs.scored_set import DECIDING, EVALUATIONS, in_effect, scored_checksum, trained_checksum
from shards.text import printable

SCORES = ("mAP", "rank1")
MOST_CHARACTERS = 60  # of a name from a file
MOST_CHECKSUM = 200


class Column(NamedTuple):
    """Terms that all scores of a column share. The name is not one of them: sets are identified by checksum."""

    checksum: str
    protocol: str
    split: str
    settings: tuple[tuple[str, Any], ...]  # of the evaluation, in effect


class Evaluation(NamedTuple):
    """Scores of one run on one data set.

    Attributes:
        place: File, from the run's name on.
        set_name: Name of the data set.
        num_queries: Number of valid queries.
        scores, sds: Fractions by key of SCORES; None if unknown. Standard deviations are over splits.
    """

    place: str
    column: Column
    set_name: str
    num_queries: float | None
    scores: dict[str, float | None]
    sds: dict[str, float | None]

    def is_on(self, checksum: str | None) -> bool:
        return self.column.checksum == checksum


@dataclass
class Cell:
    """Scores of a group of runs on one data set.

    Attributes:
        is_own: Whether the runs were trained on this data set; None if that is unknown.
        evaluations: One for each run that was scored.
    """

    is_own: bool | None
    evaluations: list[Evaluation]

    def mean(self, key: str) -> float | None:
        values = [one.scores[key] for one in self.evaluations]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    def sd(self, key: str) -> float | None:
        """Return the sample standard deviation over runs; of a single run, that over its splits."""
        if len(self.evaluations) == 1:
            return self.evaluations[0].sds[key]
        known = [value for one in self.evaluations if (value := one.scores[key]) is not None]
        return statistics.stdev(known) if len(known) == len(self.evaluations) else None


class Line(NamedTuple):
    """Row of the matrix: a run, or runs that differ only in the seed."""

    name: str
    runs: list[str]
    trained_on: str | None  # checksum
    cells: list[Cell | None]


@dataclass
class Matrix:
    """Runs and what they were scored on.

    Attributes:
        labels: A short name of each column, with the terms in which the columns of a set differ.
        set_names, num_queries: Name of the data set, and number of valid queries, of each column.
        remarks: Sentences on evaluations that are left out.
        warnings: Sentences on why scores cannot be compared with published ones.
    """

    columns: list[Column]
    lines: list[Line]
    labels: list[str]
    set_names: list[str]
    num_queries: list[float | None]
    remarks: list[str]
    warnings: list[str]

    @property
    def scores(self) -> list[str]:
        """Return the keys of SCORES that any run has; some protocols have no mAP."""
        cells = [cell for line in self.lines for cell in line.cells if cell is not None]
        return [key for key in SCORES if any(cell.mean(key) is not None for cell in cells)]

    @property
    def is_across(self) -> bool:
        """Return whether a run was scored on another set than its own, or on several."""
        others = any(cell is not None and cell.is_own is False for line in self.lines for cell in line.cells)
        return others or any(sum(cell is not None for cell in line.cells) > 1 for line in self.lines)


def matrix_of(groups: Sequence[Group]) -> Matrix:
    """Return the matrix of groups of runs; columns of own sets come first, in the order of the runs."""
    runs = [run for group in groups for run in group.runs]
    trained = {run.name: _text(trained_checksum(run.folder.of_run), MOST_CHECKSUM) for run in runs}
    remarks: list[str] = []
    warnings: list[str] = []
    of_runs = {run.name: _evaluations(run, remarks, warnings) for run in runs}
    every = [one for of_run in of_runs.values() for one in of_run.values()]
    names = {one.column.checksum: one.set_name for one in reversed(every)}  # the first name of each data set
    own = [one.column for name, of_run in of_runs.items() for one in of_run.values() if one.is_on(trained[name])]
    by_name = sorted(names, key=lambda checksum: (names[checksum], checksum))
    sets = list(dict.fromkeys([*(column.checksum for column in own), *by_name]))
    columns = list(dict.fromkeys([*own, *sorted((one.column for one in every), key=repr)]))
    columns.sort(key=lambda column: sets.index(column.checksum))  # keeps the order within a set
    lines = []
    for group in groups:
        known = {trained[run.name] for run in group.runs}
        trained_on = known.pop() if len(known) == 1 else None
        cells: list[Cell | None] = []
        for column in columns:
            scored = [one for run in group.runs if (one := of_runs[run.name].get(column)) is not None]
            is_own = None if trained_on is None else column.checksum == trained_on
            cells.append(Cell(is_own, scored) if scored else None)
        lines.append(Line(group.name, [run.name for run in group.runs], trained_on, cells))
    matrix = Matrix(
        columns,
        lines,
        _labels(columns, names),
        [names[column.checksum] for column in columns],
        [next(one.num_queries for one in every if one.column == column) for column in columns],
        remarks,
        list(dict.fromkeys(warnings)),
    )
    if unknown := [line.name for line in lines if line.trained_on is None and any(line.cells)]:
        matrix.remarks.append(f"No data set is marked as the own of {', '.join(unknown)}: its training set is unknown.")
    return matrix


def _evaluations(run: Compared, remarks: list[str], warnings: list[str]) -> dict[Column, Evaluation]:
    """Return the evaluations of a run by column; add sentences on those that are left out."""
    files: dict[str, Json] = {"evaluation.json": run.folder.evaluation}
    files |= {f"{EVALUATIONS}/{name}/evaluation.json": record for name, record in run.folder.others.items()}
    result: dict[Column, Evaluation] = {}
    for file, record in files.items():
        place, is_first = f"{run.name}/{file}", file == "evaluation.json"
        if isinstance(record, str):
            if not is_first:  # the head of the page has a note on the run's own file
                remarks.append(f"{run.name}: {record}")
            continue
        if "checkpoint" in record:  # another model than the run's
            continue
        evaluation = _read(place, record, scored_checksum(run.folder.run, record) if is_first else None)
        if evaluation is None:
            if not is_first or run.folder.others:  # a run of an earlier version, compared with its like, needs none
                remarks.append(f"{place}: left out, because it names no data set, protocol or split.")
            continue
        if evaluation.column in result:
            before = result[evaluation.column].place
            remarks.append(f"{place}: left out, because {before} has the same data set, protocol, split and settings.")
            continue
        result[evaluation.column] = evaluation
        odd = [key for key in SCORES if evaluation.scores[key] is None and record.get(key) is not None]
        remarks += [f"{place}: {key} is not a score." for key in odd]
        warnings += [f"{evaluation.set_name}: {warning}" for warning in _warnings(record)]
    return result


def _labels(columns: Sequence[Column], names: Mapping[str, str]) -> list[str]:
    """Return the name of each column's set, and those of its terms in which columns of the set differ."""
    same_name = Counter(names[checksum] for checksum in {column.checksum for column in columns})
    labels = []
    for column in columns:
        of_set = [other for other in columns if other.checksum == column.checksum]
        name = names[column.checksum]
        parts = [f"{name} {column.checksum[:8]}" if same_name[name] > 1 else name]
        if len({other.protocol for other in of_set}) > 1:
            parts.append(column.protocol)
        if len({other.split for other in of_set}) > 1:
            parts.append(f"split {column.split}")
        settings = [dict(other.settings) for other in of_set]
        for key in dict.fromkeys(key for other in settings for key in other):
            if len({other.get(key) for other in settings}) > 1:
                parts.append(f"{key} {setting_text(dict(column.settings).get(key, 'unknown'))}")
        labels.append(", ".join(parts))
    return labels


def _read(place: str, record: Mapping[str, Any], own_checksum: str | None) -> Evaluation | None:
    """Return the evaluation in a file; None if its terms are unknown.

    Args:
        own_checksum: Checksum for a file of an earlier version, which names no data set.
    """
    named = record.get("dataset")
    named = named if isinstance(named, dict) else {"checksum": own_checksum}
    checksum = _text(named.get("checksum"), MOST_CHECKSUM)
    protocol, split = _text(record.get("protocol")), _text(record.get("split"))
    if checksum is None or protocol is None or split is None:
        return None
    name = _text(named.get("name")) or f"set {checksum[:8]}"
    settings = record.get("eval")
    known = in_effect(settings) if isinstance(settings, dict) else record
    in_order = tuple((key, _setting(known[key])) for key in DECIDING if known.get(key) is not None)
    sds = record.get("sd")
    return Evaluation(
        place,
        Column(checksum, protocol, split, in_order),
        name,
        _count(record.get("num_valid_query")),
        {key: _fraction(record.get(key)) for key in SCORES},
        {key: _fraction(sds.get(key)) if isinstance(sds, dict) else None for key in SCORES},
    )


def _fraction(value: Any) -> float | None:
    """Return a score; None for anything else."""
    is_score = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if is_score else None


def _count(value: Any) -> float | None:
    is_count = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12
    return value if is_count else None


def _setting(value: Any) -> Any:
    """Return a setting of a file if it is a plain value."""
    if isinstance(value, str):
        return _text(value)
    is_small = isinstance(value, int | float) and abs(value) < 1 << 64
    return value if is_small else "unreadable"


def setting_text(value: Any) -> str:
    """Return a setting as it would be written in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _text(value: Any, most: int = MOST_CHARACTERS) -> str | None:
    """Return a text from a file, cut to `most` characters; None if it is no text, or empty."""
    if not isinstance(value, str) or not value:
        return None
    text = printable(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _warnings(record: Mapping[str, Any]) -> list[str]:
    texts = record.get("warnings")
    return scores.warnings(record) if isinstance(texts, list) else []
