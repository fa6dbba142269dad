"""Read protocols and roles from columns of a table: `role`, `role:PROTOCOL` and `role:PROTOCOL/SPLIT`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from shards.records import (
    DISTRACTOR_PID,
    IGNORE_RULES,
    JUNK_PID,
    NO_OUTFIT,
    Protocol,
    Role,
    SourceTracklet,
    UsageError,
)
from shards.sources.table import Row, Table, nearest, shown

COLUMN = re.compile(r"(?i:role)(?::(?P<protocol>[\w-]{1,80})(?:/(?P<split>[\w-]{1,80}))?)?", re.ASCII)
FORM = "role, role:PROTOCOL, role:PROTOCOL/SPLIT (letters, digits, - and _)"
UNNAMED = "test"  # the protocol of a column `role`
MAX_SPLITS = 1000  # of all protocols, as readers accept
ALL = "all"  # no name of a split: `--data.split all` selects all of them
JUNK = Role.GALLERY | Role.JUNK
ROLES = {
    frozenset[str](): Role.NONE,
    frozenset({"train"}): Role.TRAIN,
    frozenset({"query"}): Role.QUERY,
    frozenset({"gallery"}): Role.GALLERY,
    frozenset({"query", "gallery"}): Role.QUERY | Role.GALLERY,
    frozenset({"junk"}): JUNK,
    frozenset({"gallery", "junk"}): JUNK,
}
WORDS = ("train", "query", "gallery", "query+gallery", "junk")
Rule = tuple[str | None, str]  # name of a protocol, None if there is one only, and a name of IGNORE_RULES


def rule(text: str) -> Rule:
    """Parse `RULE` or `PROTOCOL=RULE`: the `type` of --ignore."""
    protocol, _, name = text.rpartition("=")
    if name not in IGNORE_RULES:
        raise argparse.ArgumentTypeError(f"{text!r} is not [PROTOCOL=]RULE with a rule of {', '.join(IGNORE_RULES)}")
    return protocol or None, name


def protocols_of(
    table: Table, rules: Sequence[Rule] = (), cmc_only: bool = False
) -> tuple[tuple[Protocol, ...], tuple[str, ...]]:
    """Return the protocols of a header, and the column of each of their splits, in the order of the protocols.

    Raises DataError if a split has two columns or no column has roles, and UsageError if a rule fits no protocol.
    """
    num_faults = len(table.faults)
    columns: dict[str, dict[str, str]] = {}  # by protocol and split
    for column in table.columns:
        if match := COLUMN.fullmatch(column):
            protocol, split = match["protocol"] or UNNAMED, match["split"]
            of_protocol = columns.setdefault(protocol, {})
            if of_protocol and (split is None or None in map(_split_of, of_protocol.values()) or split in of_protocol):
                other = next(iter(of_protocol.values()))
                table.fault(table.header, column, f"{other} is of {protocol}, too; name each split: role:{protocol}/A")
            elif split == ALL:
                table.fault(table.header, column, f"{ALL} selects all splits; give this one another name")
            of_protocol[split or "0"] = column
    if not columns:
        table.fault(table.header, "role", f"a column is missing; write one of {FORM}")
    elif sum(map(len, columns.values())) > MAX_SPLITS:
        table.fault(table.header, "role", f"more than {MAX_SPLITS:,} columns; make several sets")
    if len(table.faults) > num_faults:
        table.check()
    ignore = _rules(table, tuple(columns), rules)
    description = "roles as in the list"
    protocols = tuple(
        Protocol(protocol, tuple(of_protocol), description, cmc_only, ignore.get(protocol, "camera"))
        for protocol, of_protocol in columns.items()
    )
    return protocols, tuple(column for of_protocol in columns.values() for column in of_protocol.values())


def _split_of(column: str) -> str | None:
    match = COLUMN.fullmatch(column)
    return match["split"] if match else None


def _rules(table: Table, protocols: Sequence[str], rules: Sequence[Rule]) -> dict[str, str]:
    ignore: dict[str, str] = {}
    known = ", ".join(protocols)
    for given, name in rules:
        if given is None and len(protocols) > 1:
            raise UsageError(f"--ignore {name}: {table.path} has the protocols {known}; write PROTOCOL={name}")
        protocol = given or protocols[0]
        if protocol not in protocols:
            raise UsageError(f"--ignore {protocol}={name}: no such protocol in {table.path}, which has {known}")
        if ignore.setdefault(protocol, name) != name:
            raise UsageError(
                f"--ignore gives {protocol} two rules; for a protocol of each rule, give the list a column of each"
            )
    return ignore


def roles_of(table: Table, columns: Sequence[str]) -> list[tuple[Role, ...]]:
    """Return the roles of each row in these columns; a word that is no role is a fault."""
    return [tuple(_role(table, row, column) for column in columns) for row in table.rows]


def _role(table: Table, row: Row, column: str) -> Role:
    cell = row.cells[column].lower()
    role = ROLES.get(frozenset(cell.replace("+", " ").split()))
    if role is None:
        way_out = nearest(cell, WORDS) or f"; roles are {', '.join(WORDS)}, or an empty cell"
        table.fault(row.line, column, f"{shown(cell)} is no role{way_out}")
    return role or Role.NONE


def check_roles(
    table: Table, protocols: Sequence[Protocol], columns: Sequence[str], tracklets: Sequence[SourceTracklet]
) -> None:
    """Compare roles with identities and outfits.

    Raises DataError on junk or a distractor that trains or is a query, on a missing outfit where a rule needs it, and
    on a split with a query but no gallery, or the reverse. A split that only trains is one.
    """
    of_columns = [protocol for protocol in protocols for _ in protocol.splits]
    for row, tracklet in zip(table.rows, tracklets, strict=True):
        for protocol, column, role in zip(of_columns, columns, tracklet.roles, strict=True):
            if wrong := _wrong_role(protocol, tracklet, role):
                table.fault(row.line, column, wrong)
    for place, column in enumerate(columns):
        roles = [tracklet.roles[place] for tracklet in tracklets]
        num_queries = sum(bool(role & Role.QUERY) for role in roles)
        in_gallery = any(role & Role.GALLERY and not role & Role.JUNK for role in roles)
        if not any(roles):
            table.fault(table.header, column, "no row has a role; remove the column, or fill it")
        elif num_queries and not in_gallery:
            table.fault(table.header, column, "queries, but no gallery; write gallery or query+gallery in some rows")
        elif not num_queries and any(role & Role.GALLERY for role in roles):
            table.fault(table.header, column, "a gallery, but no query; write query or query+gallery in some rows")
    table.check()


def _wrong_role(protocol: Protocol, tracklet: SourceTracklet, role: Role) -> str:
    """Return what is wrong with a role; empty if nothing is."""
    if tracklet.pid == JUNK_PID and role not in (Role.NONE, JUNK):
        return "the identity is junk, so its role is junk"
    if tracklet.pid == DISTRACTOR_PID and role & (Role.TRAIN | Role.QUERY):
        return "identity 0 is a distractor, so its role is gallery; number persons from 1, or name them"
    compared = role & (Role.QUERY | Role.GALLERY) and not role & Role.JUNK
    if protocol.needs_outfits and compared and tracklet.pid > 0 and tracklet.outfit == NO_OUTFIT:
        return f"no outfit, which --ignore {protocol.ignore} needs for queries and gallery; fill the column outfit"
    return ""
