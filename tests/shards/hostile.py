"""Sets of shards that lie, with checksums that fit the lie: whoever makes a set makes its checksums, too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards.index import DESCRIPTION_FILE, INDEX_FILE, _checksum


def describe(out: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change `dataset.json`."""
    content = json.loads((out / DESCRIPTION_FILE).read_text())
    content.pop("checksum")
    change(content)
    (out / DESCRIPTION_FILE).write_text(json.dumps({**content, "checksum": _checksum(content)}, indent=1) + "\n")


def rewrite_index(out: Path, table: pa.Table, **options: Any) -> None:
    """Put another table, or bytes, into the place of the index; `options` of pyarrow.ipc.IpcWriteOptions."""
    with (
        pa.OSFile(str(out / INDEX_FILE), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer,
    ):
        writer.write_table(table)
    fit_index(out)


def fit_index(out: Path) -> None:
    """Let the description name the index as it is now."""
    digest = hashlib.sha256((out / INDEX_FILE).read_bytes()).hexdigest()
    describe(out, lambda content: content.update(index_sha256=digest))


def read_index(out: Path) -> pa.Table:
    """The index, with the metadata of `datasets` left out."""
    return pa.ipc.open_stream((out / INDEX_FILE).read_bytes()).read_all().replace_schema_metadata()


def change_row(out: Path, row: int, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Give a row of the index other values."""
    table = read_index(out)
    rows = table.to_pylist()
    rows[row] = {**rows[row], **change(rows[row])}
    rewrite_index(out, pa.Table.from_pylist(rows, schema=table.schema))
