"""Scores of one run on several data sets, one after the other, and a table of all of them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import shards
from mstat.config import ALL_SPLITS, Config
from mstat.console import console
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.model import MSTAT
from mstat.report.scores import HEADINGS, score, warnings
from mstat.report.tables import Row, Table
from mstat.runs.scored_set import folder_name, is_trained_on
from mstat.training.splits import Planned, evaluate_planned, plan
from mstat.weights.export import load_model
from shards.read import Reader

COLUMNS = ("mAP", "rank1", "rank5", "mINP")


def evaluate_on_sets(
    configs: Sequence[Config], engine: Engine, checkpoint: str | None = None, out: Path | None = None
) -> None:
    """Score a run on the data set of each of `configs`, which differ in nothing else. Every rank calls it.

    All data sets are opened and checked before the model is loaded. If one fails later, the files of those before it
    stay, and the error has a note on how to go on.

    Args:
        checkpoint: Checkpoint of the run; None scores the trained model.
        out: Folder for the files, with several data sets OUT/<name of the set>. None is the run folder.

    Raises:
        UserError: If a data set is given twice, lacks the protocol or split, has nothing to score, or trained the run.
        DataError: If a data set cannot be opened or a frame is damaged.
    """
    if len(configs) > 1:
        readers = [shards.open(config.data.shards) for config in configs]
        _refuse_twice(configs, readers)
        _refuse_missing(configs, readers)
    planned = [plan(config, engine, checkpoint) for config in configs]
    names = set_names([one.reader for one in planned])

    @lru_cache(maxsize=1)  # the runs of all splits are too large to keep
    def load(source: Path) -> MSTAT:
        return engine.place(load_model(source))

    evaluations: list[dict[str, Any]] = []
    for one, name in zip(planned, names, strict=True):
        folder = out / folder_name(name) if out and len(planned) > 1 else out
        try:
            evaluations.append(evaluate_planned(one, engine, load, folder))
        except Exception as error:
            if len(planned) > 1:
                error.add_note(_way_on(planned, names, len(evaluations)))
            raise
    if engine.is_main and len(planned) > 1:
        console().print(summary(planned, names, evaluations))


def set_names(readers: Sequence[Reader]) -> list[str]:
    """Return the names of data sets, with the start of the checksum where two have the same name."""
    same = Counter(folder_name(reader.name) for reader in readers)
    return [
        f"{reader.name} {reader.checksum[:8]}" if same[folder_name(reader.name)] > 1 else reader.name
        for reader in readers
    ]


def summary(planned: Sequence[Planned], names: Sequence[str], evaluations: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each data set; those that the run was trained on are marked."""
    rows, remarks = [], []
    for one, name, evaluation in zip(planned, names, evaluations, strict=True):
        is_own = is_trained_on(Path(one.config.run), one.reader, one.config.data)
        cells = [
            evaluation["protocol"],
            evaluation["split"],
            *(score(evaluation, column) for column in COLUMNS),
            f"{evaluation['num_valid_query']:,} of {evaluation['num_query']:,}",
        ]
        rows.append(Row(f"{name} (own)" if is_own else name, cells, "strong" if is_own else ""))
        remarks += [f"{name}: {warning}" for warning in warnings(evaluation)]
    headings = ["data set", "protocol", "split", *(HEADINGS[column] for column in COLUMNS), "valid queries"]
    caption = "In percent, with the features of all stages. Own: the data set that the run was trained on."
    return Table(headings, rows, f"{planned[0].config.run} on {len(rows)} data sets", caption, remarks, "lllrrrrr")


def _refuse_twice(configs: Sequence[Config], readers: Sequence[Reader]) -> None:
    first: dict[str, str] = {}
    for config, reader in zip(configs, readers, strict=True):
        place = config.data.shards
        if before := first.get(reader.checksum):
            again = "given twice" if before == place else f"the same data set as {before} (checksum)"
            raise UserError(f"--data.shards: {place} is {again}: give each data set once")
        first[reader.checksum] = place


def _refuse_missing(configs: Sequence[Config], readers: Sequence[Reader]) -> None:
    """Refuse a protocol or split that some of the data sets lack, naming all of these."""
    lacking = []
    for data, reader in zip((config.data for config in configs), readers, strict=True):
        protocols = [protocol.name for protocol in reader.protocols]
        if data.protocol not in (None, *protocols):
            lacking.append(f"{data.shards} has no protocol {data.protocol!r} (it has {', '.join(protocols)})")
        elif data.split not in (None, ALL_SPLITS, *(splits := reader.protocol(data.protocol).splits)):
            lacking.append(f"{data.shards} has no split {data.split!r} (it has {', '.join(splits)})")
    if lacking:
        raise UserError(
            f"{'; '.join(lacking)}: --data.protocol and --data.split, also those of the run's config.yaml, apply to "
            "all data sets of a command: score these with a command of their own"
        )


def _way_on(planned: Sequence[Planned], names: Sequence[str], num_done: int) -> str:
    """Return a note on what is scored after an error, and how to go on."""
    done = f"the scores on {', '.join(names[:num_done])} are kept" if num_done else "no data set is scored yet"
    missing = shlex.join(one.config.data.shards for one in planned[num_done:])
    return (
        f"{done}; {names[num_done]} failed, and these are not scored: {', '.join(names[num_done:])}: mend the cause "
        f"and go on with --data.shards {missing}, or leave {names[num_done]} out"
    )
