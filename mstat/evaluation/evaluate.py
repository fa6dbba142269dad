"""Evaluate a model under a protocol: scores per stage subset, distances, rankings, baselines.

`mstat.evaluation.trial` scores features on any number of processes. Legend: S tracklets of this rank,
D feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from mstat.config import Config, DataConfig, EvalConfig, ModelConfig
from mstat.config.cli import load_config, save_config
from mstat.console import console
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation import feature_rows, saved_features
from mstat.evaluation.baselines import hsv_histogram
from mstat.evaluation.companion_files import embedding, queries, rankings
from mstat.evaluation.feature_rows import weights_digest
from mstat.evaluation.feature_writer import refuse_other_content, save_features
from mstat.evaluation.intervals import intervals
from mstat.evaluation.metrics import MEANS, Scores
from mstat.evaluation.per_query import LENGTHS, MATCHES, by_number
from mstat.evaluation.trial import Trial
from mstat.files import why_not_writable, write_json
from mstat.model import MSTAT, join_stages
from mstat.report.progress import Count
from mstat.report.run_reader import Folder
from mstat.report.scores import score_tables
from mstat.runs.scored_set import (
    DEGRADATIONS,
    dataset,
    deciding,
    evaluation_folder,
    in_effect,
    intact,
    is_trained_on,
    trained_checksum,
)
from mstat.weights.pretrained import load_pretrained
from shards.read import Reader
from shards.records import Role
from shards.text import markup

HISTOGRAMS = {"HSV histogram": 1, "HSV histogram, 6 stripes": 6}


class Scored(NamedTuple):
    """Result of `score`, equal on every rank except for the features.

    Attributes:
        evaluation: Protocol, counts, and the scores of every subset of stages.
        dims: Length of each stage's feature, in the order in which they are joined.
        features_SD: Joined features of all stages, of this rank's tracklets.
        scores, nearest: Result of `Trial.rank` for these features.
    """

    trial: Trial
    evaluation: dict[str, Any]
    dims: dict[str, int]
    features_SD: torch.Tensor
    scores: Scores
    nearest: Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor]]


def score(engine: Engine, model: MSTAT, reader: Reader, config: Config, work: Path | None = None) -> Scored:
    """Score a model by the run's protocol.

    Args:
        work: Folder for finished rows of features, from which a stopped evaluation goes on; None keeps none.
    """
    trial = Trial(engine, reader, config)
    trial.work = work
    protocol = trial.protocol
    compared, source = partial(model.compared, feature=config.eval.feature), weights_digest(model) if work else None
    parts = trial.extract(compared, config.model.image_size, source=source)
    names, stages, faults = model.config.stages, {}, []
    for size in range(1, len(names) + 1):
        for chosen in combinations(range(len(names)), size):
            name = "+".join(names[i] for i in chosen)
            joined_SD = join_stages([parts[i] for i in chosen], config.eval.stage_norm)
            scores, nearest = trial.rank(joined_SD, f"{'stage' if size == 1 else 'stages'} {name}")
            stages[name] = summarise(trial, scores)
            if scores.fault:
                faults.append(f"{'Stage' if size == 1 else 'Stages'} {name}: {scores.fault}")
    # The last subset is all stages: the paper's representation.
    evaluation = {
        "dataset": dataset(reader),
        "protocol": protocol.name,
        "split": config.data.split or protocol.splits[0],
        "ignore": protocol.ignore,
        "warnings": reader.warnings + degradation(config.eval) + faults,
        "num_frames": config.eval.num_frames,
        "mode": config.eval.mode,
        "eval": deciding(config.eval),
        **stages[name],
        "stages": stages,
    }
    dims: dict[str, int] = {name: part.shape[1] for name, part in zip(names, parts, strict=True)}
    return Scored(trial, evaluation, dims, joined_SD, scores, nearest)


def degradation(config: EvalConfig) -> list[str]:
    """Return a warning if the settings degrade frames."""
    values = {name: getattr(config, name) for name in DEGRADATIONS}
    message = [f"{name} {value:g}" for name, value in values.items() if value != getattr(intact(config), name)]
    owner = "queries" if config.degrade == "queries" else "queries and gallery"
    return [f"the frames of {owner} were degraded ({', '.join(message)})"] if message else []


class Evaluated(NamedTuple):
    """Result of `evaluate`.

    Attributes:
        files: Content of `evaluation.json`, `rankings.json`, `queries.json`, and with `eval.pictures` also of
            `embedding.json`; equal on every rank.
        scored: Result of `score`.
    """

    files: dict[str, dict[str, Any]]
    scored: Scored


def evaluate(engine: Engine, model: MSTAT, reader: Reader, config: Config, work: Path | None = None) -> Evaluated:
    """Evaluate a model. `work` is that of `score`."""
    scored = score(engine, model, reader, config, work)
    trial, evaluation, _, features_SD, scores, nearest = scored
    evaluation["distances"] = trial.distances(features_SD, scores)
    evaluation["verification"] = {"cosine": trial.verification(features_SD)}
    evaluation["open_set"] = {"cosine": trial.open_set(features_SD)}
    evaluation |= _groups(trial, scores)
    evaluation["cameras"] = trial.camera_pairs(features_SD)
    if settings := reranking_settings(config.eval):
        evaluation["reranked"] = {"settings": settings, **summarise(trial, trial.rerank(features_SD))}
    if config.eval.baselines:
        evaluation["baselines"] = _baselines(trial, config)
        if not can_start(config.model):
            missing = f"model.init ({config.model.init}) no longer exists, so the untrained model has no scores"
            evaluation["warnings"] = [*evaluation["warnings"], missing]
    terms = _terms(evaluation)
    files = {
        "evaluation.json": evaluation,
        "rankings.json": {**terms, **rankings(trial, scores, nearest)},
        "queries.json": {**terms, **queries(trial, scores)},
    }
    if config.eval.pictures:
        with Count("t-SNE", enabled=engine.is_main):
            files["embedding.json"] = {**terms, **embedding(trial, features_SD)}
    return Evaluated(files, scored)


def _terms(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {key: evaluation[key] for key in ("dataset", "protocol", "split", "eval")}


def reranking_settings(config: EvalConfig) -> dict[str, Any]:
    """Return the settings of re-ranking and query expansion that are in effect; empty if neither is chosen."""
    settings: dict[str, Any] = {}
    if config.expansion:
        settings |= {"expansion": config.expansion, "expansion_alpha": config.expansion_alpha}
    if config.rerank != "none":
        settings |= {name: getattr(config, name) for name in ("rerank", "rerank_k1", "rerank_k2", "rerank_lambda")}
    return settings


FILES = ("evaluation.json", "rankings.json", "queries.json", "embedding.json")


def evaluate_run(
    engine: Engine,
    model: MSTAT,
    reader: Reader,
    config: Config,
    folder: Path | None = None,
    notes: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Evaluate a model, print the table of scores and write the files; return the content of evaluation.json.

    Args:
        folder: Folder for the files, made if missing; None is `evaluation_folder`.
        notes: Further entries of evaluation.json.

    Raises:
        OSError: If the files cannot be written. The table is printed first, so that the scores are not lost.
    """
    run = Path(config.run)
    obstacle = None
    if engine.is_main:
        folder = folder or evaluation_folder(run, reader, config.data)
        if obstacle := why_not_writable(folder):
            way_out = "scores will only be printed; --out FOLDER writes them elsewhere"
            console().print(f"[yellow]{markup(str(obstacle))}: {way_out}[/]", soft_wrap=True)
        elif config.eval.features:
            refuse_other_content(folder / saved_features.FOLDER)
    folder, is_writable = engine.from_main((folder, obstacle is None))
    assert folder is not None
    work = folder / feature_rows.FOLDER if is_writable else None
    files, scored = evaluate(engine, model, reader, config, work)
    files["evaluation.json"] |= notes
    if engine.is_main:
        console().print(*score_tables(files["evaluation.json"]))  # first, because the folder may be read-only
        for remark in _remarks(run, folder, reader, config):
            console().print(f"[bold yellow]{markup(remark)}[/]", soft_wrap=True)
        write_files(folder, files, config)
    if config.eval.features and is_writable:
        info = {**_terms(files["evaluation.json"]), "ignore": scored.trial.protocol.ignore, "dims": scored.dims}
        info["weights"] = weights_digest(model)
        features = folder / saved_features.FOLDER
        save_features(features, scored.trial, scored.trial.labels(), scored.features_SD, info)
    scored.trial.forget_unfinished()
    return files["evaluation.json"]


