"""Table of `model.init`: every key of the file and every tensor of the model, in few lines.

Names that differ only in the block, stage, or weight and bias share a line: `blocks.{0-7}.attn.qkv.*`.
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

# Parts of a name (group 1) in which the rows of one line may differ, in the order of joining.
BLOCK, KIND, STAGE, SCALARS = r"\.(\d+)\.", r"\.(weight|bias)$", r"stage(\d)", r"\.(alpha|beta)$"
WHOLE_BLOCK = r"(?:blocks|layer)\.\d+\.(.*)"
WHOLE_MODULE = r"(?:\.(?:aap|iap|condense|expand)|^heads|^metrics)\.(.*)"
HOLE = "\0"


class Line(NamedTuple):
    """Line of the table, which stands for one or more rows, and its number of different keys."""

    key: str
    ours: str
    action: str
    num_keys: int


def lines(rows: Sequence[Row]) -> list[Line]:
    """Join rows to few lines: notes, used keys, dropped keys, and tensors that keep their initial values."""
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
        ["keys", "in the file", "here", "action"],
        cells,
        title=f"Start from {file}",
        caption=f"{len(keys)} keys in the file: {len(used)} used, {len(keys) - len(used)} dropped. "
        f"{len(ours)} tensors here: {len(ours) - kept} loaded, {kept} keep their initial values.",
        align="rlll",
        framed=False,
    )


def print_start(file: str, rows: Sequence[Row]) -> None:
    """Print the table."""
    console().print(start_table(file, rows))


def start_record(file: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Return all rows for init.json in the run folder."""
    return {"file": file, "rows": [row._asdict() for row in rows]}


def _joined(rows: Sequence[Row], *parts: str) -> list[Line]:
    """Join rows whose names differ only in these parts."""
    # Each line with its set of keys.
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
    """Return values as text: `3`, `{0-7}`, `{alpha,beta}`, or `*` for weight and bias or a whole module."""
    different = sorted(set(values))
    if len(different) == 1:
        return different[0]
    if all(value.isdecimal() and len(value) < 10 for value in different):
        numbers = sorted(map(int, different))
        if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
            return f"{{{numbers[0]}-{numbers[-1]}}}"
        return f"{{{','.join(map(str, numbers))}}}"
    return "*" if len(different) > 2 or different == ["bias", "weight"] else f"{{{','.join(different)}}}"
