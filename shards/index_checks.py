"""Check the values of an index and a description.

Checksums do not protect against the author of a set. So each value that serves as an offset, a length or a number is
checked once. Arrow checks nothing when it maps a file, and a wrong length or offset would lead out of the mapped
memory.
"""

from __future__ import annotations

import string
import struct
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.columns import to_numpy
from shards.records import IGNORE_RULES, JUNK_PID, NO_OUTFIT, Role

if TYPE_CHECKING:
    from shards.index import Description

MAX_NAME = 1000  # characters in the name of a set, protocol or split
MAX_SPLITS = 1000  # of all protocols; official ones have 10 or 20
MAX_FRAMES = 99_999  # per tracklet: names in the tar have five digits
ALL_ROLES = sum(Role)
MAX_KEY = 80
KEY_LETTERS = np.isin(np.arange(256), list(f"{string.ascii_letters}{string.digits}_-".encode()))
COUNTS = ("tracklets", "frames", "identities", "cameras")
FIRST_OFFSET = 512  # a frame follows a tar header
MAX_SHOWN = 99  # characters of a wrong key in a message


def check_description(description: Description) -> None:
    """Raise ValueError if a value of `dataset.json` is not one that the writer gives."""
    names = [description.name, *(protocol.name for protocol in description.protocols)]
    names += [split for protocol in description.protocols for split in protocol.splits]
    _require(all(isinstance(name, str) and 0 < len(name) <= MAX_NAME for name in names), "a name is not text")
    protocols = [protocol.name for protocol in description.protocols]
    _require(bool(protocols) and _all_differ(protocols), f"protocols {protocols[:9]}")
    for protocol in description.protocols:
        _require(bool(protocol.splits) and _all_differ(protocol.splits), f"splits of {protocol.name}")
        _require(isinstance(protocol.description, str), f"description of {protocol.name}")
        _require(isinstance(protocol.cmc_only, bool), f"cmc_only of {protocol.name}: {protocol.cmc_only!r}")
        _require(protocol.ignore in list(IGNORE_RULES), f"ignore of {protocol.name}: {protocol.ignore!r}")
        _require(description.has_outfits or not protocol.needs_outfits, f"{protocol.name} needs outfits")
    _require(len(description.role_names) <= MAX_SPLITS, f"{len(description.role_names):,} splits; {MAX_SPLITS} at most")
    for what in ("facts", "index_files"):
        values = getattr(description, what)
        _require(isinstance(values, dict) and all(isinstance(value, str) for value in values.values()), what)
    counts = description.counts
    _require(isinstance(counts, dict) and set(counts) == set(COUNTS), "counts")
    _require(all(map(_is_count, counts.values())), "counts")
    _check_encoding(description.encoding)
    _require(_all_differ([shard.file for shard in description.shards]), "a shard is listed twice")
    for shard in description.shards:
        _require(_is_count(shard.bytes), f"bytes of {shard.file}: {shard.bytes!r}")


def _check_encoding(encoding: Mapping[str, Any]) -> None:
    _require(isinstance(encoding, dict), "encoding")
    if encoding:
        size = encoding.get("size")
        _require(isinstance(size, list) and len(size) == 2 and all(map(_is_count, size)), f"size of frames: {size!r}")
        _require(_is_count(encoding.get("quality")), f"quality of frames: {encoding.get('quality')!r}")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _all_differ(values: Collection[str]) -> bool:
    return len(set(values)) == len(values)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"invalid value: {what}")


def read_stream(buffer: pa.Buffer, schema: pa.Schema) -> pa.Table:
    """Return the table of an Arrow stream, as views of `buffer`. Raises ValueError or an Arrow error.

    Compressed buffers and dictionaries are refused: they would be unpacked in memory, to any size they claim.
    """
    kinds = []
    for message in pa.ipc.MessageReader.open_stream(buffer):
        kinds.append(message.type)
        if message.type == "record batch" and _is_compressed(message.metadata.to_pybytes()):
            raise ValueError("its buffers are compressed")
    if kinds[:1] != ["schema"] or set(kinds[1:]) - {"record batch"}:
        raise ValueError(f"it holds {', '.join(sorted(set(kinds))) or 'nothing'} instead of a schema and rows")
    reader = pa.ipc.open_stream(buffer)
    if not reader.schema.equals(schema):
        raise ValueError("its columns are not those that the writer makes")
    table = reader.read_all()
    table.validate(full=True)
    return table


def _is_compressed(metadata: bytes) -> bool:
    """Return whether the header of a record batch names a compression, which pyarrow does not expose.

    The header is a flatbuffer, which Arrow has verified: Message.header is field 2, RecordBatch.compression field 3.
    """

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        slot = 4 + 2 * number
        there = slot < struct.unpack_from("<H", metadata, vtable)[0]
        place = struct.unpack_from("<H", metadata, vtable + slot)[0] if there else 0
        return table + place if place else 0

    header = field(struct.unpack_from("<I", metadata)[0], 2)
    return field(header + struct.unpack_from("<I", metadata, header)[0], 3) != 0


