"""Number the identities, cameras and outfits of a table, whose cells are whole numbers or names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from shards.records import DISTRACTOR_PID, JUNK_PID, NO_OUTFIT
from shards.sources.common import natural, numbered, plain
from shards.sources.table import Row, Table, shown

WHOLE = re.compile(r"(-?[0-9]+)(?:\.0+)?")  # tables of numbers with empty cells are often saved with decimals
NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?(e[+-]?[0-9]+)?", re.I)
UNKNOWN = ("nan", "none", "null", "n/a", "na", "<na>", "#n/a", "unknown", "?", "-")  # written into empty cells
NAMES = {DISTRACTOR_PID: "distractor", JUNK_PID: "junk"}
SPECIAL = {DISTRACTOR_PID: re.compile("distractors?|0+", re.I), JUNK_PID: re.compile("junk|0*-0*1", re.I)}
TITLES = {"pid": "identities", "camid": "cameras", "outfit": "outfits"}
EMPTY = {"outfit": NO_OUTFIT}  # columns that may have empty cells, or be missing
NEGATIVE = {
    "pid": "persons are numbers from 1, or names; 0 is a distractor, -1 is junk",
    "camid": "cameras are numbers from 0, or names",
    "outfit": "outfits are numbers from 0, or names; leave the cell empty if the outfit is not known",
}


def numbers_of(table: Table, column: str) -> tuple[list[int], dict[str, str]]:
    """Return the number in each row of `pid`, `camid` or `outfit`, and facts about the numbering.

    Whole numbers stay; if any cell is a name, all are numbered in sorted order. Notes faults in the table, and then
    returns no numbers: empty cells, negative or large numbers, labels that differ in zeros, spaces or case alone.
    """
    num_faults = len(table.faults)
    labels = [_label(table, row, column) for row in table.rows]
    special = _special(labels) if column == "pid" else {}
    lines: dict[str, int] = {}  # of each label's first row
    for row, label in zip(table.rows, labels, strict=True):
        if label and label not in special:
            lines.setdefault(label, row.line)
    _check_spelling(table, column, lines)
    if len(table.faults) > num_faults:
        return [], {}
    names = sorted(lines, key=natural)
    facts: dict[str, str] = {}
    if all(name.isdecimal() for name in names):
        numbers = {name: int(name) for name in names}
    else:
        numbers, facts = numbered(table.path, names, TITLES[column])
    if readings := [f"{label} is {NAMES[pid]}" for label, pid in special.items() if label != NAMES[pid]]:
        facts["distractors and junk"] = ", ".join(readings)
    numbers |= special
    return [numbers[label] if label else EMPTY[column] for label in labels], facts


def _label(table: Table, row: Row, column: str) -> str:
    """Return the text of a cell, without the decimals of a whole number; empty if it is empty, or a fault."""
    from shards.write import MAX_NUMBER  # not at the top: it imports pyarrow

    cell = row.cells.get(column, "")
    if not cell:
        if column not in EMPTY:
            table.fault(row.line, column, f"empty; {NEGATIVE[column]}")
        return ""
    if cell.lower() in UNKNOWN:
        way_out = "leave the cell empty" if column in EMPTY else "write a number or a name"
        table.fault(row.line, column, f"{shown(cell)} stands for a missing value; {way_out}")
        return ""
    match = WHOLE.fullmatch(cell)
    if not match and NUMBER.fullmatch(cell):
        table.fault(row.line, column, f"{shown(cell)} is not written as a whole number; write its digits")
        return ""
    if not match:
        return cell
    if abs(int(match[1])) > MAX_NUMBER:
        table.fault(row.line, column, f"{shown(cell)}: {MAX_NUMBER:,} is the largest number that can be stored")
        return ""
    if int(match[1]) < 0 and not (column == "pid" and int(match[1]) == JUNK_PID):
        table.fault(row.line, column, f"{shown(cell)}: {NEGATIVE[column]}")
        return ""
    return match[1]


def _special(labels: list[str]) -> dict[str, int]:
    """Return the labels of `pid` that are not persons."""
    return {label: pid for label in sorted(set(labels)) for pid, pattern in SPECIAL.items() if pattern.fullmatch(label)}


def _check_spelling(table: Table, column: str, lines: Mapping[str, int]) -> None:
    """Note labels that `numbered` refuses, with their lines."""
    first: dict[str, str] = {}
    for label, line in lines.items():
        if (other := first.setdefault(plain(label), label)) != label:
            reason = f"{shown(label)} and {shown(other)} (line {lines[other]}) differ in zeros, spaces or case alone"
            table.fault(line, column, f"{reason}; write one of them everywhere")
