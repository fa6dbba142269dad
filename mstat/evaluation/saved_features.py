"""Features on disk, with the labels that their scores need: those that an evaluation compared, or those of a whole set.

FOLDER/features-<first>-<stop>.safetensors   `features`: rows first to stop, (rows, D) fp32 or fp16
FOLDER/tracklets.arrow                       a row for each tracklet, see SCHEMA
FOLDER/features.json                         data set, protocol, settings, dims of the stages
FOLDER/pca.safetensors                       the projection, if the features are projected (`mstat.evaluation.pca`)

The rows of an evaluation are the gallery, followed by the queries that the gallery lacks; those of `launch/embed.py`
are all tracklets of the set.

`mstat.evaluation.feature_writer` writes them. Shape suffixes: N tracklets, B clips, D feature.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.pca import FILE as PCA_FILE
from mstat.evaluation.pca import Pca
from mstat.files import read_json
from shards.guarded import open_regular
from shards.index_checks import read_stream
from shards.records import DataError

FOLDER = "features"  # beside evaluation.json
FORMAT, VERSION = "mstat-features", 1
INFO, TABLE = "features.json", "tracklets.arrow"
AGAIN = "evaluate or embed again"
DTYPES = {"float32": torch.float32, "float16": torch.float16}
PART = re.compile(r"features-(\d{1,12})-(\d{1,12})\.safetensors")
SCHEMA = pa.schema(
    {
        "index": pa.int64(),  # in the data set; a query and a gallery item of one index are one tracklet
        "key": pa.string(),
        "pid": pa.int64(),
        "camid": pa.int64(),
        "outfit": pa.int64(),  # -1: not labelled
        "num_frames": pa.int64(),
        "query": pa.bool_(),  # none is, if the features have no protocol
        "gallery": pa.bool_(),
        "junk": pa.bool_(),  # in the gallery, but ignored for every query
    }
)


@dataclass(frozen=True)
class SavedFeatures:
    """Features on disk, and their labels; the result of `load_features`.

    Attributes:
        features_ND: (N, D) in the stored type, fp32 or fp16. A single part is mapped from the file, not read.
        table: Labels of the N tracklets, an Arrow table with the columns of `SCHEMA`.
        info: Content of features.json: data set, protocol, split, `ignore`, settings of the evaluation, dims of the
            stages. Protocol, split and `ignore` are None if the features have no protocol.
        pca: Projection of the features; None if they are not projected.
    """

    features_ND: Tensor
    table: pa.Table
    info: Mapping[str, Any]
    pca: Pca | None = None

    def project(self, features_BD: Tensor) -> Tensor:
        """Return features of `model.embed`, (B, D) on the CPU, as they are comparable with `features_ND`."""
        return self.pca.project(features_BD) if self.pca else features_BD

    def arguments(self) -> dict[str, Any]:
        """Return all arguments of `mstat.metrics.cmc_map`.

        With the features of an evaluation, its scores equal those of the evaluation, bitwise on a CPU.
        `cmc_map_from_distances` takes them without `query_features` and `gallery_features`.

        Raises:
            UserError: If the features have no protocol.
        """
        if self.info["ignore"] is None:
            raise UserError(
                "these features have no protocol, so no queries and no gallery: give mstat.metrics.cmc_map rows of "
                "features_ND with your own labels"
            )
        query, gallery, labels = sides(self.table)
        settings = self.info.get("eval")
        return {
            **labels,
            "query_features": _rows(self.features_ND, query),
            "gallery_features": _rows(self.features_ND, gallery),
            "ignore": self.info["ignore"],
            "no_positive": (settings.get("no_positive") if isinstance(settings, dict) else None) or "skip",
        }


def sides(table: pa.Table) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return the rows of the queries and of the gallery, and the arguments of `make_pairs`, except `ignore`."""
    columns = {name: table[name].to_numpy() for name in SCHEMA.names if name != "key"}
    query, gallery = np.flatnonzero(columns["query"]), np.flatnonzero(columns["gallery"])
    _, copy_of_query, copy_in_gallery = np.intersect1d(
        columns["index"][query], columns["index"][gallery], return_indices=True
    )
    labels = {
        "query_pids": columns["pid"][query],
        "query_camids": columns["camid"][query],
        "gallery_pids": columns["pid"][gallery],
        "gallery_camids": columns["camid"][gallery],
        "junk": columns["junk"][gallery],
        "same": np.stack([copy_of_query, copy_in_gallery], axis=1),
        "query_outfits": columns["outfit"][query],
        "gallery_outfits": columns["outfit"][gallery],
    }
    return query, gallery, labels