def write_files(folder: Path, files: Mapping[str, Mapping[str, Any]], config: Config) -> None:
    """Write the files of an evaluation, and delete other files of an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        write_json(folder / name, content)
    if folder != Path(config.run):
        save_config(config, folder / "config.yaml")


def _remarks(run: Path, folder: Path, reader: Reader, config: Config) -> list[str]:
    """Return remarks on where the scores go and which scores they replace."""
    before = Folder(folder).evaluation
    remarks = []
    if (folder / saved_features.FOLDER).is_dir() and not config.eval.features:
        kept = folder / saved_features.FOLDER
        remarks.append(f"{kept} holds features of an earlier evaluation; --eval.features true replaces them.")
    if folder != run:
        scored = (
            f"{reader.name} (checksum {reader.checksum[:12]}), protocol {reader.protocol(config.data.protocol).name}"
        )
        scored += f", split {config.data.split or reader.protocol(config.data.protocol).splits[0]}"
        if is_trained_on(run, reader, config.data):
            why = "another protocol or split than the run's own"
        else:
            why = f"not the set that {run} was trained on (checksum {(trained_checksum(run) or 'unknown')[:12]})"
            own = Folder(run).evaluation
            if not isinstance(own, str) and (own.get("dataset") or {}).get("name") == reader.name:
                why += ", but of the same name: the model may have been trained with tracklets that are scored"
        remarks.append(f"Scored on {scored}: {why}. The files are in {folder}; the run's own scores stay as they were.")
    if not isinstance(before, str):
        known, now = in_effect({**before, **(before.get("eval") or {})}), in_effect(deciding(config.eval))
        changed = [
            f"eval.{name} {known[name]} (now {now[name]})" for name in now if name in known and known[name] != now[name]
        ]
        if changed:
            remarks.append(f"These scores replace those in {folder} of {', '.join(changed)}.")
    return remarks


def refuse_trained(reader: Reader, run: Path, requested: DataConfig) -> None:
    """Refuse to score a model on tracklets of its training split.

    Raises:
        UserError: If the data set is that of the training, by path or checksum, and a query or gallery tracklet was
            used for training.
    """
    trained = load_config(run / "config.yaml").data
    if trained.shards != requested.shards and not is_trained_on(run, reader, requested):
        return
    roles = reader.roles(requested.protocol, requested.split) & (Role.QUERY | Role.GALLERY)
    learned = reader.roles(trained.protocol, trained.split) & Role.TRAIN
    if shared := int(((roles > 0) & (learned > 0)).sum()):
        raise UserError(
            f"{requested.shards}: the model was trained with {shared:,} of the tracklets that split "
            f"{requested.split!r} of protocol {requested.protocol!r} tests: score its own split {trained.split!r} of "
            f"protocol {trained.protocol!r}"
        )


def summarise(trial: Trial, scores: Scores) -> dict[str, Any]:
    """Return scores by name, and their `intervals`; mAP and its like are None if the protocol has CMC alone."""
    settings = trial.config.eval
    summary = scores.summary(no_positive=settings.no_positive)
    bounds = intervals(scores, trial.pids_Q, settings.no_positive, settings.seed)
    if trial.cmc_only:
        summary |= dict.fromkeys(MEANS)
        bounds = {name: interval for name, interval in bounds.items() if name not in MEANS}
    return {**summary, "intervals": bounds}


def _groups(trial: Trial, scores: Scores) -> dict[str, Any]:
    """Return mAP and rank-1 by the number of true matches and by the length of the query's tracklet."""
    numbers = {
        "by_matches": (torch.bincount(trial.pairs.positives_2P[0], minlength=len(trial.queries)), MATCHES),
        "by_length": (torch.as_tensor(trial.reader.num_frames[trial.tracklets[trial.queries]]), LENGTHS),
    }
    return {
        name: by_number(numbers_Q, lower_bounds, scores, trial.pids_Q, trial.config.eval.seed, not trial.cmc_only)
        for name, (numbers_Q, lower_bounds) in numbers.items()
    }


