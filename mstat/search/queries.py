"""Queries of a search: rows of the searched features, features of another set, or a data set that is embedded first.

Features are comparable only if the same weights made them under the same settings (`COMPARED`).

Shape suffixes: Q queries, B queries of a block, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mstat.config import Config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.extraction import Extraction
from mstat.evaluation.feature_writer import label_table
from mstat.evaluation.ranking import BLOCK
from mstat.evaluation.saved_features import SavedFeatures, load_features
from mstat.model import MSTAT, join_stages
from mstat.runs.scored_set import in_effect
from mstat.search.gallery import Gallery
from shards.read import Reader

# Settings of the evaluation that decide what a feature is. Seeds only draw other frames of the same tracklet.
COMPARED = ("num_frames", "mode", "stride", "flip", "stage_norm", "feature", "occlusion", "resolution")


class Block(NamedTuple):
    """A few queries: their labels, features (B, D) fp32, and rows in the gallery."""

    labels: list[dict[str, Any]]
    features_BD: Tensor
    rows: Sequence[int | None]


@dataclass(frozen=True)
class Queries:
    """Tracklets that are searched for.

    Attributes:
        features_QD: Their features; comparable with the gallery's once `project` has been applied.
        table: Their labels, with the columns index, key, pid and camid.
        rows: Row of each query in the gallery, None if it is not among its tracklets.
        projection: Features of the gallery whose projection the queries still need; None if they need none.
    """

    features_QD: Tensor
    table: pa.Table
    rows: Sequence[int | None]
    projection: SavedFeatures | None = None

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, Block]]:
        """Yield the number of the first query of each block, and the block."""
        for first in range(0, len(self.table), size):
            labels = self.table.slice(first, size).select(["index", "key", "pid", "camid"]).to_pylist()
            yield first, Block(labels, self.features(slice(first, first + size)), self.rows[first : first + size])

    def features(self, which: slice | Tensor) -> Tensor:
        """Return some features (B, D) fp32, comparable with the gallery's."""
        features_BD = self.features_QD[which].float()
        return features_BD if self.projection is None else self.projection.project(features_BD)


def from_keys(gallery: Gallery, keys: Sequence[str]) -> Queries:
    """Return tracklets of the gallery itself.

    Raises:
        UserError: If a key is not among the features.
    """
    rows = gallery.rows_of(keys)
    return Queries(gallery.saved.features_ND[rows], gallery.saved.table.take(pa.array(rows)), rows)


def from_features(gallery: Gallery, folder: Path) -> Queries:
    """Return the tracklets of other features on disk.

    Raises:
        UserError: If they are unreadable, or not comparable with the gallery's features.
    """
    saved, other = gallery.saved, load_features(folder)
    refuse_other_weights(saved, other.info.get("weights"), str(folder))
    ours, theirs = settings(saved.info), settings(other.info)
    for name in COMPARED:
        if ours[name] != theirs[name]:
            raise UserError(
                f"{folder}: embedded with eval.{name} {theirs[name]}, but the searched features with {ours[name]}: "
                "embed one of the sets again"
            )
    needs_projection = saved.pca is not None and other.pca is None
    if not needs_projection and not _are_equally_projected(saved, other):
        raise UserError(
            f"{folder}: its principal components are not those of the searched features: embed it without --dims; "
            "the search projects it"
        )
    dims = saved.pca.components_DK.shape[0] if needs_projection and saved.pca else saved.features_ND.shape[1]
    if other.features_ND.shape[1] != dims:
        raise UserError(f"{folder}: its features have {other.features_ND.shape[1]:,} dims, but {dims:,} are searched")
    rows = _rows_in(saved, other.info, other.table["index"].to_numpy())
    return Queries(other.features_ND, other.table, rows, saved if needs_projection else None)


def from_shards(engine: Engine, model: MSTAT, reader: Reader, config: Config, gallery: Gallery) -> Queries:
    """Embed all tracklets of a data set, in memory.

    Args:
        model: Model of the gallery's weights, on the device.
        config: Settings of the run with those of the features (`flags`).

    Raises:
        UserError: If the set has no tracklets.
    """
    if not len(reader):
        raise UserError(f"{config.data.shards}: holds no tracklets")
    extraction = Extraction(engine, reader, config, np.arange(len(reader)), read_once=True)
    compared = partial(model.compared, feature=config.eval.feature)
    parts = extraction.extract(compared, config.model.image_size, label="features of the queries")
    none = dict.fromkeys(("query", "gallery", "junk"), np.zeros(len(reader), bool))
    table = label_table(reader, np.arange(len(reader)), **none)
    rows = _rows_in(gallery.saved, {"dataset": {"checksum": reader.checksum}}, np.arange(len(reader)))
    return Queries(join_stages(parts, config.eval.stage_norm), table, rows, gallery.saved)


def refuse_other_weights(saved: SavedFeatures, digest: object, name: str) -> None:
    """Raise UserError if features, or a model, are not of the weights of the searched features."""
    own = saved.info.get("weights")
    if own is None or digest is None:
        raise UserError(
            f"{'the searched features' if own is None else name}: no digest of the weights is recorded, so features "
            "may not be comparable: embed the set again by launch/embed.py"
        )
    if own != digest:
        raise UserError(
            f"{name}: its weights have the digest {str(digest)[:12]}, those of the searched features {str(own)[:12]}: "
            "features of different weights are not comparable"
        )


def settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide what the features are."""
    recorded = info.get("eval")
    known = in_effect(recorded if isinstance(recorded, dict) else {})
    return {name: known.get(name) for name in COMPARED}


def flags(info: Mapping[str, Any]) -> list[str]:
    """Return these settings as flags of a command; frames of queries are not degraded."""
    chosen = {**settings(info), "occlusion": 0, "resolution": None}
    words = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in chosen.items()}
    return [word for name in COMPARED if chosen[name] is not None for word in (f"--eval.{name}", words[name])] + [
        "--eval.resolution",
        "null",
    ]


def _are_equally_projected(saved: SavedFeatures, other: SavedFeatures) -> bool:
    if saved.pca is None or other.pca is None:
        return saved.pca is other.pca
    ours, theirs = saved.pca.tensors(), other.pca.tensors()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def _rows_in(saved: SavedFeatures, info: Mapping[str, Any], index_Q: np.ndarray) -> list[int | None]:
    """Return the rows of tracklets of the gallery's own data set, by index; None for all others."""
    ours, theirs = checksum(saved.info), checksum(info)
    if ours is None or ours != theirs:
        return [None] * len(index_Q)
    place = {index: row for row, index in enumerate(saved.table["index"].to_pylist())}
    return [place.get(index) for index in index_Q.tolist()]


def checksum(info: Mapping[str, Any]) -> str | None:
    """Return the checksum of the data set of features; None if none is recorded."""
    named = info.get("dataset")
    value = named.get("checksum") if isinstance(named, dict) else None
    return value if isinstance(value, str) else None
