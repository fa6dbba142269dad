"""The whole training loop, in the order of execution.

A resume takes four steps: 1. build the model from the seed; 2. load weights and optimiser state from the newest whole
checkpoint; 3. cut metrics.jsonl back to its step; 4. start the loader at that step. Nothing is replayed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import shards
from mstat.config import Config
from mstat.config.cli import save_config
from mstat.console import print_line
from mstat.data.loader import TrainingBatches, load
from mstat.data.sampler import PKSampler, Sampler
from mstat.data.workers import start_fork_server
from mstat.distributed import signals
from mstat.distributed.engine import Engine
from mstat.distributed.optimizer import group_settings
from mstat.errors import UserError
from mstat.files import write_json
from mstat.report.init_table import print_start, start_record
from mstat.report.progress import Progress
from mstat.runs import checkpoint, log
from mstat.runs.evaluation_log import Evaluations, kept
from mstat.runs.folder import Journal, locked, write_environment, write_state
from mstat.training.objective import Objective, ReIdentification
from mstat.training.schedule import learning_rate, metric_weight
from mstat.training.task import TrainedModule
from mstat.training.tracker_kinds import check_packages
from mstat.training.trackers import Trackers
from mstat.weights import checkpoint_files
from mstat.weights.pretrained import KEPT, NO_KEY, Row, load_pretrained
from shards.read import Reader
from shards.records import Role
from shards.text import counted


def train(config: Config, engine: Engine, objective: Objective | None = None) -> dict[str, Any] | None:
    """Train, evaluate and report a run, from its newest checkpoint if it has one. Every rank calls it.

    Args:
        objective: None is re-identification.

    Returns:
        Content of evaluation.json; None with `train.eval_every: null`.

    Raises:
        StopRequested: If a signal asked the run to stop; checkpoint and state have been written.
        UserError: If the settings do not fit the data, the machine or the run folder.
        NotFiniteError: If a loss or gradient is not finite; no checkpoint contains weights of that step.
    """
    objective = objective or ReIdentification()
    run = Path(config.run)
    log_with = config.train.log_with if engine.is_main else ()
    check_packages(log_with)
    if config.data.num_workers:
        start_fork_server()
    reader = shards.open(config.data.shards)
    sampler = training_sampler(reader, config)
    if sampler.size < engine.world_size:
        raise UserError(
            f"{engine.world_size} processes share {counted(sampler.size, 'clip')} "
            f"(batch.num_identities x batch.num_tracklets): start at most {sampler.size}, "
            "or increase --batch.num_identities"
        )
    if config.train.compile and engine.kind == "zero3":
        # ZeRO-3 gathers each layer's weights in module hooks, which torch.compile cannot trace.
        raise UserError("train.compile does not work with ZeRO-3: leave it out, or launch with zero2.yaml")
    if config.batch.chunk_size == 1 and engine.kind == "zero3" and sampler.size % engine.world_size:
        # ZeRO-3 gathers weights for each chunk, on all ranks, and some ranks would have one chunk more.
        raise UserError(
            f"batch.chunk_size 1 does not work with ZeRO-3 where {engine.world_size} processes share "
            f"{counted(sampler.size, 'clip')} unevenly: set it to 2, or launch with zero2.yaml"
        )
    if config.train.keep_best and not config.train.eval_every:
        raise UserError("train.keep_best needs evaluations during training: set --train.eval_every N")
    num_steps = config.train.epochs * sampler.steps_per_epoch if config.train.steps is None else config.train.steps

    torch.manual_seed(config.seed)
    task = objective.task(config, len(sampler.pids))
    if config.train.activation_checkpointing:
        task.model.recompute_blocks()
    if config.train.compile:
        task.model.compile_blocks()
    init: list[Row] = []
    begins = engine.from_main(not checkpoint_files.folders(run))  # otherwise a checkpoint has all weights
    if config.model.init and begins:
        init = load_pretrained(task.model, Path(config.model.init))
        init += [Row(NO_KEY, name, KEPT) for name in task.state_dict() if not name.startswith("model.")]
    engine.prepare(task)

    if config.train.eval_every is not None:
        objective.check(engine, reader, config)  # refuse before the work starts

    facts = {**run_facts(config, engine, reader), **objective.facts(config)}
    if config.resume == "never" and not begins:
        raise UserError(f"{run}: holds checkpoints, and --resume is never: give another --run folder")
    with (
        locked(run) if engine.is_main else contextlib.nullcontext(),
        signals.listening(),
        Trackers(config, log_with) as trackers,
    ):
        start = checkpoint.restore(engine, run, facts)
        if start == 0 and not begins:
            raise UserError(f"{run}: its checkpoints were removed while the training started: start it again")
        if start > num_steps:
            raise UserError(
                f"{run}: has {start} steps, but train.steps is {num_steps}: increase it, or give another --run"
            )
        log.write_to(run)
        kind = f"{engine.world_size} processes of {engine.kind}" if engine.world_size > 1 else "one process"
        log.logger.info("step %d of %d: training begins, %s", start, num_steps, kind)
        if engine.is_main:
            trackers.begin(start)
            save_config(config, run / "config.yaml")
            if config.model.init and init:
                write_json(run / "init.json", start_record(config.model.init, init))
                print_start(config.model.init, init)
            if start < num_steps:
                write_environment(run, engine.world_size, reader.checksum)
            write_state(run, "running", start)
        engine.barrier()
        try:
            loop(config, engine, objective, task, reader, sampler, start, num_steps, facts)
            evaluation = None
            with engine.averaged():
                weights = engine.weights()
                if engine.is_main:
                    objective.export(run, weights, config)
                if config.train.eval_every is not None:
                    evaluation = objective.evaluate(engine, task.model, reader, config)
        except signals.StopRequested as stop:
            if engine.is_main:
                step = checkpoint_files.folders(run)[-1][0]
                write_state(run, "requeue", step, f"stopped by {stop}")
                log.logger.info("step %d: stopped by %s", step, stop)
                print_line(f"stopped by {stop} after step {step}: re-run the same command to resume")
            raise
        except BaseException as error:
            explained = engine.explain(error)
            good = checkpoint_files.folders(run)
            where = f"the last good checkpoint is {good[-1][1]}" if good else "there is no checkpoint yet"
            interrupted = isinstance(error, KeyboardInterrupt)
            cause = "stopped by Ctrl-C" if interrupted else f"{type(explained).__name__}: {explained}"
            with contextlib.suppress(OSError):  # the error may be a full disk
                write_state(run, "failed", good[-1][0] if good else 0, f"{cause}; {where}")
            explained.add_note(where)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                explained.add_note("free disk space, and re-run the same command to resume")
            if explained is error:
                raise  # keeps the cause, which holds the traceback of a worker's error
            raise explained from None
        trackers.finish(evaluation)
        if engine.is_main:
            write_state(run, "done", num_steps)
            log.logger.info("step %d: done", num_steps)
            if config.train.keep_best and (best := kept(run)):
                print_line(f"best evaluation during training: step {best['step']} (--checkpoint best)")
            print_line(objective.report(run, reader))
    return evaluation


def loop(
    config: Config,
    engine: Engine,
    objective: Objective,
    task: TrainedModule,
    reader: Reader,
    sampler: Sampler,
    start: int,
    num_steps: int,
    facts: dict[str, Any],
) -> None:
    """Run the steps from `start` on: evaluate, load a batch, compute losses, update, log, save.

    Raises:
        StopRequested: If a signal asked the run to stop; the newest checkpoint is of the last completed step.
    """
    run = Path(config.run)
    journal = Journal(run, start, sampler.size, engine.is_main, engine.sum)
    evaluations = Evaluations(run, objective.main_scores)
    last, best = engine.from_main(evaluations.resume(start) if engine.is_main else None)
    noise_for = dataclasses.replace(config, model=task.model.config)  # pretraining's model has another config
    mean_pixel = (255 * task.model.stem.pixel_mean).round().int().tolist()
    dataset = TrainingBatches(reader, sampler, noise_for, engine.rank, engine.world_size, mean_pixel)
    on_gpu = engine.device.type == "cuda"
    done = saved = start
    with (
        contextlib.closing(load(dataset, range(start, num_steps), config.data.num_workers, on_gpu)) as loader,
        Progress(num_steps, start, engine.is_main, every=2) as progress,
        checkpoint.Writer(engine, run, config.train.keep, facts) as writer,
    ):
        try:
            for step, batch in enumerate(loader, start):
                if step > last and _due(step, config.train.eval_every):
                    with engine.averaged():
                        scores, text = objective.score(engine, task.model, reader, config)
                    is_best = config.train.keep_best and evaluations.main(scores) > best
                    if is_best:
                        best, writer.best = evaluations.main(scores), step
                        text += ", the best so far: its checkpoint is kept"
                        if saved < step:
                            writer.save(step)
                            saved = step
                    if engine.is_main:
                        evaluations.add(step, scores, is_best)
                    progress.say(f"step {step}: {text}")
                    log.logger.info("step %d: %s", step, text)
                lr = learning_rate(
                    config.optim,
                    config.schedule,
                    step=step,
                    num_steps=num_steps,
                    steps_per_epoch=sampler.steps_per_epoch,
                    batch_size=sampler.size,
                )
                shares = engine.losses(batch, metric_weight(config.loss, step=step))
                grad_norm = engine.update(shares["loss"], lr, heads_only=step < config.optim.freeze_steps)
                engine.update_average(step)
                done = step + 1
                epoch = step // sampler.steps_per_epoch
                journal.add({"step": done, "epoch": epoch, "lr": lr, "grad_norm": grad_norm}, shares)

                saving = done == num_steps or _due(done, config.train.save_every)
                if saving or _due(done, config.train.log_every):
                    *_, newest = journal.flush()  # raises on every rank if a number is not finite
                    progress.update(done, newest)
                if saving:
                    writer.save(done)  # copies; a thread writes during the next steps
                    saved = done
                    log.logger.info("step %d: loss %.4g, checkpoint", done, newest["loss"])
                writer.check()  # raises if the last checkpoint could not be written
                engine.stop_if_asked()
        except signals.StopRequested:
            journal.flush()
            if saved < done:
                writer.save(done)
            writer.wait()
            raise


def run_facts(config: Config, engine: Engine, reader: Reader) -> dict[str, Any]:
    """Return the facts that must not change when a run resumes from a checkpoint, as JSON values."""
    model = {name: value for name, value in dataclasses.asdict(config.model).items() if name != "init"}
    return {
        "distributed": engine.kind,
        "shards": reader.checksum,
        "protocol": config.data.protocol,
        "split": config.data.split,
        "optimizer": config.optim.name,
        **group_settings(config.optim),
        "metric": config.loss.metric,
        "seed": config.seed,
        "batch": [config.batch.num_identities, config.batch.num_tracklets],
        "model": json.loads(json.dumps(model)),
    }


def training_sampler(reader: Reader, config: Config) -> Sampler:
    """Return the sampler over the training tracklets of the run's protocol and split."""
    chosen = np.flatnonzero(reader.roles(config.data.protocol, config.data.split) & Role.TRAIN)
    if not len(chosen):
        raise UserError(f"{config.data.shards}: no training tracklets in this protocol and split")
    return PKSampler(
        chosen,
        reader.pids[chosen],
        reader.camids[chosen],
        num_identities=config.batch.num_identities,
        num_tracklets=config.batch.num_tracklets,
        seed=config.seed,
        epoch=config.schedule.epoch,
    )


def _due(done: int, every: int | None) -> bool:
    return every is not None and every > 0 and done > 0 and done % every == 0
