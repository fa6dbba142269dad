"""Write features of all ranks to one folder, with the same bytes on any number of ranks.

`mstat.evaluation.saved_features` has the format. A part has PART_ROWS rows. A rank writes the rows that it has; the
rank with the first row of a part joins those of others to it. The folder gets its name when it is whole.

Shape suffixes: N features, S of this rank, D feature.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.pca import FILE as PCA_FILE
from mstat.evaluation.pca import Pca
from mstat.evaluation.saved_features import DTYPES, FORMAT, INFO, PART, SCHEMA, TABLE, VERSION
from mstat.files import write_json
from shards.read import Reader

if TYPE_CHECKING:
    from mstat.evaluation.extraction import Extraction

PART_ROWS = 4096


def label_table(reader: Reader, tracklets: np.ndarray, **roles: np.ndarray) -> pa.Table:
    """Return the table of these tracklets of a data set.

    Args:
        roles: The columns `query`, `gallery` and `junk`, a flag for each tracklet.
    """
    columns = {
        "index": tracklets.astype(np.int64),
        "key": reader.keys(tracklets),
        "pid": reader.pids[tracklets],
        "camid": reader.camids[tracklets],
        "outfit": reader.outfits[tracklets],
        "num_frames": reader.num_frames[tracklets],
        **roles,
    }
    return pa.table(columns, schema=SCHEMA)


def refuse_other_content(folder: Path) -> None:
    """Raise UserError if `folder` is a link, or holds anything but features: `save_features` would replace it."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else set()
    others = {name for name in names - {INFO, TABLE, PCA_FILE} if not PART.fullmatch(name)}
    if folder.is_symlink() or (folder.exists() and INFO not in names) or others:
        raise UserError(f"{folder}: exists, and holds more than features, or is a link: move it away")


def save_features(
    folder: Path,
    extraction: Extraction,
    table: pa.Table,
    features_SD: Tensor,
    info: Mapping[str, Any],
    pca: Pca | None = None,
) -> None:
    """Write the features of all ranks to `folder`, and replace an earlier one. Every rank calls it.

    Args:
        table: Labels of the tracklets of all ranks.
        features_SD: Features of this rank's rows, fp32 or fp16.
        info: Further entries of features.json.
        pca: Projection of the features.

    Raises:
        UserError: If `folder` is a link or holds other files, or the ranks do not share it.
        OSError: If the disk is full.
    """
    # Hidden, so that it is no folder of the user; another process may write here at the same time.
    unique = f".{folder.name}.{platform.node()}.{os.getpid()}"
    tmp = folder.with_name(extraction.engine.from_main(unique))
    try:
        _save(folder, tmp, extraction, table, features_SD, info, pca)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def _save(
    folder: Path,
    tmp: Path,
    extraction: Extraction,
    table: pa.Table,
    features_SD: Tensor,
    info: Mapping[str, Any],
    pca: Pca | None,
) -> None:
    engine, (start, stop) = extraction.engine, extraction.bounds
    if engine.is_main:
        refuse_other_content(folder)
        tmp.mkdir(parents=True)
    engine.barrier()
    tmp.mkdir(parents=True, exist_ok=True)  # on another host's own disk; rank 0 misses the parts
    parts = _pieces(extraction.slices, len(table))
    for first, last in [piece for pieces in parts for piece in pieces if start <= piece[0] < stop]:
        _write_rows(tmp, first, last, features_SD[first - start : last - start])
    engine.barrier()
    for pieces in parts:
        if len(pieces) > 1 and start <= pieces[0][0] < stop:
            _join(tmp, pieces)
    engine.barrier()
    if engine.is_main:
        for pieces in parts:
            _refuse_missing(tmp / _name(pieces[0][0], pieces[-1][1]))
        with pa.OSFile(os.fspath(tmp / TABLE), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(table)
        if pca:
            _write(tmp / PCA_FILE, pca.tensors())
        dtype = next(name for name, dtype in DTYPES.items() if dtype == features_SD.dtype)
        write_json(tmp / INFO, {"format": FORMAT, "version": VERSION, "dtype": dtype, **info})
        if folder.exists():
            old = tmp.with_name(f"{tmp.name}.old")
            folder.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        tmp.rename(folder)
    engine.barrier()


def _pieces(slices: Sequence[tuple[int, int]], num_rows: int) -> list[list[tuple[int, int]]]:
    """Return, for each part, the rows that each rank has of it."""
    parts = [(first, min(first + PART_ROWS, num_rows)) for first in range(0, num_rows, PART_ROWS)]
    return [
        [(max(first, start), min(last, stop)) for start, stop in slices if max(first, start) < min(last, stop)]
        for first, last in parts
    ]


def _name(first: int, stop: int) -> str:
    return f"features-{first}-{stop}.safetensors"


def _write_rows(folder: Path, first: int, stop: int, rows_ND: Tensor) -> None:
    _write(folder / _name(first, stop), {"features": rows_ND.contiguous()})


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        path.write_bytes(save(tensors))
    except OSError as error:  # a full disk, whose error has no path
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def _join(folder: Path, pieces: Sequence[tuple[int, int]]) -> None:
    """Join the rows that several ranks have of a part."""
    paths = [folder / _name(*piece) for piece in pieces]
    for path in paths:
        _refuse_missing(path)
    rows_ND = torch.cat([load_file(path)["features"] for path in paths])
    _write_rows(folder, pieces[0][0], pieces[-1][1], rows_ND)
    for path in paths:
        path.unlink()


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"{path.parent}: {path.name} of another process is missing: the folder must be shared by all processes"
        )
