"""An experiment of the paper, from the runs that it needs to its table.

OUT/runs/<settings>/seed-<n>/      ordinary run folders, shared by experiments
OUT/<experiment>.{json,md,svg}     our mean and standard deviation over the seeds, beside the paper's figures
"""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mstat.config import Config
from mstat.config.cli import flat, load_config, override
from mstat.errors import UserError
from mstat.files import read_json, write_json, write_text
from mstat.paper.experiments import Experiment, Row
from mstat.report import figures
from mstat.report.scores import DISTANCES, HEADINGS, number, warnings
from mstat.report.tables import Row as TableRow
from mstat.report.tables import Table
from mstat.runs.folder import read_state
from mstat.runs.scored_set import scored_checksum

NAMES = {**HEADINGS, **DISTANCES}


@dataclass(frozen=True)
class Job:
    """One run of an experiment: a row of the table, with one seed."""

    row: Row
    config: Config

    def is_done(self) -> bool:
        """Return whether the run exists, is finished and has scores.

        Raises:
            UserError: If the folder holds a run with other settings.
        """
        run = Path(self.config.run)
        if not (run / "config.yaml").is_file():
            return False
        made = load_config(run / "config.yaml")
        if differing := differences(made, self.config):
            raise UserError(f"{run}: made with other values of {', '.join(differing)}: give another --out")
        return read_state(run)["state"] == "done" and (run / "evaluation.json").is_file()


def jobs(experiment: Experiment, config: Config, out: Path, seeds: int) -> list[Job]:
    """Return the runs of an experiment, one for each row and seed; rows of equal settings share run folders."""
    result = []
    for row in experiment.rows:
        changed = override(config, row.settings_for(config.model))
        folder = out / "runs" / (_slug(config, changed) or "mstat")
        for seed in range(config.seed, config.seed + seeds):
            result.append(Job(row, dataclasses.replace(changed, seed=seed, run=str(folder / f"seed-{seed}"))))
    return result


def differences(one: Config, other: Config) -> dict[str, Any]:
    """Return the settings in which two configurations differ, except `run`: dotted key -> value in `other`."""
    ours, theirs = (flat(dataclasses.asdict(config)) for config in (one, other))
    return {key: theirs[key] for key, value in ours.items() if value != theirs[key] and key != "run"}


def _slug(config: Config, changed: Config) -> str:
    """Return a folder name for the changed settings."""
    text = ",".join(f"{key}={value}" for key, value in differences(config, changed).items())
    return re.sub(r"[^\w.,=+-]", "", text)


def results(name: str, experiment: Experiment, of_jobs: Sequence[Job]) -> dict[str, Any]:
    """Return the results of finished runs, for `OUT/<experiment>.json`."""
    rows: list[dict[str, Any]] = []
    sets: set[str | None] = set()
    columns = experiment.columns
    for row in experiment.rows:
        mine = [job for job in of_jobs if job.row is row]
        evaluations = [read_json(Path(job.config.run) / "evaluation.json") for job in mine]
        sets |= {scored_checksum(Path(job.config.run), of_job) for job, of_job in zip(mine, evaluations, strict=True)}
        rows.append(
            {
                "name": row.name,
                "settings": dict(row.settings_for(mine[0].config.model)),
                "runs": [job.config.run for job in mine],
                "ours": {column: _spread([_value(e, row, column) for e in evaluations]) for column in columns},
                "paper": {column: row.paper[column] for column in columns if column in row.paper},
            }
        )
    if len(sets) > 1:
        raise UserError(f"the runs were scored on several data sets ({', '.join(map(str, sets))}): score them again")
    first = of_jobs[0].config
    return {
        "experiment": name,
        "title": experiment.title,
        "remark": experiment.remark,
        "paper_dataset": experiment.dataset,
        "shards": first.data.shards,
        "dataset": evaluations[0].get("dataset"),
        "protocol": evaluations[0]["protocol"],
        "split": evaluations[0]["split"],
        "warnings": evaluations[0]["warnings"],
        "steps": first.train.steps or f"{first.train.epochs} epochs",
        "seeds": sorted({job.config.seed for job in of_jobs}),
        "columns": list(columns),
        "rows": rows,
    }


def _value(evaluation: Mapping[str, Any], row: Row, column: str) -> float | None:
    """Return a figure of an evaluation; scores in percent, as in the paper."""
    if "/" in column:
        kind, key = column.split("/")
        distance: float | None = evaluation["distances"][kind][key]
        return distance
    score = (evaluation["stages"][row.stages] if row.stages else evaluation)[column]
    return None if score is None else 100 * score


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }


def write_results(out: Path, experiment: Experiment, result: Mapping[str, Any]) -> list[Path]:
    """Write the table as JSON and Markdown, and a plot if the experiment has one; return the paths."""
    stem = result["experiment"]
    paths = [out / f"{stem}.json", out / f"{stem}.md"]
    write_json(paths[0], result)
    write_text(paths[1], "\n".join(table.markdown() for table in tables(result)))
    if experiment.plotted:
        paths.append(out / f"{stem}.svg")
        paths[2].write_bytes(figures.sweep_figure(result, experiment.plotted))
    return paths


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Yield a table for each kind of distance, with two rows for each of the experiment: ours and the paper's."""
    for kind, columns in _groups(result["columns"]):
        rows = []
        for row in result["rows"]:
            ours, paper = row["ours"], row["paper"]
            cells = [number(ours[column]["mean"], ours[column]["sd"], _digits(column)) for column in columns]
            rows.append(TableRow(row["name"], cells, "strong"))
            if any(column in paper for column in columns):
                cells = [number(paper.get(column), digits=_digits(column)) for column in columns]
                rows.append(TableRow(f"  paper, {result['paper_dataset']}", cells, "faint"))
        title = result["title"] + (f" ({kind} distance)" if kind else "")
        headings = ["", *(NAMES[column.rpartition("/")[2]] for column in columns)]
        yield Table(headings, rows, title, _caption(result), warnings(result))


def _groups(columns: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return (kind of distance, its columns and all scores); without distances, one group of an empty kind."""
    scores = [column for column in columns if "/" not in column]
    kinds = list(dict.fromkeys(column.split("/")[0] for column in columns if "/" in column))
    return [(kind, [c for c in columns if c.startswith(f"{kind}/")] + scores) for kind in kinds] or [("", scores)]


def _caption(result: Mapping[str, Any]) -> str:
    seeds = len(result["seeds"])
    over = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    steps = result["steps"]
    length = f"{steps} steps" if isinstance(steps, int) else steps
    ours = f"Ours: {result['shards']}, protocol {result['protocol']}, split {result['split']}, {length}, {over}."
    return " ".join(filter(None, [ours, result["remark"]]))


def _digits(column: str) -> int:
    return 4 if "/" in column else 1
