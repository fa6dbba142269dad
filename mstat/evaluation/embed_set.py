"""Embed all tracklets of a data set, whatever their roles, and write the features; no labels are needed.

Where a protocol of the set has queries, the features are scored in each form: as extracted, in half precision,
projected. Legend: N features, S of this rank, D feature, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from mstat.config import Config, changed
from mstat.console import console, print_line
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.evaluate import refuse_trained
from mstat.evaluation.extraction import Extraction
from mstat.evaluation.feature_rows import weights_digest
from mstat.evaluation.feature_writer import label_table, save_features
from mstat.evaluation.matches import make_pairs
from mstat.evaluation.metrics import score
from mstat.evaluation.pca import learn
from mstat.evaluation.ranking import rank_positives
from mstat.evaluation.saved_features import sides
from mstat.model import MSTAT, join_stages
from mstat.model.mstat import feature_dims
from mstat.report.progress import Count
from mstat.report.scores import HEADINGS, percent
from mstat.report.tables import Row, Table
from mstat.runs.scored_set import dataset, deciding, intact
from shards.read import Reader
from shards.records import Protocol, Role

COLUMNS = ("mAP", "rank1")


class Form(NamedTuple):
    """Form of the features on disk: number type, and number of principal components (None: as extracted)."""

    dtype: Literal["float32", "float16"] = "float32"
    dims: int | None = None


def check(reader: Reader, config: Config, form: Form) -> None:
    """Refuse, before a model is loaded, what cannot be embedded.

    Raises:
        UserError: If the set has no tracklets, too few for the principal components, or frames would be degraded.
    """
    if not len(reader):
        raise UserError(f"{config.data.shards}: holds no tracklets")
    if config.eval != intact(config.eval):
        raise UserError(
            "eval.occlusion and eval.resolution degrade frames, but features are those of intact frames: set "
            "--eval.occlusion 0 and --eval.resolution null"
        )
    most = min(sum(feature_dims(config.model)), len(reader) - 1)
    if form.dims is not None and not 1 <= form.dims <= most:
        raise UserError(
            f"--dims {form.dims}: {len(reader):,} tracklets with features of {sum(feature_dims(config.model)):,} dims "
            f"have 1 to {most:,} principal components"
        )


def embed_set(engine: Engine, model: MSTAT, reader: Reader, config: Config, form: Form, out: Path) -> None:
    """Write the features of all tracklets to `out`, and print scores where labels allow. Every rank calls it.

    Finished rows are kept beside `out` until it is whole, and a stopped command goes on from them.

    Raises:
        UserError: As `check`, if `out` exists and does not hold features, or if features are not finite.
        OSError: If the disk is full.
    """
    config = changed(config, {"model": model.config})
    check(reader, config, form)
    protocol = reader.protocol(config.data.protocol)
    split = config.data.split or protocol.splits[0]
    config = changed(config, {"data.protocol": protocol.name, "data.split": split})
    table = _labels(reader, config)
    has_queries = table["query"].to_numpy().any()
    extraction = Extraction(engine, reader, config, np.arange(len(reader)), read_once=True)
    extraction.work = out.with_name(f"{out.name}.unfinished")
    compared = partial(model.compared, feature=config.eval.feature)
    digest = weights_digest(model)
    parts = extraction.extract(compared, config.model.image_size, source=digest)
    features_SD = join_stages(parts, config.eval.stage_norm)
    _refuse_not_finite(engine, features_SD, "check the weights for inf or NaN")

    written_SD, forms, pca, kept = features_SD, {"float32": features_SD}, None, None
    if form.dims is not None:
        with Count("principal components", enabled=engine.is_main):
            pca, kept = learn(engine, features_SD, form.dims)
        written_SD = forms["principal components"] = pca.project(features_SD)
    if form.dtype == "float16":
        written_SD = written_SD.half()
        forms["principal components, float16" if pca else "float16"] = written_SD
        _refuse_not_finite(engine, written_SD, "they exceed 65,504, the range of float16: use --eval.stage_norm true")

    info = {
        "dataset": dataset(reader),
        "protocol": protocol.name if has_queries else None,
        "split": split if has_queries else None,
        "ignore": protocol.ignore if has_queries else None,
        "eval": deciding(config.eval),
        "dims": dict(zip(model.config.stages, (part.shape[1] for part in parts), strict=True)),
        "pca": None if pca is None else {"dims": form.dims, "variance": kept},
        "weights": digest,
    }
    try:
        save_features(out, extraction, table, written_SD, info, pca)
    except OSError as error:
        error.add_note("make room, and run the same command again")
        raise
    extraction.forget_unfinished()
    engine.barrier()

    result = _scored(extraction, table, protocol, forms)
    if engine.is_main:
        if isinstance(result, Table):
            console().print(result)
        else:
            print_line(f"no scores: {result}")
        print_line(f"features of {len(reader):,} tracklets: {out}")


def _refuse_not_finite(engine: Engine, features_SD: Tensor, advice: str) -> None:
    if not all(engine.gather_objects(bool(features_SD.isfinite().all()))):
        raise UserError(f"features are not finite: {advice}")


def _labels(reader: Reader, config: Config) -> pa.Table:
    """Return the labels of all tracklets, and their roles in the chosen protocol and split."""
    roles = reader.roles(config.data.protocol, config.data.split)
    in_gallery = (roles & Role.GALLERY) > 0
    flags = {"query": (roles & Role.QUERY) > 0, "gallery": in_gallery, "junk": in_gallery & ((roles & Role.JUNK) > 0)}
    if not (flags["query"].any() and in_gallery.any()):
        flags = dict.fromkeys(flags, np.zeros(len(roles), bool))
    return label_table(reader, np.arange(len(reader)), **flags)


def _scored(extraction: Extraction, table: pa.Table, protocol: Protocol, forms: Mapping[str, Tensor]) -> Table | str:
    """Return the scores of each form, or the reason why there are none."""
    engine, reader, config = extraction.engine, extraction.reader, extraction.config
    terms = f"protocol {protocol.name}, split {config.data.split} of {reader.name}"
    if not table["query"].to_numpy().any():
        return f"{terms} has no queries, or no gallery"
    try:
        refuse_trained(reader, Path(config.run), config.data)
    except UserError as error:
        return str(error)
    query, gallery, labels = sides(table)
    pairs = make_pairs(**labels, ignore=protocol.ignore)
    if not pairs.positives_2P.shape[1]:
        return f"no query of {terms} has a match in the gallery that counts"
    rows: list[Row] = []
    start, stop = extraction.bounds
    first, last = np.searchsorted(gallery, [start, stop])
    mine = torch.from_numpy(gallery[first:last] - start)
    here = (query >= start) & (query < stop)
    for name, features_SD in forms.items():
        query_QD = torch.zeros(len(query), features_SD.shape[1])
        query_QD[torch.from_numpy(here)] = features_SD[query[here] - start].float()
        query_QD = engine.sum(query_QD).to(engine.device)
        ranks_P = rank_positives(query_QD, features_SD[mine].float(), int(first), pairs, reduce=engine.sum)
        summary = score(pairs, ranks_P).summary(no_positive=config.eval.no_positive)
        if protocol.cmc_only:
            summary["mAP"] = None
        size = features_SD.shape[1] * features_SD.element_size()
        rows.append(Row(name, [f"{features_SD.shape[1]:,}", f"{size:,}", *(percent(summary[c]) for c in COLUMNS)]))
    caption = f"In percent, by {terms}. The last row is on disk."
    headings = ["features", "dims", "bytes a tracklet", *(HEADINGS[column] for column in COLUMNS)]
    return Table(headings, rows, "Scores of the features", caption)
