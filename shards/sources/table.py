"""Read a table of text (CSV) whose first line names its columns, and collect faults by line and column."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shards.guarded import read_regular
from shards.records import DataError
from shards.sources.tracks import listed
from shards.text import breaks_lines, counted, printable_lines

SEPARATORS = (",", ";", "\t")
MAX_CELL = 1000  # characters; a longer cell is damage, such as a quote that is not closed
MAX_SHOWN = 60  # characters of a cell in a message


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the number of its first line, and its cells by column."""

    line: int
    cells: dict[str, str]


@dataclass(slots=True)
class Table:
    """The content of a file, and what is wrong with it.

    Args:
        header: Number of the line of names.
        columns: Names of the columns, as `read_table` was given them.
    """

    path: Path
    header: int = 1
    columns: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def fault(self, line: int, column: str, reason: str) -> None:
        """Note a fault; `check` raises it."""
        where = f"{self.path}:{line}: {column}" if column else f"{self.path}:{line}"
        self.faults.append((line, f"{where}: {reason}"))

    def check(self) -> None:
        """Raise DataError with all faults, in the order of the lines."""
        if self.faults:
            lines = [text for _, text in sorted(self.faults, key=lambda fault: fault[0])]
            them = "it" if len(lines) == 1 else "them"
            raise DataError(printable_lines([*listed(lines), f"{counted(len(lines), 'fault')}; correct {them}"]))


def shown(text: str) -> str:
    """Return a cell for a message: in quotes, and cut if it is long."""
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def nearest(word: str, words: Sequence[str]) -> str:
    """Return `; did you mean WORD?`, or an empty text if no word is near."""
    near = difflib.get_close_matches(word.lower()[:MAX_SHOWN], words, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def read_table(path: Path, names: Sequence[str], required: Sequence[str], others: re.Pattern[str], form: str) -> Table:
    """Read a table of UTF-8 text, separated by commas, semicolons or tabs. Cells are stripped; empty lines are skipped.

    Args:
        names: Names of columns, in lower case; the file may have them in any case.
        required: Those that must be there.
        others: Names of further columns.
        form: The form of these names, for messages.

    Rows with too many or too few cells, and long cells, are faults. Raises DataError if the file as a whole or its
    header is invalid.
    """
    text = _text(path)
    if re.match(r"sep=.\r?\n", text):  # how Excel is told the separator
        text = text[text.index("\n") :]  # the empty line keeps the numbers of lines
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=lambda one: sum(name.strip(' "').lower() in names for name in header.split(one)))
    lines = _records(path, text, separator)
    if not lines:
        raise DataError(f"{path}: empty; its first line names the columns: {', '.join(required)}, ...")
    table = Table(path, lines[0][0])
    table.columns = tuple(name.lower() if name.lower() in names else name for name in lines[0][1])
    _check_header(table, names, required, others, form)
    table.check()
    for line, cells in lines[1:]:
        if len(cells) != len(table.columns):
            reason = f"{counted(len(cells), 'cell')}, but the header has {counted(len(table.columns), 'column')}"
            table.fault(line, "", f"{reason}; put text that contains {_name(separator)} into quotes")
            continue
        wrong = [column for column, cell in zip(table.columns, cells, strict=True) if len(cell) > MAX_CELL]
        odd = [column for column, cell in zip(table.columns, cells, strict=True) if breaks_lines(cell)]
        for column in wrong:
            table.fault(line, column, f"longer than {MAX_CELL:,} characters; is a quote not closed?")
        for column in odd:
            table.fault(line, column, "contains a line end or control character; is a quote not closed?")
        if not wrong and not odd:
            table.rows.append(Row(line, dict(zip(table.columns, cells, strict=True))))
    if not table.rows:
        table.check()
        raise DataError(f"{path}: no row below the names of the columns")
    return table


def _text(path: Path) -> str:
    if not path.exists():
        raise DataError(f"{path}: no such file; give a table of text (CSV)")
    data = read_regular(path)
    way_out = "save it as CSV in UTF-8"
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path}: a spreadsheet, not text; {way_out}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: UTF-16; {way_out}")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}:{line}: a NUL byte, so no text; {way_out}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); {way_out}") from None


def _records(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the cells of each row that is not empty, with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    records = []
    line = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                records.append((line, stripped))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not a row of CSV ({error}); is a quote not closed?") from None
    return records


def _check_header(
    table: Table, names: Sequence[str], required: Sequence[str], others: re.Pattern[str], form: str
) -> None:
    for place, column in enumerate(table.columns, start=1):
        if not column:
            table.fault(table.header, f"column {place}", "has no name; remove it (in pandas: to_csv(index=False))")
        elif table.columns.index(column) < place - 1:
            table.fault(table.header, shown(column), "the name of two columns; remove one")
        elif column not in names and not others.fullmatch(column):
            known = ", ".join((*names, form))
            table.fault(table.header, shown(column), f"an unknown column{nearest(column, names)}; columns are {known}")
    for name in required:
        if name not in table.columns:
            table.fault(table.header, name, "a column is missing; the first line names the columns")


def _name(separator: str) -> str:
    return {",": "commas", ";": "semicolons", "\t": "tabs"}[separator]
