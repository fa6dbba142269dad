"""Runs of a comparison: their names, groups of runs that differ only in the seed, and the mean of each group."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from mstat.config.cli import flat
from mstat.errors import UserError
from mstat.report.averages import mean_of
from mstat.report.run_reader import Folder
from mstat.runs.scored_set import TERMS, terms


@dataclass
class Compared:
    """A run of a comparison."""

    name: str
    folder: Folder

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        """Content of evaluation.json, empty if there is none."""
        return {} if isinstance(self.folder.evaluation, str) else self.folder.evaluation

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings by dotted key, without `run`."""
        return {key: value for key, value in flat(self.folder.config).items() if key != "run"}

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        return {} if isinstance(self.folder.environment, str) else self.folder.environment

    @cached_property
    def terms(self) -> dict[str, Any]:
        """Terms of the scores (data set, protocol, settings) as text; unknown terms are left out."""
        return terms(self.evaluation, self.folder.checksum)


@dataclass
class Group:
    """Runs that differ only in the seed; often a single run."""

    name: str = ""
    runs: list[Compared] = field(default_factory=list)

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        """Mean over the scored runs; the evaluation itself for a single run."""
        scored = [run.evaluation for run in self.runs if run.evaluation]
        return mean_of(scored) if len(scored) > 1 else scored[0] if scored else {}


def compared(paths: Sequence[Path]) -> list[Compared]:
    """Return the runs in these folders, named by the shortest ends of their paths that are unique.

    Raises:
        UserError: If a folder is given twice.
    """
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        twice = next(path for place, path in enumerate(paths) if parts[place] in parts[:place])
        raise UserError(f"{twice}: given twice; a run cannot be compared with itself")
    depth = next(n for n in count(1) if len({part[-n:] for part in parts}) == len(parts))
    return [Compared("/".join(part[-depth:]), Folder(path)) for part, path in zip(parts, paths, strict=True)]


def grouped(runs: Sequence[Compared]) -> list[Group]:
    """Group runs with equal settings except the seed and equal terms of their scores; keep the order."""
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if key != "seed"}
        alone = not settings or "seed" not in run.settings  # settings or seed are unknown
        key = run.name if alone else repr((sorted(settings.items()), run.terms))
        groups.setdefault(key, Group()).runs.append(run)
    result = list(groups.values())
    shared = [os.path.commonpath([run.name for run in group.runs]) for group in result]
    for group, name in zip(result, shared, strict=True):
        first, others = group.runs[0].name, len(group.runs) - 1
        if not others:
            group.name = first
        elif name and shared.count(name) == 1:
            group.name = f"{name} ({others + 1} seeds)"
        else:
            group.name = f"{first}, {group.runs[1].name}" if others == 1 else f"{first} and {others} more"
    return result


def why_not_comparable(runs: Sequence[Compared]) -> list[str]:
    """Return a line for each term in which the runs differ, with the runs of each value."""
    lines = []
    for term in [*TERMS.values(), "shards"]:
        values: dict[str, list[str]] = {}
        for run in runs:
            if term in run.terms:
                values.setdefault(str(run.terms[term]), []).append(run.name)
        if len(values) > 1:
            each = "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
            lines.append(f"different {term}: {each}")
    return lines


def differing(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """Return the settings in which the runs differ: dotted key -> value of each run, `...` if it has none."""
    keys = {key: None for run in runs for key in run.settings}
    result = {key: [run.settings.get(key, ...) for run in runs] for key in keys}
    return {key: values for key, values in result.items() if any(value != values[0] for value in values)}
