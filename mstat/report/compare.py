"""Comparison of several runs on one page: scores, settings that differ, and curves in shared figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mstat.errors import UserError
from mstat.files import write_plain
from mstat.report import cross, figures, page, paired, results, scores
from mstat.report.page import Section
from mstat.report.run_groups import Compared, Group, compared, differing, grouped, why_not_comparable
from mstat.report.tables import Row, Table
from mstat.report.training import median_speed, trend


@dataclass
class Comparison:
    """The runs of a comparison, their groups, and the folder for pictures."""

    runs: list[Compared]
    groups: list[Group]
    figures: Path  # folder

    def figure(self, file: str, svg: bytes, name: str, summary: str) -> str:
        write_plain(self.figures / file, svg)
        return page.figure(svg, f"{name}: {summary}", name)


def write_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Write the page `out`, and its pictures into a folder beside it; return `out`.

    Args:
        paths: At least two run folders, also those of `--data.split all`. No file in them is required.
        out: File to write, such as comparison.html; pictures are then in comparison-figures/.

    Raises:
        UserError: If a run is given twice, or `out` is a folder.
    """
    if out.is_dir():
        raise UserError(f"{out}: is a folder; --out must be a file, such as {out / 'comparison.html'}")
    runs = compared(paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(runs, grouped(runs), figures_folder(out))
    sections = [section.html(comparison) for section in SECTIONS]
    header = f"<h1>{len(runs)} runs compared</h1>\n" + page.shown("evaluation.json", _remarks, comparison)
    write_plain(out, page.document("Runs compared – MSTAT", header, sections).encode(errors="backslashreplace"))
    return out


def figures_folder(out: Path) -> Path:
    """Return the folder for the pictures and other files of a page, which is beside it."""
    return out.with_name(f"{out.stem}-figures")


def _remarks(comparison: Comparison) -> str:
    """Return notes on why the runs may not be comparable."""
    parts = [page.note(f"Not comparable: {reason}.") for reason in why_not_comparable(comparison.runs)]
    for run in comparison.runs:
        if isinstance(run.folder.evaluation, str):
            parts.append(page.note(f"{run.name}: {run.folder.evaluation}"))
        state = run.folder.json("state.json")
        if not isinstance(state, str) and state.get("state") != "done":
            parts.append(page.note(f"{run.name}: {state.get('state')} at step {state.get('step')}, not done."))
    scored = [run for run in comparison.runs if "warnings" in run.evaluation]
    published = dict.fromkeys(warning for run in scored for warning in scores.warnings(run.evaluation))
    parts += map(page.note, published)
    return "\n".join(parts)


def _scores(comparison: Comparison) -> str:
    rows = []
    for group in comparison.groups:
        if group.evaluation:
            rows.append(Row(group.name, scores.cells(group.evaluation), "strong"))
        if len(group.runs) > 1:
            rows += [Row(run.name, scores.cells(run.evaluation), "faint") for run in group.runs]
    if not rows:
        return page.note("No run has an evaluation.json; launch/evaluate.py --run RUN makes it.")
    rows += _baselines(comparison)
    caption = "In percent, with the features of all stages."
    if any(len(group.runs) > 1 for group in comparison.groups):
        caption += " Runs that differ only in the seed are listed below their mean ± standard deviation (n - 1)."
    if any("splits" in run.evaluation for run in comparison.runs):
        caption += " A run of all splits has the mean ± standard deviation over its splits."
    return Table(["run", *scores.HEADINGS.values()], rows, caption=caption).html()


def _baselines(comparison: Comparison) -> list[Row]:
    """Return the rows of the untrained baselines: one row if equal for all runs, otherwise one for each group."""
    of_runs = [row for run in comparison.runs for row in scores.baseline_rows(run.evaluation)]
    rows = []
    for name in dict.fromkeys(row.name for row in of_runs):
        first, *others = [row for row in of_runs if row.name == name]
        if all(row == first for row in others):
            rows.append(first)
            continue
        for group in comparison.groups:
            of_group = [row for row in scores.baseline_rows(group.evaluation) if row.name == name]
            rows += [row._replace(name=f"{name}, {group.name}") for row in of_group]
    return rows


def _paired(comparison: Comparison) -> str:
    return paired.table(comparison.groups).html()


def _settings(comparison: Comparison) -> str:
    if unknown := [run.name for run in comparison.runs if not run.settings]:
        return page.note(f"config.yaml cannot be read for {', '.join(unknown)}.")
    result = differing([run for group in comparison.groups for run in group.runs])
    if not result:
        return page.note("The runs have the same settings.")
    rows = []
    for key, values in result.items():
        left = iter(values)
        cells = [dict.fromkeys(_setting_text(next(left)) for _ in group.runs) for group in comparison.groups]
        rows.append(Row(key, [", ".join(cell) for cell in cells]))
    headings = ["setting", *(group.name for group in comparison.groups)]
    return Table(headings, rows, caption="All others are the same.", align="l" * len(headings)).html()


def _setting_text(value: Any) -> str:
    """Return a setting as it would be written in YAML."""
    return scores.ABSENT if value is ... else value if isinstance(value, str) else json.dumps(value)


def _cmc(comparison: Comparison) -> str:
    # Keep groups without a curve, so that a group has the same colour in every figure.
    curves = {group.name: group.evaluation.get("cmc") or [] for group in comparison.groups}
    if not any(curves.values()):
        return ""
    svg = figures.cmc_figure(curves, equals=True)
    return comparison.figure("cmc.svg", svg, results.CMC, results.at_rank_1(curves))


# File of the figure, journal, key, label of the axis, factor, caption.
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
            summary = "; ".join(f"{group} {trend(known[0], key)}" for group, known in curves.items() if known)
            drawn.append(comparison.figure(file, figures.compared_figure(curves, key, quantity, scale), name, summary))
    return '<div class="figures">\n' + "\n".join(drawn) + "\n</div>" if drawn else ""


def _stages(comparison: Comparison) -> str:
    """Return the scores of every subset of stages of each group (Table II)."""
    tables = []
    for column in ("mAP", "rank1"):
        rows = [
            Row(
                group.name,
                [scores.score(group.evaluation["stages"].get(name, {}), column) for name in scores.STAGES],
            )
            for group in comparison.groups
            if any(of.get(column) is not None for of in group.evaluation.get("stages", {}).values())
        ]
        if rows:
            caption = f"{scores.HEADINGS[column]} in percent for every subset of stages."
            tables.append(Table([scores.HEADINGS[column], *scores.STAGES], rows, caption=caption).html())
    return "\n".join(tables)


def _distances(comparison: Comparison) -> str:
    """Return the distances of each group (Table VI)."""
    rows = [
        Row(f"{group.name}, {kind}", results.distance_cells(group.evaluation["distances"][kind]))
        for kind in ("cosine", "euclidean")
        for group in comparison.groups
        if kind in group.evaluation.get("distances", {})
    ]
    if not rows:
        return ""
    return Table(["run, distance", *scores.DISTANCES.values()], rows, caption=results.DISTANCES_CAPTION).html()


def _environment(comparison: Comparison) -> str:
    rows = []
    packages = [run.environment.get("versions") or {} for run in comparison.runs]
    changed = [name for name in packages[0] if len({str(of.get(name)) for of in packages}) > 1]
    for run, versions in zip(comparison.runs, packages, strict=True):
        state = run.folder.json("state.json")
        records, _ = run.folder.records("metrics.jsonl", ("step", "clips_per_s"))
        values = {
            "state": None if isinstance(state, str) else state.get("state"),
            "step": None if isinstance(state, str) else state.get("step"),
            "clips/s": median_speed(records),
            "hardware": run.environment.get("hardware"),
            "processes": run.environment.get("world_size"),
            "commit": str(run.environment.get("commit") or scores.ABSENT)[:12],
            "started": str(run.environment.get("started") or scores.ABSENT)[:16].replace("T", " "),
            "versions": ", ".join(f"{name} {versions.get(name)}" for name in changed) or "the same",
            "folder": run.folder.run,
        }
        rows.append(Row(run.name, [scores.ABSENT if value is None else str(value) for value in values.values()]))
    headings = ["run", *values]
    caption = "Versions are listed if they differ between the runs."
    return Table(headings, rows, caption=caption, align="l" * len(headings)).html()


SECTIONS = (
    Section("scores", "Scores", _scores),
    Section("paired", "Paired differences", _paired, paired.FILE),
    Section("cross", "Across data sets", cross.across, "evaluations"),
    Section("settings", "Settings that differ", _settings, half=True),
    Section("cmc", "Cumulative matching", _cmc, half=True),
    Section("training", "Training", _training),
    Section("stages", "Stages", _stages),
    Section("distances", "Distances", _distances),
    Section("environment", "Environments", _environment),
)
