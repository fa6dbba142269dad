"""Several runs on one page: scores side by side, what differs between them, and their curves in one figure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mstat.errors import UserError
from mstat.files import write_plain
from mstat.report import figures, page, results, scores
from mstat.report.run_groups import Compared, Group, compared, differing, grouped, why_not_comparable
from mstat.report.training import trend


@dataclass
class Comparison:
    """The runs of a comparison, their groups, and the folder for pictures."""

    runs: list[Compared]
    groups: list[Group]
    figures: Path  # folder

    def figure(self, file: str, svg: bytes, name: str, message: str) -> str:
        write_plain(self.figures / file, svg)
        return page.figure(svg, page.SVG, f"{name}: {message}", name)


class Section(NamedTuple):
    """A section of the page, and the function that makes it."""

    name: str
    heading: str
    make: Callable[[Comparison], str]  # gives HTML, empty where there is nothing to compare
    half: bool = False  # of the page's width, where there is room


def write_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Writes the page `out`, and its pictures into a folder beside it, and returns it.

    Args:
        paths: Run folders, at least two; also those of `--data.split all`. No file in them is required.
        out: As comparison.html; the pictures are then in comparison-figures/.

    Raises:
        ValueError: A run is named twice, or `out` is a folder.
    """
    if out.is_dir():
        raise UserError(f"{out}: is a folder; --out is the page, as {out / 'comparison.html'}")
    runs = compared(paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(runs, grouped(runs), out.with_name(f"{out.stem}-figures"))
    made = [(section, page.shown("evaluation.json", section.make, comparison)) for section in SECTIONS]
    sections = [page.section(section.name, section.heading, html, section.half) for section, html in made if html]
    heading = f"<h1>{len(runs)} runs compared</h1>\n"
    header = heading + page.shown("evaluation.json", _remarks, comparison)
    write_plain(out, page.document("Runs compared – MSTAT", header, sections).encode(errors="backslashreplace"))
    return out


def _remarks(comparison: Comparison) -> str:
    """Return the reasons against comparing the runs."""
    parts = [page.note(f"Not comparable: {message}.") for message in why_not_comparable(comparison.runs)]
    for run in comparison.runs:
        if isinstance(run.folder.evaluation, str):
            parts.append(page.note(f"{run.name}: {run.folder.evaluation}"))
        state = run.folder.json("state.json")
        if not isinstance(state, str) and state.get("state") != "done":
            parts.append(page.note(f"{run.name}: {state.get('state')} at step {state.get('step')}, not done."))
    published = {warning: None for run in comparison.runs for warning in run.evaluation.get("warnings", [])}
    parts += [page.note(f"Not comparable with published scores: {warning}.") for warning in published]
    return "\n".join(parts)


def _scores(comparison: Comparison) -> str:
    rows = []
    for group in comparison.groups:
        if group.evaluation:
            rows.append(("whole", page.escape(group.name), scores.cells(group.evaluation)))
        if len(group.runs) > 1:
            rows += [("baseline", page.escape(run.name), scores.cells(run.evaluation)) for run in group.runs]
    if not rows:
        return page.note("No run has an evaluation.json; launch/evaluate.py --run makes it.")
    rows += _baselines(comparison)
    message = "In percent, of all stages."
    if any(len(group.runs) > 1 for group in comparison.groups):
        message += " Runs that differ in the seed alone are under their mean ± standard deviation (n - 1)."
    if any("splits" in run.evaluation for run in comparison.runs):
        message += " A run of all splits has the mean ± standard deviation over them."
    return page.table(["run", *scores.HEADINGS], rows, message)


def _baselines(comparison: Comparison) -> list[tuple[str, str, list[str]]]:
    """Return the baselines, which need no training: once if equal for all runs, otherwise for each group."""
    result: dict[str, list[list[str]]] = {}
    for run in comparison.runs:
        for name, cells in scores.baseline_rows(run.evaluation):
            result.setdefault(name, []).append(cells)
    rows = []
    for name, of_runs in result.items():
        if all(cells == of_runs[0] for cells in of_runs):
            rows.append(("baseline", page.escape(name), of_runs[0]))
            continue
        for group in comparison.groups:
            if cells := dict(scores.baseline_rows(group.evaluation)).get(name, []):
                rows.append(("baseline", page.escape(f"{name}, {group.name}"), cells))
    return rows


def _settings(comparison: Comparison) -> str:
    if unknown := [run.name for run in comparison.runs if not run.settings]:
        return page.note(f"No settings can be read from config.yaml of {', '.join(unknown)}.")
    result = differing([run for group in comparison.groups for run in group.runs])
    if not result:
        return page.note("The runs have the same settings.")
    rows = []
    for key, values in result.items():
        left = iter(values)
        cells = [dict.fromkeys(_told(next(left)) for _ in group.runs) for group in comparison.groups]
        rows.append(("", page.escape(key), [page.escape(", ".join(cell)) for cell in cells]))
    return page.table(
        ["setting", *(group.name for group in comparison.groups)], rows, "All others are the same.", words=True
    )


def _told(value: Any) -> str:
    """A setting as a YAML has it."""
    return scores.ABSENT if value is ... else value if isinstance(value, str) else json.dumps(value)


def _cmc(comparison: Comparison) -> str:
    # A group without a curve keeps its place, so that a colour is the same group's in every figure.
    curves = {group.name: group.evaluation.get("cmc") or [] for group in comparison.groups}
    if not any(curves.values()):
        return ""
    message = "; ".join(f"{name} {scores.percent(curve[0])} % at rank 1" for name, curve in curves.items() if curve)
    svg = figures.cmc_figure(curves, equals=True)
    return comparison.figure("cmc.svg", svg, "Queries with a right match among the first k", message)


# File of the figure, journal, key in it, what is on the axis, its unit, caption.
CURVES = (
    ("loss.svg", "metrics.jsonl", "loss", "loss", 1, "Total loss, running mean"),
    ("learning-rate.svg", "metrics.jsonl", "lr", "learning rate", 1, "Learning rate"),
    ("scores.svg", "evaluations.jsonl", "rank1", "rank-1 (%)", 100, "Rank-1 during training"),
)


def _training(comparison: Comparison) -> str:
    drawn = []
    for file, journal, key, quantity, scale, name in CURVES:
        curves = {}
        for group in comparison.groups:
            records = [run.folder.records(journal, ("step", key))[0] for run in group.runs]
            curves[group.name] = [of_run for of_run in records if any(record[key] is not None for record in of_run)]
        if any(curves.values()):
            message = "; ".join(f"{group} {trend(known[0], key)}" for group, known in curves.items() if known)
            drawn.append(comparison.figure(file, figures.compared_figure(curves, key, quantity, scale), name, message))
    return '<div class="figures">\n' + "\n".join(drawn) + "\n</div>" if drawn else ""


def _stages(comparison: Comparison) -> str:
    """Table II of each group."""
    tables = []
    for column, heading in list(zip(scores.COLUMNS, scores.HEADINGS, strict=True))[:2]:
        rows = [
            (
                "",
                page.escape(group.name),
                [scores.score(group.evaluation["stages"].get(name, {}), column) for name in scores.STAGES],
            )
            for group in comparison.groups
            if any(of.get(column) is not None for of in group.evaluation.get("stages", {}).values())
        ]
        if rows:
            message = f"{heading} in percent of every subset of stages."
            tables.append(page.table([heading, *scores.STAGES], rows, message))
    return "\n".join(tables)


def _distances(comparison: Comparison) -> str:
    """Table VI of each group."""
    rows = [
        ("", page.escape(f"{group.name}, {kind}"), results.distance_cells(group.evaluation["distances"][kind]))
        for kind in ("cosine", "euclidean")
        for group in comparison.groups
        if kind in group.evaluation.get("distances", {})
    ]
    if not rows:
        return ""
    return page.table(["run, distance", *results.DISTANCES.values()], rows, results.DISTANCES_CAPTION)


def _environment(comparison: Comparison) -> str:
    columns = {"state": "state", "step": "step", "speed": "clips/s", "hardware": "hardware", "world_size": "processes"}
    columns |= {"commit": "commit", "started": "started", "versions": "versions", "path": "folder"}
    rows = []
    packages = [run.environment.get("versions") or {} for run in comparison.runs]
    changed = [name for name in packages[0] if len({str(of.get(name)) for of in packages}) > 1]
    for run, versions in zip(comparison.runs, packages, strict=True):
        state = run.folder.json("state.json")
        records, _ = run.folder.records("metrics.jsonl", ("step", "clips_per_s"))
        speeds = [record["clips_per_s"] for record in records if record["clips_per_s"] is not None]
        result = {
            **run.environment,
            **({} if isinstance(state, str) else state),
            "started": str(run.environment.get("started") or scores.ABSENT)[:16].replace("T", " "),
            "speed": f"{statistics.median(speeds):.0f}" if speeds else None,
            "commit": str(run.environment.get("commit") or scores.ABSENT)[:12],
            "versions": ", ".join(f"{name} {versions.get(name)}" for name in changed) or "the same",
            "path": run.folder.run,
        }
        cells = [page.escape(scores.ABSENT if result.get(key) is None else result[key]) for key in columns]
        rows.append(("", page.escape(run.name), cells))
    return page.table(["run", *columns.values()], rows, "Versions: those that differ between the runs.", words=True)


SECTIONS = (
    Section("scores", "Scores", _scores),
    Section("settings", "Settings that differ", _settings, half=True),
    Section("cmc", "Cumulative matching", _cmc, half=True),
    Section("training", "Training", _training),
    Section("stages", "Stages", _stages),
    Section("distances", "Distances", _distances),
    Section("environment", "Where they come from", _environment),
)
