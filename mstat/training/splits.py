"""`--data.split all`: one run for each split of a protocol, and the mean of their scores.

RUN/split-<name>/ is an ordinary run folder, the same as if that split were trained alone. RUN itself has config.yaml,
state.json, evaluation.json (the mean over the splits, with standard deviations under `sd`) and report.html.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import shards
from mstat.config import ALL_SPLITS, Config, DataConfig
from mstat.config.cli import load_config, save_config
from mstat.console import console, print_line
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.evaluate import evaluate_run, refuse_trained
from mstat.evaluation.trial import Trial
from mstat.files import write_json
from mstat.model import MSTAT
from mstat.report.averages import mean_of, numbers
from mstat.report.html import write_report, write_reports
from mstat.report.scores import score_tables
from mstat.runs.checkpoint import find
from mstat.runs.folder import State, read_state, write_state
from mstat.runs.scored_set import evaluation_folder, folder_in, is_trained_on
from mstat.training.train import train
from mstat.weights import checkpoint_files
from shards.read import Reader
from shards.text import markup


def train_runs(config: Config, engine: Engine) -> None:
    """Train the run that `config` describes, or one run for each split. Every rank calls it.

    Raises:
        UserError: If the folder of all splits holds a run of one split, or a split has nothing to score.
        Exception: Any error of `mstat.training.train.train`; later splits do not start.
    """
    if config.data.split != ALL_SPLITS:
        train(config, engine)
        return
    run = Path(config.run)
    if engine.from_main(bool(checkpoint_files.folders(run))):
        raise UserError(f"{run}: holds the run of one split; give another --run for the runs of all splits")
    if config.train.eval_every is not None:
        reader = shards.open(config.data.shards)
        for split in reader.protocol(config.data.protocol).splits:  # refuse before the first split trains
            Trial(engine, reader, _of_split(config, split))
    if engine.is_main:
        run.mkdir(parents=True, exist_ok=True)
        save_config(config, run / "config.yaml")

    def pass_on_state(of_split: Config, state: State | None = None) -> None:
        if engine.is_main:
            ended = read_state(Path(of_split.run))
            message = f"split {of_split.data.split}: {ended['reason'] or ended['state']}"
            write_state(run, state or ended["state"], ended["step"], message)

    def train_split(of_split: Config) -> dict[str, Any] | None:
        try:
            evaluation = train(of_split, engine)
        except BaseException:
            with suppress(OSError):  # the error may be a full disk
                pass_on_state(of_split)
            raise
        pass_on_state(of_split, "running")
        return evaluation

    evaluations = _each_split(config, engine, train_split)
    if engine.is_main:
        write_state(run, "done", read_state(run)["step"])
        if evaluations:
            _write_mean(run, run, mean_of_splits(evaluations))


class Planned(NamedTuple):
    """Evaluations of a run, or of the run of each split, on one data set. Nothing is computed yet.

    Attributes:
        config: Settings with the folder of the run, or of the runs of all splits.
        reader: The data set.
        of_splits: Settings of each run to score, by the name of its split.
        is_mean: Whether the scores of the runs are averaged.
        checkpoint: Checkpoint of the run, as `mstat.weights.checkpoint_files.find` accepts it; None is the trained
            model.
    """

    config: Config
    reader: Reader
    of_splits: Mapping[str, Config]
    is_mean: bool
    checkpoint: str | None


def plan(config: Config, engine: Engine, checkpoint: str | None = None) -> Planned:
    """Open the data set and check all that can be checked without a model.

    Raises:
        DataError: If the data set cannot be opened.
        UserError: If a run is missing, was trained with tracklets to be scored, or has nothing to score.
    """
    reader = shards.open(config.data.shards)
    run, protocol = Path(config.run), reader.protocol(config.data.protocol)
    is_set = load_config(run / "config.yaml").data.split == ALL_SPLITS
    on_another_set = is_set and not is_trained_on(run, reader, config.data)
    is_mean = on_another_set or config.data.split == ALL_SPLITS
    if not is_mean:
        split = config.data.split or protocol.splits[0]
        of_splits = {split: _of_split(config, split) if is_set else config}
    elif checkpoint is not None:
        raise UserError(f"{run}: a checkpoint belongs to one split: give --run {run}/split-NAME")
    elif on_another_set:
        of_splits = _on_another_set(config, reader)
    else:
        of_splits = {split: _of_split(config, split) for split in protocol.splits}
    for of_split in of_splits.values():
        folder = Path(of_split.run)
        if not (folder / "config.yaml").is_file():
            again = f"launch/train.py --data.split {of_split.data.split} --run {folder}"
            raise UserError(f"{folder}: no config.yaml in it; make the run with {again}")
        refuse_trained(reader, folder, of_split.data)
        Trial(engine, reader, of_split)  # refuses a protocol or split with nothing to score
    return Planned(config, reader, of_splits, is_mean, checkpoint)


def evaluate_planned(
    planned: Planned, engine: Engine, load: Callable[[Path], MSTAT], out: Path | None = None
) -> dict[str, Any]:
    """Score the planned runs and write their files; return the evaluation, or the mean over splits.

    Every rank calls it.

    Args:
        load: Returns the model of a run folder or checkpoint, on the engine's device.
        out: Folder for the files. None is the run folder, or RUN/evaluations/step-... for a checkpoint.
    """
    config, reader = planned.config, planned.reader
    run = Path(config.run)
    evaluations = {}
    for split, of_split in planned.of_splits.items():
        if engine.is_main and planned.is_mean:
            console().print(f"[bold]run of split {markup(split)}[/]")
        folder = out / f"split-{split}" if out and planned.is_mean else out
        evaluations[split] = _evaluate_split(planned, of_split, engine, load, folder)
    if not planned.is_mean:
        return next(iter(evaluations.values()))
    mean = mean_of_splits(evaluations)
    if engine.is_main:
        _write_mean(out or evaluation_folder(run, reader, config.data), run, mean)
    return mean


def _evaluate_split(
    planned: Planned, config: Config, engine: Engine, load: Callable[[Path], MSTAT], folder: Path | None
) -> dict[str, Any]:
    run, reader = Path(config.run), planned.reader
    source = run if planned.checkpoint is None else find(run, planned.checkpoint)
    model = load(source)
    notes = {}
    if planned.checkpoint is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(model.config, init=config.model.init))
        notes = {"checkpoint": str(source)}
        folder = folder or _checkpoint_folder(source, run, reader, config.data)
    evaluation = evaluate_run(engine, model, reader, config, folder, notes)
    if engine.is_main:
        if folder is None:
            written = evaluation_folder(run, reader, config.data)
            print_line(f"report: {write_reports(written, run, reader)}")
        else:
            print_line(f"scores of {source}: {folder}")
    return evaluation


def _checkpoint_folder(checkpoint: Path, run: Path, reader: Reader, config: DataConfig) -> Path:
    """Return RUN/evaluations/[DATASET-]step-..., the folder for a checkpoint's scores; its own data set has no name."""
    name, usual = checkpoint.resolve().name, evaluation_folder(run, reader, config)
    return folder_in(run, name if usual == run else f"{usual.name}-{name}")


