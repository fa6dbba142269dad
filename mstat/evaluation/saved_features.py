"""Features on disk, as they were compared, with all labels that their scores need.

FOLDER/features-<first>-<stop>.safetensors   `features`: rows first to stop, (rows, D) fp32; a part for each rank
FOLDER/tracklets.arrow                       a row for each tracklet, see SCHEMA
FOLDER/features.json                         data set, protocol, settings, dims of the stages

Rows are the gallery, followed by the queries that the gallery lacks. The folder gets its name when it is whole.

Shape suffixes: N tracklets, S of this rank, D feature.
"""

from __future__ import annotations

import mmap
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.feature_rows import write_rows
from mstat.files import read_json, write_json
from shards.guarded import open_regular
from shards.index_checks import read_stream
from shards.records import DataError, Role

if TYPE_CHECKING:
    from mstat.evaluation.trial import Trial

FOLDER = "features"  # beside evaluation.json
FORMAT, VERSION = "mstat-features", 1
INFO, TABLE = "features.json", "tracklets.arrow"
PART = re.compile(r"features-(\d{1,12})-(\d{1,12})\.safetensors")
SCHEMA = pa.schema(
    {
        "index": pa.int64(),  # in the data set; a query and a gallery item of one index are one tracklet
        "key": pa.string(),
        "pid": pa.int64(),
        "camid": pa.int64(),
        "outfit": pa.int64(),  # -1: not labelled
        "num_frames": pa.int64(),
        "query": pa.bool_(),
        "gallery": pa.bool_(),
        "junk": pa.bool_(),  # in the gallery, but ignored for every query
    }
)


def save_features(folder: Path, trial: Trial, features_SD: Tensor, info: Mapping[str, Any]) -> None:
    """Write the features of all ranks to `folder`, and replace an earlier one. Every rank calls it.

    Args:
        features_SD: Compared features of this rank's rows.
        info: Further entries of features.json.

    Raises:
        UserError: If `folder` is a link or holds other files, or the ranks do not share it.
        OSError: If the disk is full.
    """
    engine, (start, stop) = trial.engine, trial.bounds
    unique = f"{folder.name}.{platform.node()}.{os.getpid()}"
    tmp = folder.with_name(engine.from_main(f".{unique}"))  # another evaluation may write here at the same time
    try:
        if engine.is_main:
            check_free(folder)
            tmp.mkdir(parents=True)
        engine.barrier()
        if stop > start:
            tmp.mkdir(parents=True, exist_ok=True)  # on another host's own disk; rank 0 misses the part
            write_rows(tmp / f"features-{start}-{stop}.safetensors", features_SD)
        engine.barrier()
        if engine.is_main:
            parts = [f"features-{a}-{b}.safetensors" for a, b in trial.slices if b > a]
            if missing := [name for name in parts if not (tmp / name).is_file()]:
                raise UserError(f"{tmp}: {missing[0]} of another process is missing: all must share the run folder")
            _write_table(tmp / TABLE, trial)
            write_json(tmp / INFO, {"format": FORMAT, "version": VERSION, **info})
            if folder.exists():
                old = tmp.with_name(f"{tmp.name}.old")
                folder.rename(old)
                shutil.rmtree(old, ignore_errors=True)
            tmp.rename(folder)
        engine.barrier()
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise


