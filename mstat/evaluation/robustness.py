"""Robustness: scores of a trained run over the number of test frames, the occluded area and the resolution.

RUN/robustness.json   all scored points, and the three sweeps that were requested last
RUN/robustness.md     the same as a table; the report has a plot of it

For a data set other than the run's own, both are in RUN/evaluations/<name>/ (mstat/runs/scored_set.py).

One evaluation setting varies at a time; the others are the run's. A recorded point is not scored again unless the
weights, the data or its settings have changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import shards
from mstat.config import ALL_SPLITS, Config, EvalConfig
from mstat.config.cli import load_config
from mstat.console import print_line
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation import feature_rows
from mstat.evaluation.evaluate import refuse_trained, summarise
from mstat.evaluation.trial import Trial
from mstat.files import read_plain_json, write_json, write_text
from mstat.model import MSTAT, join_stages
from mstat.report.html import write_reports
from mstat.report.robustness import FILE, TITLES, table, value_label
from mstat.report.scores import HEADINGS, percent
from mstat.runs.scored_set import DECIDING, dataset, deciding, evaluation_folder, intact
from mstat.weights.export import load_model
from shards.read import Reader

FRAMES = [1, 2, 4, 8, 16, 32, 64]
OCCLUSION = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
RESOLUTION = [1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0]  # fractions of the model's height; the stored size is added
QUICK_FRAMES, QUICK_OCCLUSION, QUICK_RESOLUTION = [1, 2, 4], [0.0, 0.25, 0.5], [1 / 8, 1 / 2]  # to test that it runs


def sweeps(config: Config, quick: bool = False) -> dict[str, list[EvalConfig]]:
    """Return setting -> the evaluations that vary it.

    Numbers of frames need a mode that takes one clip of a tracklet: `sample`, unless the run has a mode of segments.
    """
    frames, occlusion, resolution = FRAMES, OCCLUSION, RESOLUTION
    base = intact(config.eval)
    if quick:
        frames, occlusion, resolution = QUICK_FRAMES, QUICK_OCCLUSION, QUICK_RESOLUTION
        base = dataclasses.replace(base, mode="sample", num_frames=2)
    one_clip = base if base.mode.startswith("segments") else dataclasses.replace(base, mode="sample")
    heights = sorted({max(1, round(part * config.model.image_size[0])) for part in resolution})
    return {
        "num_frames": [dataclasses.replace(one_clip, num_frames=number) for number in frames],
        "occlusion": [dataclasses.replace(base, occlusion=part) for part in occlusion],
        "resolution": [dataclasses.replace(base, resolution=height) for height in (*heights, None)],
    }


def study(config: Config, engine: Engine, quick: bool = False) -> dict[str, Any]:
    """Score missing points, write the files after each, and return the content of robustness.json.

    Every rank calls it.

    Raises:
        UserError: If the folder holds the runs of all splits, or the model was trained with tracklets to be scored.
    """
    run = Path(config.run)
    trained = load_config(run / "config.yaml").data
    if ALL_SPLITS in (trained.split, config.data.split):
        raise UserError(f"{run}: holds the runs of all splits; choose one with --run {run}/split-NAME")
    reader = shards.open(config.data.shards)
    refuse_trained(reader, run, config.data)
    model = engine.place(load_model(run))
    folder: Path = engine.from_main(evaluation_folder(run, reader, config.data) if engine.is_main else None)
    result = engine.from_main(_begun(folder, config, reader) if engine.is_main else None)
    points: list[dict[str, Any]] = result["points"]
    wanted = sweeps(config, quick)
    result["base"] = {**deciding(wanted["occlusion"][0]), "degrade": config.eval.degrade}
    missing: list[EvalConfig] = []
    for settings in (settings for sweep in wanted.values() for settings in sweep):
        if deciding(settings) not in [*(point["settings"] for point in points), *map(deciding, missing)]:
            missing.append(settings)
    result["sweeps"] = _shown(wanted, points)
    scorer = _Scorer(engine, model, reader, config, folder, result["weights"])
    for number, settings in enumerate(missing, 1):
        scores = scorer.score(settings)
        points.append({"settings": deciding(settings), "scores": scores})
        result["sweeps"] = _shown(wanted, points)
        if engine.is_main:
            text = f"mAP {percent(scores['mAP'])}, rank-1 {percent(scores['rank1'])}"
            print_line(f"point {number} of {len(missing)}: {_setting_text(settings)}: {text}")
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / FILE, result)
    if engine.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, result)
        write_text(folder / "robustness.md", table(result).markdown())
        report = write_reports(folder, run, reader)
        print_line(folder / "figures" / "robustness.svg")
        print_line(f"report: {report}")
    engine.barrier()
    return result


class _Scorer:
    """Scorer of points, which embeds an undegraded gallery once for all degraded queries."""

    def __init__(
        self, engine: Engine, model: MSTAT, reader: Reader, config: Config, folder: Path, weights: str
    ) -> None:
        self.engine, self.model, self.reader, self.config = engine, model, reader, config
        self.folder, self.weights = folder, weights
        self.gallery: tuple[EvalConfig, tuple[torch.Tensor, ...]] | None = None

    def score(self, settings: EvalConfig) -> dict[str, Any]:
        trial = Trial(self.engine, self.reader, dataclasses.replace(self.config, eval=settings))
        only_queries = 0 < trial.num_intact < len(trial.tracklets)
        of_gallery = intact(settings)
        known = self.gallery[1] if self.gallery and only_queries and self.gallery[0] == of_gallery else None
        compared = partial(self.model.compared, feature=settings.feature)
        trial.work = self.folder / feature_rows.FOLDER
        parts = trial.extract(compared, self.config.model.image_size, known, source=self.weights)
        if only_queries:
            self.gallery = of_gallery, parts
        scores, _ = trial.rank(join_stages(parts, settings.stage_norm))
        summary = summarise(trial, scores)
        trial.forget_unfinished()
        return {key: summary[key] for key in (*HEADINGS, "num_query", "num_valid_query", "num_gallery")}


def _begun(folder: Path, config: Config, reader: Reader) -> dict[str, Any]:
    """Return the content of robustness.json for this model and data, without points if there is none."""
    with (Path(config.run) / "model.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    protocol = reader.protocol(config.data.protocol)
    facts = {
        "weights": weights,
        "shards": reader.checksum,
        "protocol": protocol.name,
        "split": config.data.split or protocol.splits[0],
        "warnings": reader.warnings,
    }
    points = []
    try:
        before = read_plain_json(folder / FILE)
        if all(before[name] == fact for name, fact in facts.items()):
            # A setting that an earlier version lacked was not in effect.
            unset = dict.fromkeys(DECIDING)
            points = [{**point, "settings": {**unset, **point["settings"]}} for point in before["points"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no file, or one of another version: score everything
    return {"dataset": dataset(reader), **facts, "base": None, "sweeps": {}, "points": points}


def _setting_text(settings: EvalConfig) -> str:
    """Return each setting that a sweep varies, and the mode, which differs between sweeps."""
    varied = [f"{title} {value_label(name, getattr(settings, name))}" for name, title in TITLES.items()]
    return ", ".join([*varied, f"mode {settings.mode}"])


def _shown(wanted: Mapping[str, list[EvalConfig]], points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the sweeps, with the points that have been scored."""
    return {
        name: [
            {"value": getattr(settings, name), **point["scores"]}
            for settings in sweep
            for point in points
            if point["settings"] == deciding(settings)
        ]
        for name, sweep in wanted.items()
    }
