"""The Arrow index and the description of a set.

DIR/shard-000000.tar   samples are tracklets: <key>.json, <key>.00000.jpg, <key>.00001.jpg, ...
DIR/index/             Arrow file of HF datasets, one row per tracklet (columns: SCHEMA, with outfits OUTFITS_SCHEMA)
DIR/dataset.json       Description; written last: a folder without it is incomplete
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from shards import index_checks
from shards.guarded import open_regular, sha256_of
from shards.records import DataError, Protocol, Role
from shards.storage import Files

FORMAT = "mstat-shards"
VERSION = 1
OUTFITS_VERSION = 2  # of sets with outfits or a rule on them, which earlier versions of mstat cannot score
DESCRIPTION_FILE = "dataset.json"
INDEX_FOLDER = "index"
INDEX_FILE = "index/data-00000-of-00001.arrow"  # the name that datasets gives its single file
SHARD_FILE = re.compile(r"shard-\d{6,}\.tar")
INDEX_BESIDE = re.compile(r"\w+\.json")
MAX_DESCRIPTION_BYTES = 32 << 20  # 100,000 shards
MAX_INDEX_BYTES = 1 << 30  # of a remote set: 50 million frames
ROW_BYTES, FRAME_BYTES = 160, 16  # upper bounds, per tracklet and per frame in the index
SHA256 = re.compile(r"[0-9a-f]{64}")

SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "pid": pa.int64(),
        "camid": pa.int64(),
        "shard": pa.int64(),  # position in Description.shards
        "json_crc32": pa.uint32(),
        "offsets": pa.list_(pa.int64()),  # of each frame's first byte in the shard
        "sizes": pa.list_(pa.int32()),
        "crc32": pa.list_(pa.uint32()),
        "roles": pa.list_(pa.uint8()),  # Role bits for each (protocol, split), in the description's order
    }
)
OUTFITS_SCHEMA = SCHEMA.append(pa.field("outfit", pa.int64()))  # of sets with outfits; NO_OUTFIT where there is none


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Entry of a tar in `dataset.json`."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Description:
    """Content of `dataset.json`: everything but the rows. Its checksum also covers tars and index, by their SHA-256."""

    name: str
    protocols: tuple[Protocol, ...]
    facts: Mapping[str, str]
    counts: Mapping[str, int]
    encoding: Mapping[str, Any]
    shards: tuple[ShardRecord, ...]
    index_sha256: str
    index_files: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of the other files of `datasets`
    has_outfits: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the content of `dataset.json`. A set without outfits has the bytes that earlier versions wrote."""
        content = {"format": FORMAT, "version": OUTFITS_VERSION if self.has_outfits else VERSION, **asdict(self)}
        del content["has_outfits"]
        content["protocols"] = [protocol_json(protocol) for protocol in self.protocols]
        return {**content, "checksum": _checksum(content)}

    @property
    def schema(self) -> pa.Schema:
        """Columns of the index."""
        return OUTFITS_SCHEMA if self.has_outfits else SCHEMA

    @property
    def role_names(self) -> list[tuple[str, str]]:
        """Return the (protocol, split) of each entry in a row's roles."""
        return [(protocol.name, split) for protocol in self.protocols for split in protocol.splits]


def protocol_json(protocol: Protocol) -> dict[str, Any]:
    """Return the entry of a protocol in `dataset.json`, without the usual rule of what is ignored."""
    content = asdict(protocol)
    if not protocol.needs_outfits:
        del content["ignore"]
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_description(files: Files) -> tuple[Description, str]:
    """Read `dataset.json`; return it and the set's checksum. Raises DataError if the folder is not a complete set."""
    path = files.where(DESCRIPTION_FILE)
    folder = path.removesuffix(DESCRIPTION_FILE).rstrip("/")
    try:
        text = files.content(DESCRIPTION_FILE, MAX_DESCRIPTION_BYTES)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {DESCRIPTION_FILE}, so no finished set of shards; build it again") from error
    try:
        content = json.loads(text)
        if content.get("format") != FORMAT:
            raise DataError(f"{path}: not a description of shards (no format: {FORMAT}); build the set again")
        if content.get("version") not in (VERSION, OUTFITS_VERSION):
            raise DataError(
                f"{path}: format version {content.get('version')}, not {VERSION} or {OUTFITS_VERSION}; take a newer "
                "mstat, or build the set again"
            )
        checksum = content.pop("checksum")
        if checksum != _checksum(content):
            raise DataError(f"{path}: does not match its own checksum: edited or damaged; build the set again")
        description = Description(
            name=content["name"],
            protocols=tuple(Protocol(**{**p, "splits": tuple(p["splits"])}) for p in content["protocols"]),
            facts=content["facts"],
            counts=content["counts"],
            encoding=content["encoding"],
            shards=tuple(ShardRecord(**shard) for shard in content["shards"]),
            index_sha256=content["index_sha256"],
            index_files=content.get("index_files", {}),
            has_outfits=content["version"] == OUTFITS_VERSION,
        )
        _refuse_other_names(path, description)
        index_checks.check_description(description)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error!r}); build the set again") from error
    return description, checksum