def check_free(folder: Path) -> None:
    """Raise UserError if features cannot be written to `folder`, because it is a link or holds other files."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else set()
    others = {name for name in names - {INFO, TABLE} if not PART.fullmatch(name)}
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or others or (names and INFO not in names):
        raise UserError(f"{folder}: exists, and holds more than features, or is a link: move it away")


def _write_table(path: Path, trial: Trial) -> None:
    reader, tracklets, count = trial.reader, trial.tracklets, len(trial.tracklets)
    roles = reader.roles(trial.config.data.protocol, trial.config.data.split)[tracklets]
    in_gallery = np.arange(count) < trial.num_gallery
    is_query = np.zeros(count, bool)
    is_query[trial.queries] = True
    columns = {
        "index": tracklets.astype(np.int64),
        "key": reader.keys(tracklets),
        "pid": reader.pids[tracklets],
        "camid": reader.camids[tracklets],
        "outfit": reader.outfits[tracklets],
        "num_frames": reader.num_frames[tracklets],
        "query": is_query,
        "gallery": in_gallery,
        "junk": in_gallery & ((roles & Role.JUNK) > 0),
    }
    table = pa.table(columns, schema=SCHEMA)
    with pa.OSFile(os.fspath(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)


@dataclass(frozen=True)
class SavedFeatures:
    """Features that an evaluation compared, and their labels; the result of `load_features`.

    Attributes:
        features_ND: (N, D) fp32. Those of a single process are mapped from the file, not read.
        table: Labels of the N tracklets, an Arrow table with the columns of `SCHEMA`.
        info: Content of features.json: data set, protocol, split, `ignore`, settings of the evaluation, dims of the
            stages.
    """

    features_ND: Tensor
    table: pa.Table
    info: Mapping[str, Any]

    def arguments(self) -> dict[str, Any]:
        """Return all arguments of `mstat.metrics.cmc_map`: its scores equal those of the evaluation, bitwise on a CPU.

        `cmc_map_from_distances` takes them without `query_features` and `gallery_features`.
        """
        columns = {name: self.table[name].to_numpy() for name in SCHEMA.names if name != "key"}
        query, gallery = np.flatnonzero(columns["query"]), np.flatnonzero(columns["gallery"])
        _, copy_of_query, copy_in_gallery = np.intersect1d(
            columns["index"][query], columns["index"][gallery], return_indices=True
        )
        settings = self.info.get("eval")
        return {
            "query_features": self.features_ND[torch.from_numpy(query)],
            "query_pids": columns["pid"][query],
            "query_camids": columns["camid"][query],
            "gallery_features": self.features_ND[: len(gallery)],
            "gallery_pids": columns["pid"][gallery],
            "gallery_camids": columns["camid"][gallery],
            "junk": columns["junk"][gallery],
            "same": np.stack([copy_of_query, copy_in_gallery], axis=1),
            "query_outfits": columns["outfit"][query],
            "gallery_outfits": columns["outfit"][gallery],
            "ignore": self.info["ignore"],
            "no_positive": (settings.get("no_positive") if isinstance(settings, dict) else None) or "skip",
        }


def load_features(folder: str | os.PathLike[str]) -> SavedFeatures:
    """Read the features that an evaluation with `--eval.features true` wrote.

    Args:
        folder: RUN/features, or RUN/evaluations/<name>/features.

    Raises:
        UserError: If a file is missing, damaged or does not fit the others.
    """
    folder = Path(folder)
    if not (folder / INFO).is_file():
        raise UserError(f"{folder}: no {INFO} in it: launch/evaluate.py --eval.features true writes RUN/{FOLDER}")
    info = read_json(folder / INFO)
    if (info.get("format"), info.get("version")) != (FORMAT, VERSION) or not isinstance(info.get("ignore"), str):
        raise UserError(f"{folder / INFO}: not a description of features that this version reads")
    try:
        with os.fdopen(open_regular(folder / TABLE), "rb") as file:
            table = read_stream(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), SCHEMA)
    except (OSError, pa.ArrowException, ValueError, DataError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / TABLE}: cannot be read ({reason}): evaluate the run again") from None
    num_gallery = int(np.count_nonzero(table["gallery"].to_numpy()))
    if any(column.null_count for column in table.columns) or not table["gallery"].to_numpy()[:num_gallery].all():
        raise UserError(f"{folder / TABLE}: its rows are not the gallery followed by queries: evaluate the run again")
    return SavedFeatures(_read_parts(folder, len(table)), table, info)


def _read_parts(folder: Path, num_rows: int) -> Tensor:
    matches = [match for path in folder.iterdir() if (match := PART.fullmatch(path.name))]
    parts = sorted((int(match[1]), int(match[2]), folder / match[0]) for match in matches)
    features_ND: Tensor | None = None
    end = 0
    for first, stop, path in parts:
        if first != end or stop <= first:
            break
        try:
            os.close(open_regular(path))
            with safe_open(path, "pt") as file:
                part_ND: Tensor = file.get_tensor("features")
        except (OSError, SafetensorError, ValueError, DataError) as error:
            raise UserError(f"{path}: cannot be read ({error}): evaluate the run again") from None
        if part_ND.ndim != 2 or part_ND.dtype != torch.float32 or len(part_ND) != stop - first:
            raise UserError(f"{path}: holds {tuple(part_ND.shape)} {part_ND.dtype}, not {stop - first} rows of fp32")
        if (first, stop) == (0, num_rows):
            return part_ND
        if features_ND is None:
            features_ND = part_ND.new_empty(num_rows, part_ND.shape[1])
        if stop > num_rows or part_ND.shape[1] != features_ND.shape[1]:
            raise UserError(f"{path}: does not fit {TABLE} and the other parts: evaluate the run again")
        features_ND[first:stop] = part_ND
        end = stop
    if features_ND is None or end != num_rows:
        raise UserError(f"{folder}: the features of rows {end} to {num_rows} are missing: evaluate the run again")
    return features_ND