def _rows(features_ND: Tensor, places: np.ndarray) -> Tensor:
    """Return rows of the features; a view if they are the first ones, as the gallery of an evaluation."""
    is_start = bool((places == np.arange(len(places))).all())
    return features_ND[: len(places)] if is_start else features_ND[torch.from_numpy(places)]


def load_features(folder: str | os.PathLike[str]) -> SavedFeatures:
    """Read the features that an evaluation with `--eval.features true`, or `launch/embed.py`, wrote.

    Args:
        folder: RUN/features, RUN/evaluations/<name>/features, or the --out of `launch/embed.py`.

    Raises:
        UserError: If a file is missing, damaged or does not fit the others.
    """
    folder = Path(folder)
    if not (folder / INFO).is_file():
        raise UserError(
            f"{folder}: no {INFO} in it: launch/evaluate.py --eval.features true writes RUN/{FOLDER}, launch/embed.py "
            "its --out"
        )
    info = read_json(folder / INFO)
    dtype = DTYPES.get(str(info.get("dtype", "float32")))
    is_readable = dtype and (info.get("format"), info.get("version")) == (FORMAT, VERSION)
    if not is_readable or not isinstance(info.get("ignore", ""), str | None) or "ignore" not in info:
        raise UserError(f"{folder / INFO}: not a description of features that this version reads")
    try:
        with os.fdopen(open_regular(folder / TABLE), "rb") as file:
            table = read_stream(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)), SCHEMA)
    except (OSError, pa.ArrowException, ValueError, DataError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / TABLE}: cannot be read ({reason}): {AGAIN}") from None
    if any(column.null_count for column in table.columns):
        raise UserError(f"{folder / TABLE}: it lacks labels: {AGAIN}")
    features_ND = _read_parts(folder, len(table))
    if features_ND.dtype != dtype:
        raise UserError(f"{folder}: its features are {features_ND.dtype}, not {dtype} as in {INFO}: {AGAIN}")
    return SavedFeatures(features_ND, table, info, _read_pca(folder, features_ND) if info.get("pca") else None)


def _read_parts(folder: Path, num_rows: int) -> Tensor:
    matches = [match for path in folder.iterdir() if (match := PART.fullmatch(path.name))]
    parts = sorted((int(match[1]), int(match[2]), folder / match[0]) for match in matches)
    features_ND: Tensor | None = None
    end = 0
    for first, stop, path in parts:
        if first != end or stop <= first:
            break
        part_ND = _read(path)
        if part_ND.ndim != 2 or part_ND.dtype not in DTYPES.values() or len(part_ND) != stop - first:
            raise UserError(
                f"{path}: holds {tuple(part_ND.shape)} {part_ND.dtype}, not {stop - first} rows of fp32 or fp16"
            )
        if (first, stop) == (0, num_rows):
            return part_ND
        if features_ND is None:
            features_ND = part_ND.new_empty(num_rows, part_ND.shape[1])
        if stop > num_rows or (part_ND.shape[1], part_ND.dtype) != (features_ND.shape[1], features_ND.dtype):
            raise UserError(f"{path}: does not fit {TABLE} and the other parts: {AGAIN}")
        features_ND[first:stop] = part_ND
        end = stop
    if features_ND is None or end != num_rows:
        raise UserError(f"{folder}: the features of rows {end} to {num_rows} are missing: {AGAIN}")
    return features_ND


def _read_pca(folder: Path, features_ND: Tensor) -> Pca:
    path = folder / PCA_FILE
    pca = Pca(_read(path, "mean"), _read(path, "components"))
    shape = (*pca.mean_D.shape, features_ND.shape[1])
    if (
        pca.mean_D.ndim != 1
        or pca.components_DK.shape != shape
        or any(tensor.dtype != torch.float32 for tensor in pca.tensors().values())
    ):
        raise UserError(f"{path}: does not fit the features: {AGAIN}")
    return pca


def _read(path: Path, name: str = "features") -> Tensor:
    try:
        os.close(open_regular(path))
        with safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
    except (OSError, SafetensorError, ValueError, DataError) as error:
        raise UserError(f"{path}: cannot be read ({error}): {AGAIN}") from None
    return tensor
