"""The table of a run's start: every key of `model.init` and every tensor of the model, in few lines.

Names that differ in a block's number, in weight or bias, or in a stage are one line: `blocks.{0-7}.attn.qkv.*`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from mstat.console import console
from mstat.report.tables import Emphasis, Part, Table
from mstat.report.tables import Row as TableRow
from mstat.weights.pretrained import KEPT, NO_KEY, NOWHERE, Row

# Parts of a name (group 1) in which the rows of one line may differ, in the order in which lines are joined.
BLOCK, KIND, STAGE, SCALARS = r"\.(\d+)\.", r"\.(weight|bias)$", r"stage(\d)", r"\.(alpha|beta)$"
WHOLE_BLOCK = r"(?:blocks|layer)\.\d+\.(.*)"
WHOLE_MODULE = r"(?:\.(?:aap|iap|condense|expand)|^heads|^metrics)\.(.*)"
HOLE = "\0"


class Line(NamedTuple):
    """Rows that are told as one, and how many different keys of the file are in it."""

    key: str
    ours: str
    action: str
    num_keys: int


def lines(rows: Sequence[Row]) -> list[Line]:
    """Rows joined to few lines: what was decided, what is used, what is dropped, what of ours keeps its own start."""
    notes = [row for row in rows if row.key == row.ours == NO_KEY]
    rows = [row for row in rows if row not in notes]
    dropped = [row for row in rows if row.ours == NOWHERE]
    kept = [row for row in rows if row.action == KEPT]
    used = [row for row in rows if row.ours != NOWHERE and row.action != KEPT]
    return [
        *(Line(note.key, note.ours, note.action, 0) for note in notes),
        *_joined(used, BLOCK, KIND, STAGE),
        *_joined(dropped, WHOLE_BLOCK, BLOCK, KIND),
        *_joined(kept, WHOLE_MODULE, BLOCK, KIND, STAGE, SCALARS),
    ]


def start_table(file: str, rows: Sequence[Row]) -> Table:
    """Return the table: destination of every key, changes, reasons for drops, and tensors that no key fills."""
    keys = {row.key for row in rows if row.key != NO_KEY}
    used = {row.key for row in rows if row.key != NO_KEY and row.ours != NOWHERE}
    ours = {row.ours for row in rows if row.ours not in (NOWHERE, NO_KEY)}
    kept = sum(row.action == KEPT for row in rows)
    cells: list[TableRow | Part] = []
    for kind, part in groupby(lines(rows), lambda line: (line.ours == NOWHERE, line.action == KEPT)):
        cells.append(Part())
        for line in part:
            is_note = line.key == line.ours == NO_KEY
            emphasis: Emphasis = "warning" if is_note else "faint" if any(kind) else ""
            cells.append(TableRow(str(line.num_keys or ""), line[:3], emphasis))
    return Table(
        ["keys", "in the file", "here", "how, or why not"],
        cells,
        title=f"Start from {file}",
        caption=f"{len(keys)} keys in the file: {len(used)} used, {len(keys) - len(used)} dropped. "
        f"{len(ours)} tensors here: {len(ours) - kept} filled, {kept} keep their own start.",
        align="rlll",
        framed=False,
    )


def print_start(file: str, rows: Sequence[Row]) -> None:
    """The table, as wide as a terminal, or as it needs to be in a log."""
    console().print(start_table(file, rows))


def start_record(file: str, rows: Sequence[Row]) -> dict[str, Any]:
    """All rows, for the run folder's init.json."""
    return {"file": file, "rows": [row._asdict() for row in rows]}


def _joined(rows: Sequence[Row], *parts: str) -> list[Line]:
    """One line for those that differ in nothing but these parts of their names."""
    # A line, and the keys in it.
    result = [(row.key, row.ours, row.action, {row.key} - {NO_KEY}) for row in rows]
    for part in parts:
        groups: dict[tuple[str, str, str], list[tuple[str, str, set[str]]]] = {}
        for key, ours, action, keys in result:
            (key, of_key), (ours, of_ours) = _take_out(key, part), _take_out(ours, part)
            groups.setdefault((key, ours, action), []).append((of_key, of_ours, keys))
        result = []
        for (key, ours, action), members in groups.items():
            of_keys, of_ours_, keys_ = zip(*members, strict=True)
            key, ours = key.replace(HOLE, _braces(of_keys)), ours.replace(HOLE, _braces(of_ours_))
            result.append((key, ours, action, set().union(*keys_)))
    return [Line(key, ours, action, len(keys)) for key, ours, action, keys in result]


def _take_out(name: str, part: str) -> tuple[str, str]:
    match = re.search(part, name)
    return (name[: match.start(1)] + HOLE + name[match.end(1) :], match[1]) if match else (name, "")


def _braces(values: Sequence[str]) -> str:
    """`3`, `{0-7}`, `{alpha,beta}`, or `*`: weight and bias, or all of a module."""
    different = sorted(set(values))
    if len(different) == 1:
        return different[0]
    if all(value.isdecimal() and len(value) < 10 for value in different):
        numbers = sorted(map(int, different))
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{{{numbers[0]}-{numbers[-1]}}}"
        return f"{{{','.join(map(str, numbers))}}}"
    return "*" if len(different) > 2 or different == ["bias", "weight"] else f"{{{','.join(different)}}}"