def _refuse_other_names(path: str, description: Description) -> None:
    """Raise DataError on unexpected names: names become paths, here and in the cache, and must not leave the folder."""
    for shard in description.shards:
        if not SHARD_FILE.fullmatch(shard.file):
            raise DataError(f"{path}: shard {shard.file!r} is not a name that the writer gives; build the set again")
    for name in description.index_files:
        if not INDEX_BESIDE.fullmatch(name):
            raise DataError(f"{path}: {name!r} is not a file that the writer makes; build the set again")
    if not SHA256.fullmatch(description.index_sha256):
        raise DataError(f"{path}: {description.index_sha256!r} is not a SHA-256; build the set again")


def load_table(files: Files, description: Description) -> pa.Table:
    """Map the index into memory. Raises DataError if it is missing, changed since the build, or has invalid values."""
    where = files.where(INDEX_FILE)
    try:
        path = files.local(INDEX_FILE, description.index_sha256, _max_index_bytes(description))
        if sha256_of(path) != description.index_sha256:
            raise DataError(f"{where}: changed since the build (SHA-256); bring it back, or build the set again")
        with os.fdopen(open_regular(path), "rb") as file:  # pa.memory_map refuses paths that are not UTF-8
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        table = index_checks.read_stream(pa.py_buffer(mapped), description.schema)
        index_checks.check_table(table, description)
        return table
    except (OSError, pa.ArrowException, ValueError, struct.error) as error:
        reason = " ".join(str(error).split())  # Arrow writes several lines
        raise DataError(f"{where}: the index cannot be read ({reason}); build the set again") from error


def _max_index_bytes(description: Description) -> int:
    """Return an upper bound of the index's size: a server may send without end."""
    tracklets, frames = description.counts["tracklets"], description.counts["frames"]
    expected = tracklets * (ROW_BYTES + len(description.role_names)) + frames * FRAME_BYTES
    return min(MAX_INDEX_BYTES, (1 << 20) + 2 * expected)


def write_index(folder: Path, table: pa.Table) -> str:
    """Write the index with HF datasets; return its SHA-256. The same rows give the same bytes."""
    import datasets

    # By default, info and fingerprint are random, or contain time and machine.
    info = datasets.DatasetInfo(features=datasets.Features.from_arrow_schema(table.schema))
    dataset = datasets.Dataset(table, info=info, fingerprint="0" * 16)
    bars_were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        dataset.save_to_disk(str(folder / INDEX_FOLDER), num_shards=1)
    finally:
        if not bars_were_off:
            datasets.enable_progress_bars()
    return sha256_of(folder / INDEX_FILE)


def beside_index(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that `datasets` requires beside the rows, by name."""
    return {path.name: sha256_of(path) for path in sorted((folder / INDEX_FOLDER).glob("*.json"))}


def sample_json(
    key: str,
    pid: int,
    camid: int,
    num_frames: int,
    roles: Iterable[int],
    role_names: Iterable[tuple[str, str]],
    outfit: int | None,
) -> bytes:
    """Return the content of `<key>.json`; `roles` has an entry for each of `role_names`.

    `outfit` is None in a set without outfits.
    """
    named = {
        f"{protocol}/{split}": [flag.name.lower() for flag in Role(role) if flag.name]
        for (protocol, split), role in zip(role_names, roles, strict=True)
    }
    content = {"key": key, "pid": pid, "camid": camid, "num_frames": num_frames, "roles": named}
    if outfit is not None:
        content["outfit"] = outfit
    return json.dumps(content).encode()
