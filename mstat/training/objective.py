"""The objective of a run: the steps in which re-identification and pretraining differ.

`mstat.training.train.train` calls its methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from mstat.config import Config
from mstat.distributed.engine import Engine
from mstat.evaluation.evaluate import evaluate_run, score
from mstat.evaluation.trial import Trial
from mstat.model import MSTAT, Embedding
from mstat.report.html import write_report
from mstat.report.scores import short
from mstat.training.task import Task, TrainedModule
from mstat.weights.export import export
from shards.read import Reader

Weights = Mapping[str, torch.Tensor]


class Objective(Protocol):
    """A training objective. Every rank calls `check`, `score` and `evaluate`.

    Attributes:
        main_scores: Names of scores; the first that is not null selects the best step (`train.keep_best`).
    """

    main_scores: tuple[str, ...]

    def task(self, config: Config, num_classes: int) -> TrainedModule:
        """Return the module to train; its `model` is scored."""

    def check(self, engine: Engine, reader: Reader, config: Config) -> None:
        """Raise UserError if the run could not be scored at its end."""

    def score(self, engine: Engine, model: Any, reader: Reader, config: Config) -> tuple[dict[str, Any], str]:
        """Return scores during training for evaluations.jsonl, and a line to print."""

    def evaluate(self, engine: Engine, model: Any, reader: Reader, config: Config) -> dict[str, Any]:
        """Score the trained model: write evaluation.json, print a table, return the content."""

    def export(self, run: Path, weights: Weights, config: Config) -> None:
        """Write model.safetensors and model.json from the task's weights."""

    def report(self, run: Path, reader: Reader) -> str:
        """Write the report; return the last line to print."""

    def facts(self, config: Config) -> dict[str, Any]:
        """Return facts that must not change when a run resumes, in addition to those of `train.run_facts`."""


class ReIdentification:
    """MSTAT with its losses, scored by the protocol of the data set."""

    main_scores: tuple[str, ...] = ("mAP", "rank1")

    def task(self, config: Config, num_classes: int) -> TrainedModule:
        return Task(config, num_classes)

    def check(self, engine: Engine, reader: Reader, config: Config) -> None:
        Trial(engine, reader, config)

    def score(self, engine: Engine, model: MSTAT, reader: Reader, config: Config) -> tuple[dict[str, Any], str]:
        scores = score(engine, model, reader, config).evaluation
        return scores, short(scores)

    def evaluate(self, engine: Engine, model: MSTAT, reader: Reader, config: Config) -> dict[str, Any]:
        return evaluate_run(engine, model, reader, config)

    def export(self, run: Path, weights: Weights, config: Config) -> None:
        export(run, weights, config.model, Embedding(config.eval.feature, config.eval.stage_norm))

    def report(self, run: Path, reader: Reader) -> str:
        return f"report: {write_report(run, reader)}"

    def facts(self, config: Config) -> dict[str, Any]:
        return {"pretrain": None}
