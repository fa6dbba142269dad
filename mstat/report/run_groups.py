"""Several runs as a comparison sees them: their names, which of them differ in the seed alone, and their means."""

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
        """Empty where there is none."""
        return {} if isinstance(self.folder.evaluation, str) else self.folder.evaluation

    @cached_property
    def settings(self) -> dict[str, Any]:
        """By dotted key, without the name of the folder."""
        return {key: value for key, value in flat(self.folder.config).items() if key != "run"}

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        return {} if isinstance(self.folder.environment, str) else self.folder.environment

    @cached_property
    def terms(self) -> dict[str, Any]:
        """Return the terms of its scores in words; the set is the scored one. Unknown terms are left out."""
        return terms(self.evaluation, self.folder.checksum)


@dataclass
class Group:
    """Runs that differ in the seed alone; most often a single one."""

    name: str = ""
    runs: list[Compared] = field(default_factory=list)

    @cached_property
    def evaluation(self) -> Mapping[str, Any]:
        """The mean over the runs that are scored; of a single one its own, which may be a mean over splits."""
        scored = [run.evaluation for run in self.runs if run.evaluation]
        return mean_of(scored) if len(scored) > 1 else scored[0] if scored else {}


def compared(paths: Sequence[Path]) -> list[Compared]:
    """Runs by as much of their paths as tells them apart.

    Raises:
        ValueError: If one is named twice.
    """
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        twice = next(path for place, path in enumerate(paths) if parts[place] in parts[:place])
        raise UserError(f"{twice}: named twice; a run is not compared with itself")
    depth = next(n for n in count(1) if len({part[-n:] for part in parts}) == len(parts))
    return [Compared("/".join(part[-depth:]), Folder(path)) for part, path in zip(parts, paths, strict=True)]


def grouped(runs: Sequence[Compared]) -> list[Group]:
    """Runs of equal settings but the seed, scored under the same terms, together; in the order of their first."""
    groups: dict[str, Group] = {}
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if key != "seed"}
        alone = not settings or "seed" not in run.settings  # nothing says what they have in common
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
            group.name = f"{first}, {group.runs[1].name}" if others == 1 else f"{first} and {others} like it"
    return result


def why_not_comparable(runs: Sequence[Compared]) -> list[str]:
    """Each term in which the runs differ, with who has what."""
    message = []
    for term in [*TERMS.values(), "shards"]:
        values: dict[str, list[str]] = {}
        for run in runs:
            if term in run.terms:
                values.setdefault(str(run.terms[term]), []).append(run.name)
        if len(values) > 1:
            each = "; ".join(f"{value} ({', '.join(names)})" for value, names in values.items())
            message.append(f"other {term}: {each}")
    return message


def differing(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """Settings in which the runs differ: dotted key -> the value of each, `...` where config.yaml has none."""
    keys = {key: None for run in runs for key in run.settings}
    result = {key: [run.settings.get(key, ...) for run in runs] for key in keys}
    return {key: values for key, values in result.items() if any(value != values[0] for value in values)}
