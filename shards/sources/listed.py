"""Any data set, where it lies: a table of tracklets (CSV), with a role for each protocol.

    path,pid,camid,role
    bbox/0001/0001C1T0001,1,1,train
    bbox/0002/0002C1T0001,2,1,query+gallery
    bbox/0002/0002C2T0001,2,2,gallery

The first line names the columns, in any order; commas, semicolons or tabs separate them; the text is UTF-8.

    path        folder of the pictures, or folder and beginning of their names, in --root; frames are ordered by the
                numbers in their names, and a number is never cut: T1 is not the beginning of T12
    pid         identity: a number from 1, or a name; 0 or distractor: matches no query; -1 or junk: ignored for each
    camid       camera: a number from 0, or a name
    role        train, query, gallery, query+gallery, junk, or empty; the protocol is called test
    role:NAME   the same in the protocol NAME; role:NAME/SPLIT in one of its splits

These columns are optional:

    outfit      clothes of the identity: a number from 0, or a name; empty if they are not known
    start, end  first and last frame, for folders of several tracklets; the last number in a name is that of the frame
    num_frames  number of pictures; a build refuses a tracklet that has more or fewer
    key         name of the tracklet: letters, digits, - and _ (default: made from path, start and end)

Names are numbered in sorted order, which `info` shows. Roles make directed protocols: queries of some cameras, gallery
of others. --ignore NAME=clothes-changing changes what the queries of a protocol ignore. A picture belongs to one row;
pictures in no row are counted. All bad rows are refused together, by line and column.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial as bind
from pathlib import Path, PurePosixPath

from shards.paths import path
from shards.records import IGNORE_RULES, DataError, Source, SourceTracklet
from shards.sources.common import files_of, gaps_fact
from shards.sources.labels import numbers_of
from shards.sources.pictures import Folders, Selection
from shards.sources.role_columns import COLUMN, FORM, Rule, check_roles, protocols_of, roles_of, rule
from shards.sources.table import Row, Table, read_table, shown

REQUIRED = ("path", "pid", "camid")
COLUMNS = (*REQUIRED, "outfit", "start", "end", "num_frames", "key")
DIGEST = 8  # letters of a digest that makes a key unique


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build list`."""
    add = parser.add_argument
    add("--list", type=path, required=True, metavar="FILE", help="the table of tracklets")
    add("--root", type=path, metavar="DIR", help="folder in which the paths begin (default: that of the list)")
    add("--name", metavar="NAME", help="name of the data set (default: that of the list, without .csv)")
    rules = "; ".join(f"{name}: {rule.text}" for name, rule in IGNORE_RULES.items())
    ignore = f"gallery tracklets of its own identity that a query ignores (default: camera). {rules}"
    add("--ignore", type=rule, action="append", default=[], metavar="[PROTOCOL=]RULE", help=ignore)
    add("--cmc-only", action="store_true", help="each query has one true match: mAP is not reported")
    parser.set_defaults(
        read=lambda args: read(args.list, args.root, name=args.name, ignore=args.ignore, cmc_only=args.cmc_only)
    )


def read(
    path: Path,
    root: Path | None = None,
    *,
    name: str | None = None,
    ignore: Sequence[Rule] = (),
    cmc_only: bool = False,
) -> Source:
    """Read the list, and find the pictures of each row.

    Args:
        root: Folder of the pictures; None is that of the list.
        ignore: Rules of what queries ignore.
        cmc_only: Whether each query has one true match.

    Raises DataError with a line for each fault, as `file:line: column: reason`, and UsageError if a rule fits no
    protocol of the list.
    """
    table = read_table(path, COLUMNS, REQUIRED, COLUMN, FORM)
    protocols, columns = protocols_of(table, ignore, cmc_only)
    folders = Folders(path.parent if root is None else root)
    pids, facts_of_pids = numbers_of(table, "pid")
    camids, facts_of_camids = numbers_of(table, "camid")
    outfits, facts_of_outfits = numbers_of(table, "outfit")
    roles = roles_of(table, columns)
    keys = _keys(table)
    selections = [_pictures(table, row, folders) for row in table.rows]
    table.check()
    tracklets = tuple(
        SourceTracklet(
            key=key,
            pid=pid,
            camid=camid,
            num_frames=len(selection.names),
            roles=of_row,
            frames=bind(files_of, selection.folder, selection.names),
            outfit=outfit,
        )
        for key, pid, camid, outfit, of_row, selection in zip(
            keys, pids, camids, outfits, roles, selections, strict=True
        )
    )
    check_roles(table, protocols, columns, tracklets)
    gaps = {
        key: int(row.cells["end"]) + 1 - int(row.cells["start"]) - len(selection.names)
        for key, row, selection in zip(keys, table.rows, selections, strict=True)
        if row.cells.get("start")
    }
    gaps = {key: missing for key, missing in gaps.items() if missing}
    facts = {**gaps_fact(gaps), **facts_of_pids, **facts_of_camids, **facts_of_outfits}
    if idle := sum(not any(of_row) for of_row in roles):
        facts["without a role"] = f"tracklets that have no role in any protocol: {idle:,}"
    return Source(name or path.stem, protocols, tracklets, {**facts, **folders.facts()})