def can_start(config: ModelConfig) -> bool:
    """Return whether the untrained model can be made; a resumed run does not need the file of `model.init`."""
    return not config.init or Path(config.init).exists()


def _baselines(trial: Trial, config: Config) -> dict[str, Any]:
    """Score the untrained model and the colour histograms under the same protocol."""
    result = {}
    if can_start(config.model):
        torch.manual_seed(config.seed)
        untrained = trial.engine.place(MSTAT(config.model))
        if config.model.init:
            load_pretrained(untrained, Path(config.model.init))
        compared, source = partial(untrained.compared, feature=config.eval.feature), weights_digest(untrained)
        parts = trial.extract(compared, config.model.image_size, label="untrained features", source=source)
        untrained_SD = join_stages(parts, config.eval.stage_norm)
        result["untrained"] = summarise(trial, trial.rank(untrained_SD, "untrained features")[0])

    def histograms(frames_BTHWC: torch.Tensor) -> list[torch.Tensor]:
        clips = frames_BTHWC.cpu().numpy()
        return [
            torch.from_numpy(np.stack([hsv_histogram(clip, stripes) for clip in clips]))
            for stripes in HISTOGRAMS.values()
        ]

    height, width = trial.reader.frames(int(trial.tracklets[0]), [0]).shape[1:3]  # the stored size
    label = "colour histograms"
    parts = trial.extract(histograms, (height, width), label=label, source=label)
    for name, part in zip(HISTOGRAMS, parts, strict=True):
        result[name] = summarise(trial, trial.rank(part, name)[0])
    return result
