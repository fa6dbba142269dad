"""Scores across data sets: a matrix of runs (rows) and data sets (columns), on a page, as a picture and as files.

A column holds comparable scores alone: of one data set (by checksum), protocol, split and settings of the evaluation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstat.files import write_plain
from mstat.report import figures, page
from mstat.report.cross_matrix import SCORES, Cell, Line, Matrix, matrix_of, setting_text
from mstat.report.scores import ABSENT, HEADINGS, number, percent
from mstat.report.tables import Row, Table
from shards.text import counted, printable

if TYPE_CHECKING:
    from mstat.report.compare import Comparison

PICTURE, JSON, MARKDOWN = FILES = ("cross.svg", "cross.json", "cross.md")
MOST_COLUMNS, MOST_ROWS = 16, 40  # of the picture
MOST_TABLE_COLUMNS = 50
OWN = "Own: the data set that the run was trained on."


def across(comparison: Comparison) -> str:
    """Return the section, and write its files; only remarks if every run was scored on one set alone, its own."""
    if not comparison.figures.is_symlink():
        for name in FILES:  # those of an earlier page would contradict this one
            (comparison.figures / name).unlink(missing_ok=True)
    matrix = matrix_of(comparison.groups)
    remarks = [*map(page.warning, matrix.warnings), *map(page.note, matrix.remarks)]
    if not matrix.is_across:
        return "\n".join(remarks) if any(run.folder.others for run in comparison.runs) else ""
    files = {JSON: json.dumps(content(matrix), indent=2, allow_nan=False) + "\n", MARKDOWN: markdown(matrix)}
    for name, text in files.items():
        write_plain(comparison.figures / name, text.encode(errors="backslashreplace"))
    links = " and ".join(f'<a href="{page.escape(comparison.figures.name)}/{name}">{name}</a>' for name in files)
    return "\n".join(
        [
            *remarks,
            _figure(comparison, matrix),
            *_tables_html(matrix),
            f'<p class="soft">As files: {links}</p>',
        ]
    )


def written(folder: Path) -> list[Path]:
    """Return the files of the section in a folder of figures."""
    return [folder / name for name in FILES if (folder / name).is_file()]


def content(matrix: Matrix) -> dict[str, Any]:
    """Return the content of cross.json; scores are fractions, and a run without a score has null."""
    columns = [
        {
            "label": label,
            "name": name,
            **column._asdict(),
            "settings": dict(column.settings),
            "num_valid_query": queries,
        }
        for label, name, column, queries in zip(
            matrix.labels, matrix.set_names, matrix.columns, matrix.num_queries, strict=True
        )
    ]
    rows = [
        {"name": line.name, "runs": line.runs, "trained_on": line.trained_on, "cells": [_plain(c) for c in line.cells]}
        for line in matrix.lines
    ]
    return {"columns": columns, "rows": rows, "warnings": matrix.warnings, "remarks": matrix.remarks}


def _plain(cell: Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    scores = {
        key: {"mean": cell.mean(key), "sd": cell.sd(key), "values": [one.scores[key] for one in cell.evaluations]}
        for key in SCORES
    }
    return {"own": cell.is_own, **scores, "evaluations": [one.place for one in cell.evaluations]}


def markdown(matrix: Matrix) -> str:
    """Return the content of cross.md: a table for each score, the columns, and what must be known of them."""
    notes = "".join(f"- {printable(text)}\n" for text in [*matrix.warnings, *matrix.remarks])
    return "\n".join([*(table.markdown() for table in [*tables(matrix), columns_table(matrix)]), notes]).rstrip() + "\n"


def tables(matrix: Matrix) -> list[Table]:
    """Return a table for each score that any run has."""
    caption = f"In percent, with the features of all stages. {OWN} Scores of checkpoints are left out."
    if any(len(line.runs) > 1 for line in matrix.lines):
        caption += " Runs that differ only in the seed have one row: mean ± standard deviation (n - 1)."
    return [
        Table(
            [HEADINGS[key], *matrix.labels],
            [Row(line.name, [_text(line, cell, key) for cell in line.cells]) for line in matrix.lines],
            f"{HEADINGS[key]} across data sets",
            caption,
        )
        for key in matrix.scores
    ]


def columns_table(matrix: Matrix) -> Table:
    """Return a table of what each column was scored on."""
    rows = []
    for label, column, queries in zip(matrix.labels, matrix.columns, matrix.num_queries, strict=True):
        settings = ", ".join(f"{key} {setting_text(value)}" for key, value in column.settings) or ABSENT
        rows.append(
            Row(label, [column.checksum[:12], column.protocol, column.split, settings, number(queries, digits=0)])
        )
    headings = ["column", "checksum", "protocol", "split", "settings (eval)", "valid queries"]
    caption = "A column has scores of one data set, protocol, split and settings of the evaluation."
    return Table(headings, rows, "Columns", caption, align="lllllr")


def _text(line: Line, cell: Cell | None, key: str) -> str:
    """Return a cell as text, such as `own 45.7 ± 1.2`; a mean of some of the runs says of how many."""
    if cell is None or cell.mean(key) is None:
        return ABSENT
    missing = f" ({len(cell.evaluations)} of {len(line.runs)})" if len(cell.evaluations) < len(line.runs) else ""
    return f"{'own ' if cell.is_own else ''}{percent(cell.mean(key), cell.sd(key))}{missing}"


def _tables_html(matrix: Matrix) -> list[str]:
    if len(matrix.columns) > MOST_TABLE_COLUMNS:
        return [page.note(f"{len(matrix.columns)} columns are too many for a table; {JSON} has them.")]
    columns = page.details("What the columns were scored on", columns_table(matrix).html())
    return [*(table.html() for table in tables(matrix)), columns]


def _figure(comparison: Comparison, matrix: Matrix) -> str:
    num_rows, num_columns = len(matrix.lines), len(matrix.columns)
    if num_columns > MOST_COLUMNS or num_rows > MOST_ROWS:
        size = f"{counted(num_rows, 'row')} and {counted(num_columns, 'column')}"
        return page.note(f"{size} are too many for a picture.")
    if not matrix.scores:
        return ""
    panels = {
        HEADINGS[key]: [[_field(cell, key) for cell in line.cells] for line in matrix.lines] for key in matrix.scores
    }
    svg, is_wide = figures.cross_figure(panels, [line.name for line in matrix.lines], matrix.labels)
    headings = " and ".join(panels)
    name = f"{headings} in percent of each run on each data set. Outlined: the data set that the run was trained on."
    figure = comparison.figure(PICTURE, svg, name, _summary(matrix))
    return f'<div class="scroll wide" tabindex="0">{figure}</div>' if is_wide else f'<div class="scroll">{figure}</div>'


def _field(cell: Cell | None, key: str) -> figures.Field:
    if cell is None:
        return figures.Field()
    return figures.Field(cell.mean(key), cell.sd(key), bool(cell.is_own))


def _summary(matrix: Matrix) -> str:
    """Return the last score of each run as text, for screen readers."""
    key = matrix.scores[-1]
    texts = [
        f"{line.name} "
        + ", ".join(
            f"{label} {_text(line, cell, key)}"
            for label, cell in zip(matrix.labels, line.cells, strict=True)
            if cell is not None
        )
        for line in matrix.lines
    ]
    return f"{HEADINGS[key]}: {'; '.join(texts)}"