def _pictures(table: Table, row: Row, folders: Folders) -> Selection:
    """Return the pictures of a row; without any if they are a fault."""
    from shards.index_checks import MAX_FRAMES  # not at the top: it imports pyarrow

    nothing = Selection(Path(), ())
    if not row.cells["path"]:
        table.fault(row.line, "path", "empty; write . for the folder itself")
        return nothing
    num_faults = len(table.faults)
    start, end, expected = (_whole(table, row, column) for column in ("start", "end", "num_frames"))
    if bool(row.cells.get("start")) != bool(row.cells.get("end")):
        table.fault(row.line, "start, end", "one of two; write both, or none")
    elif start is not None and end is not None and start > end:
        table.fault(row.line, "start, end", f"{start} to {end} is not a range of frames")
    if len(table.faults) > num_faults:
        return nothing
    try:
        selection = folders.select(row.cells["path"], None if start is None or end is None else (start, end))
    except DataError as error:
        table.fault(row.line, "path", f"{shown(row.cells['path'])}: {error}")
        return nothing
    count = len(selection.names)
    if taken := folders.claim(selection, row.line):
        owner, picture = taken
        table.fault(
            row.line, "path", f"{picture} belongs to line {owner}; a tracklet has one row, with all of its roles"
        )
    if expected is not None and count != expected:
        way_out = "unpack it again, or correct the number"
        table.fault(row.line, "num_frames", f"{expected:,}, but {row.cells['path']} has {count:,} pictures; {way_out}")
    if count > MAX_FRAMES:
        way_out = "divide it by start and end"
        table.fault(row.line, "path", f"{count:,} pictures; {MAX_FRAMES:,} can be stored in a tracklet; {way_out}")
    return selection


def _whole(table: Table, row: Row, column: str) -> int | None:
    """Return the whole number in a cell; None if it is empty, or a fault."""
    cell = row.cells.get(column, "")
    match = re.fullmatch(r"([0-9]{1,18})(?:\.0+)?", cell)
    if cell and not match:
        table.fault(row.line, column, f"{shown(cell)} is not a whole number")
    return int(match[1]) if match else None


def _keys(table: Table) -> list[str]:
    """Return the key of each row, given or made of path and frames. Notes keys that are invalid or given twice."""
    from shards.write import KEY  # not at the top: it imports pyarrow

    keys = [row.cells.get("key") or _made_key(row) for row in table.rows]
    counts = Counter(keys)
    first: dict[str, int] = {}
    for place, row in enumerate(table.rows):
        key = keys[place]
        if not row.cells.get("key"):
            keys[place] = _made_key(row, unclear=True) if counts[key] > 1 else key
        elif not KEY.fullmatch(key):
            table.fault(row.line, "key", f"{shown(key)}: at most 80 letters, digits, - and _")
        elif first.setdefault(key, row.line) != row.line:
            table.fault(row.line, "key", f"{shown(key)} is the key of line {first[key]}; keys must differ")
    return keys


def _made_key(row: Row, unclear: bool = False) -> str:
    parts = [str(PurePosixPath(row.cells["path"])), *filter(None, map(row.cells.get, ("start", "end")))]
    text = "-".join(parts).replace("/", "-")
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", text)
    if not unclear and key == text and len(key) <= 80:
        return key
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:DIGEST]
    return f"{key[: 79 - DIGEST].strip('-')}-{digest}".lstrip("-")
