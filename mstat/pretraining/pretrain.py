"""Pretraining: train a TimeSformer on clips of actions, and score it on held-out clips.

The loop is that of mstat/training/train.py, the model that of mstat/pretraining/timesformer.py. `--model.init` accepts
RUN/model.safetensors.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import shards
from mstat.config import Config, DataConfig
from mstat.console import console
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.extraction import Extraction
from mstat.files import write_json
from mstat.model.stem import patch_grid
from mstat.pretraining.task import ActionTask
from mstat.pretraining.timesformer import Classifier
from mstat.report.scores import percent
from mstat.report.tables import Part, Row, Table
from mstat.runs.scored_set import dataset
from mstat.training.task import TrainedModule
from mstat.training.train import train, training_sampler
from mstat.weights.export import export_classifier
from shards.read import Reader
from shards.records import Role

SHOWN = 20  # classes in the table, those of lowest accuracy


class HeldOut(NamedTuple):
    """Clips of a protocol that are scored, not trained on.

    Attributes:
        tracklets: Indices in the data set.
        labels: Class of each clip, as the classifier numbers classes.
        classes: Names of all classes, in that order.
    """

    tracklets: np.ndarray
    labels: np.ndarray
    classes: list[str]


def pretrain(config: Config, engine: Engine) -> dict[str, Any] | None:
    """Train and score a classifier of actions, from its newest checkpoint if it has one. Every rank calls it.

    It returns and raises the same as `mstat.training.train.train`, and UserError if settings do not fit pretraining.
    """
    check_settings(config)
    return train(config, engine, ActionRecognition())


def check_settings(config: Config) -> None:
    """Raise UserError for settings that are valid for re-identification, but not for pretraining."""
    if config.train.steps is None:
        raise UserError("train.steps is null: set it, since an epoch of P x K batches covers classes, not clips")
    if config.eval.num_frames != config.clip.num_frames:
        raise UserError(
            f"eval.num_frames is {config.eval.num_frames} and clip.num_frames is {config.clip.num_frames}: make them "
            "equal, since the model has a temporal position for each frame of a clip"
        )
    rows, columns = patch_grid(config.model)
    if rows != columns and math.isqrt(rows * columns) ** 2 == rows * columns:
        raise UserError(
            f"model.image_size makes {rows} x {columns} patches, which --model.init would mistake for a square grid; "
            "pretrain on square frames, which can be resized to any grid"
        )


def held_out(reader: Reader, config: DataConfig) -> HeldOut:
    """Return the clips to score. Raises UserError if there are none, or if a class has no training clips."""
    roles = reader.roles(config.protocol, config.split)
    tracklets = np.flatnonzero(roles & Role.GALLERY)
    if not len(tracklets):
        raise UserError(f"{config.shards}: no held-out clips in this protocol; train.eval_every null needs none")
    trained = np.unique(reader.pids[(roles & Role.TRAIN) > 0])
    pids = reader.pids[tracklets]
    if untrained := len(np.setdiff1d(pids, trained)):
        raise UserError(
            f"{config.shards}: {untrained} of the {len(np.unique(pids))} held-out classes are not in training; "
            "pretraining needs clips of actions, as `python -m shards build actions` makes them"
        )
    return HeldOut(tracklets, np.searchsorted(trained, pids), class_names(reader, trained))


def class_names(reader: Reader, pids: Sequence[int] | np.ndarray) -> list[str]:
    """Return the names of these classes as recorded in the shards, or their numbers if no names are recorded."""
    noted = re.split(r", (?=\d+ )", reader.facts["classes"]) if "classes" in reader.facts else []
    names = dict(entry.split(" ", 1) for entry in noted)
    return [names.get(str(pid), str(pid)) for pid in pids]


def accuracy(engine: Engine, model: Classifier, reader: Reader, config: Config) -> dict[str, Any]:
    """Return the accuracy on held-out clips, overall and per class; equal on any number of ranks.

    `accuracy` and `top5` (only with more than five classes) are fractions of the clips. For each class, `predicted`
    counts the predictions for its clips.
    """
    tracklets, labels, classes = held_out(reader, config.data)
    extraction = Extraction(engine, reader, config, tracklets)
    (scores_SC,) = extraction.extract(model, config.model.image_size)
    start, stop = extraction.bounds
    labels_L = torch.from_numpy(labels)
    places_L, guesses_L = torch.zeros(2, len(labels), dtype=torch.int64)
    if stop > start:
        right_S1 = scores_SC.gather(1, labels_L[start:stop, None])
        # Ties and NaN scores count against the right class.
        places_L[start:stop] = scores_SC.shape[1] - (scores_SC < right_S1).sum(1)
        guesses_L[start:stop] = scores_SC.argmax(1)
    places_L, guesses_L = engine.sum(places_L), engine.sum(guesses_L)

    def of_class(label: int) -> dict[str, Any]:
        chosen = labels_L == label
        counts = torch.bincount(guesses_L[chosen], minlength=len(classes))
        return {
            "num_clips": int(chosen.sum()),
            "accuracy": _share(places_L[chosen] == 1),
            "predicted": {classes[guess]: int(counts[guess]) for guess in counts.nonzero().flatten().tolist()},
        }

    protocol = reader.protocol(config.data.protocol)
    return {
        "dataset": dataset(reader),
        "protocol": protocol.name,
        "split": config.data.split or protocol.splits[0],
        "warnings": reader.warnings,
        "num_frames": config.eval.num_frames,
        "mode": config.eval.mode,
        "num_clips": len(labels),
        "num_classes": len(classes),
        "accuracy": _share(places_L == 1),
        **({"top5": _share(places_L <= 5)} if len(classes) > 5 else {}),
        "classes": {classes[label]: of_class(label) for label in np.unique(labels).tolist()},
    }


def _share(hits: torch.Tensor) -> float:
    return float(hits.double().mean())


def accuracy_table(result: Mapping[str, Any]) -> Table:
    """Return evaluation.json as a table in percent: the classes of lowest accuracy, and the total."""
    hardest = sorted(result["classes"].items(), key=lambda entry: entry[1]["accuracy"])[:SHOWN]
    rows: list[Row | Part] = []
    for name, of_class in hardest:
        wrong = sorted(((n, other) for other, n in of_class["predicted"].items() if other != name), reverse=True)[:2]
        confused_with = ", ".join(f"{other} {n}" for n, other in wrong)
        rows.append(Row(name, [f"{of_class['num_clips']:,}", percent(of_class["accuracy"]), confused_with]))
    if more := len(result["classes"]) - len(hardest):
        rows.append(Row(f"and {more:,} more", emphasis="faint"))
    rows += [Part(), Row("all", [f"{result['num_clips']:,}", percent(result["accuracy"])], "strong")]
    if "top5" in result:
        rows.append(Row("all, top-5", ["", percent(result["top5"])]))
    return Table(
        ["class", "clips", "accuracy", "confused with"],
        rows,
        title=f"Held-out clips of {result['protocol']}",
        caption=f"{result['num_clips']:,} clips of {result['num_classes']:,} classes. In percent.",
        align="lrrl",
    )


class ActionRecognition:
    """The objective of pretraining: a TimeSformer that recognises actions."""

    main_scores: tuple[str, ...] = ("accuracy",)

    def task(self, config: Config, num_classes: int) -> TrainedModule:
        return ActionTask(config, num_classes)

    def check(self, engine: Engine, reader: Reader, config: Config) -> None:
        held_out(reader, config.data)

    def score(self, engine: Engine, model: Classifier, reader: Reader, config: Config) -> tuple[dict[str, Any], str]:
        scores = accuracy(engine, model, reader, config)
        return scores, f"accuracy {percent(scores['accuracy'])}"

    def evaluate(self, engine: Engine, model: Classifier, reader: Reader, config: Config) -> dict[str, Any]:
        scores = accuracy(engine, model, reader, config)
        if engine.is_main:
            write_json(Path(config.run) / "evaluation.json", scores)
            console().print(accuracy_table(scores))
        engine.barrier()
        return scores

    def export(self, run: Path, weights: Mapping[str, torch.Tensor], config: Config) -> None:
        reader = shards.open(config.data.shards)
        export_classifier(run, weights, config, class_names(reader, training_sampler(reader, config).pids))

    def report(self, run: Path, reader: Reader) -> str:
        return f"to start from this model: launch/train.py --model.init {run / 'model.safetensors'}"

    def facts(self, config: Config) -> dict[str, Any]:
        return {"pretrain": dataclasses.asdict(config.pretrain)}