def _each_split(
    config: Config, engine: Engine, command: Callable[[Config], dict[str, Any] | None]
) -> dict[str, dict[str, Any]]:
    """Call `command` for each split; return the evaluations by split."""
    evaluations = {}
    for split in shards.open(config.data.shards).protocol(config.data.protocol).splits:
        if engine.is_main:
            console().print(f"[bold]split {markup(split)}[/]")
        if evaluation := command(_of_split(config, split)):
            evaluations[split] = evaluation
    return evaluations


def _on_another_set(config: Config, reader: Reader) -> dict[str, Config]:
    """Return, for each split that was trained, the settings to score its run on another data set.

    A run is scored on the split of the same name, on the chosen split, or on the data set's only one.
    """
    names = sorted((path.name[6:] for path in Path(config.run).glob("split-*")), key=lambda name: (len(name), name))
    splits = reader.protocol(config.data.protocol).splits
    if config.data.split not in (None, ALL_SPLITS):
        chosen = dict.fromkeys(names, config.data.split)
    elif set(names) <= set(splits):
        chosen = {name: name for name in names}
    elif len(splits) == 1:
        chosen = dict.fromkeys(names, splits[0])
    else:
        raise UserError(
            f"{config.run}: has runs of splits {', '.join(names)}, but {reader.name} has splits {', '.join(splits)}: "
            "choose one with --data.split"
        )
    if not names:
        raise UserError(f"{config.run}: holds no run of a split; make them with launch/train.py --data.split all")
    return {
        name: dataclasses.replace(_of_split(config, name), data=dataclasses.replace(config.data, split=split))
        for name, split in chosen.items()
    }


def _write_mean(folder: Path, run: Path, mean: Mapping[str, Any]) -> None:
    console().print(*score_tables(mean))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", mean)
    if folder.is_relative_to(run):
        if folder != run:
            write_report(run)
        print_line(f"report: {write_report(folder)}")
    else:
        print_line(f"scores of {run}: {folder}")


def _of_split(config: Config, split: str) -> Config:
    """Return the settings of one split's run in the folder of all splits."""
    data = dataclasses.replace(config.data, split=split)
    return dataclasses.replace(config, run=str(Path(config.run) / f"split-{split}"), data=data)


def mean_of_splits(evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of the evaluations of the runs of all splits, and the scores of each run.

    `split` is `all`, unless all runs were scored on one and the same split of another data set.
    """
    splits = {split: numbers(evaluation) for split, evaluation in evaluations.items()}
    scored = {evaluation["split"] for evaluation in evaluations.values()}
    split = scored.pop() if len(evaluations) > 1 and len(scored) == 1 else ALL_SPLITS
    return {**mean_of(list(evaluations.values())), "split": split, "splits": splits}