def check_table(table: pa.Table, description: Description) -> None:
    """Raise ValueError if a value of the index is invalid, or does not match the description."""
    _require(len(table) > 0, "no tracklet")
    for column in table.columns:
        children = [chunk.values for chunk in column.chunks] if pa.types.is_list(column.type) else []
        _require(not column.null_count and not any(child.null_count for child in children), "a value is missing")
    keys, pids, camids = table["key"], to_numpy(table["pid"]), to_numpy(table["camid"])
    for chunk in keys.chunks:
        _check_keys(chunk)
    rising = pc.all(
        pc.less(keys.slice(0, len(keys) - 1), keys.slice(1))
    ).as_py()  # true of most sets, and quick to check
    _require(rising is not False or pc.count_distinct(keys).as_py() == len(table), "two tracklets have one key")
    _require(int(pids.min()) >= JUNK_PID, f"identity {pids.min()}")
    _require(int(camids.min()) >= 0, f"camera {camids.min()}")
    if description.has_outfits:
        outfits = to_numpy(table["outfit"])
        _require(int(outfits.min()) >= NO_OUTFIT, f"outfit {outfits.min()}")
    shard_bytes = np.array([shard.bytes for shard in description.shards], np.int64)
    num_roles = len(description.role_names)
    frames = sum(_check_batch(batch, shard_bytes, num_roles) for batch in table.to_batches())
    identities = len(np.unique(pids[pids > 0]))
    result = (len(table), frames, identities, pc.count_distinct(table["camid"]).as_py())
    for what, count in zip(COUNTS, result, strict=True):
        _require(description.counts[what] == count, f"{count:,} {what}, not the {description.counts[what]:,} of counts")


def _check_keys(keys: pa.StringArray) -> None:
    """Check length and characters of keys, without a regular expression: it would take longer than all other checks."""
    _, offsets, letters = keys.buffers()
    ends = np.frombuffer(offsets, np.int32)[keys.offset : keys.offset + len(keys) + 1]
    lengths = np.diff(ends)
    wrong = (lengths < 1) | (lengths > MAX_KEY)
    bad_letters = np.flatnonzero(~KEY_LETTERS[np.frombuffer(letters or b"", np.uint8)[ends[0] : ends[-1]]])
    wrong[np.searchsorted(ends, bad_letters + ends[0], side="right") - 1] = True
    if wrong.any():
        raise ValueError(f"invalid value: key {keys[int(wrong.argmax())].as_py()[:MAX_SHOWN]!r}")


def _check_batch(batch: pa.RecordBatch, shard_bytes: np.ndarray, num_roles: int) -> int:
    """Check shards, offsets, sizes and roles; return the number of frames."""
    first = to_numpy(batch["sizes"].offsets)
    lengths = np.diff(first)
    _refuse(batch, (lengths < 1) | (lengths > MAX_FRAMES), "{} frames", lengths)
    for name in ("offsets", "crc32"):
        others = to_numpy(batch[name].offsets)
        _refuse(batch, np.diff(others) != lengths, f"{{}} {name}, not one per frame", np.diff(others))
        _require(int(others[0]) == int(first[0]), f"{name} do not begin where sizes begin")
    shards = to_numpy(batch["shard"])
    _refuse(batch, (shards < 0) | (shards >= len(shard_bytes)), "shard {}", shards)
    offsets, sizes = (to_numpy(batch[name].values)[first[0] : first[-1]] for name in ("offsets", "sizes"))
    last_offsets = np.repeat(shard_bytes[shards], lengths) - sizes  # of a frame that ends with its shard
    wrong = (sizes < 1) | (offsets < FIRST_OFFSET) | (offsets > last_offsets)
    if wrong.any():
        frame = int(wrong.argmax())
        row = int(np.searchsorted(first, frame + first[0], side="right")) - 1
        key = batch["key"][row].as_py()
        raise ValueError(
            f"invalid value: {key}: a frame of {sizes[frame]} bytes at {offsets[frame]} does not fit its shard"
        )
    num_given = np.diff(to_numpy(batch["roles"].offsets))
    _refuse(batch, num_given != num_roles, f"{{}} roles, not {num_roles}", num_given)
    roles = to_numpy(batch["roles"].flatten())
    _require(int(roles.max()) <= ALL_ROLES, f"role {roles.max()}")
    return int(first[-1] - first[0])


def _refuse(batch: pa.RecordBatch, wrong: np.ndarray, what: str, values: np.ndarray) -> None:
    """Raise ValueError that names the first tracklet with a wrong value."""
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"invalid value: {batch['key'][row].as_py()}: {what.format(values[row])}")
