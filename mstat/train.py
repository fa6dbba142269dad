"""The training loop, all of it, in the order in which things happen.

Resume, in order: 1. the model is built from the seed; 2. weights and optimiser state come from the newest whole
checkpoint; 3. metrics.jsonl is cut back to its step; 4. the loader starts at that step. Nothing is replayed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import shards
from mstat import checkpoint
from mstat.config import Config
from mstat.configure import save_config
from mstat.data.loader import TrainingBatches, load
from mstat.data.plan import Plan
from mstat.engine import Engine
from mstat.evaluate import evaluate_run, score
from mstat.export import export
from mstat.model.pretrained import load_pretrained
from mstat.report.progress import Progress
from mstat.run import Journal, NotFiniteError, write_environment, write_state
from mstat.schedule import learning_rate, metric_weight
from mstat.task import Task
from shards.read import Reader
from shards.records import Role


def train(config: Config, engine: Engine) -> None:
    """Train, evaluate and report a run, from its newest checkpoint if it has one. Every rank calls it.

    Raises:
        ValueError: If the settings do not fit the data, the machine or the run folder.
        NotFiniteError: If a loss or gradient is not finite; no checkpoint holds what came of it.
    """
    run = Path(config.run)
    reader = shards.open(config.data.shards)
    plan = training_plan(reader, config)
    if plan.size < engine.world_size:
        raise ValueError(
            f"{engine.world_size} processes for {plan.size} clips (batch.num_identities x batch.num_tracklets): "
            f"start at most {plan.size}, or raise --batch.num_identities"
        )
    num_steps = config.train.epochs * plan.steps_per_epoch if config.train.steps is None else config.train.steps

    torch.manual_seed(config.seed)
    task = Task(config, len(plan.pids))
    if config.model.init:
        load_pretrained(task.model, Path(config.model.init))
    engine.prepare(task)

    facts = {
        "distributed": engine.kind,
        "shards": reader.checksum,
        "optimizer": config.optim.name,
        "seed": config.seed,
        "batch": f"{config.batch.num_identities} x {config.batch.num_tracklets}",
    }
    if config.resume == "never" and engine.from_main(bool(checkpoint.folders(run))):
        raise ValueError(f"{run}: holds checkpoints and --resume is never: give another --run folder")
    start = checkpoint.restore(engine, run, facts)
    if engine.is_main:
        run.mkdir(parents=True, exist_ok=True)
        save_config(config, run / "config.yaml")
        write_environment(run, engine.world_size, reader.checksum)
        write_state(run, "running", start)
    engine.barrier()

    journal = Journal(run, start, plan.size, engine.is_main)
    dataset = TrainingBatches(reader, plan, config, engine.rank, engine.world_size)
    loader = load(dataset, range(start, num_steps), config.data.num_workers, engine.device.type == "cuda")
    try:
        with Progress(num_steps, start, engine.is_main) as progress:
            for step, batch in enumerate(loader, start):
                lr = learning_rate(
                    config.optim,
                    config.schedule,
                    step=step,
                    num_steps=num_steps,
                    steps_per_epoch=plan.steps_per_epoch,
                    batch_size=plan.size,
                )
                losses = engine.losses(batch, metric_weight(config.loss, step=step))
                grad_norm = engine.update(losses["loss"], lr)
                done = step + 1
                epoch = step // plan.steps_per_epoch
                journal.add({"step": done, "epoch": epoch, **losses, "lr": lr, "grad_norm": grad_norm})

                saving = done == num_steps or _due(done, config.train.save_every)
                if saving or _due(done, config.train.log_every):
                    for record in journal.flush():  # stops here, on every rank, if something is not finite
                        progress.update(record["step"], record)
                if saving:
                    checkpoint.save(engine, run, done, config.train.keep, facts)
                    if engine.is_main:
                        write_state(run, "running", done)
                if done < num_steps and _due(done, config.train.eval_every):
                    scores, _ = score(engine, task.model, reader, config)
                    if engine.is_main:
                        progress.say(f"step {done}: mAP {scores['mAP']:.1%}, rank-1 {scores['rank1']:.1%}")
                        with (run / "evaluations.jsonl").open("a") as file:
                            file.write(json.dumps({"step": done, **scores}) + "\n")
    except BaseException as error:
        good = checkpoint.folders(run)
        where = f"the last good checkpoint is {good[-1][1]}" if good else "there is no checkpoint yet"
        if engine.is_main:
            write_state(run, "failed", good[-1][0] if good else 0, f"{type(error).__name__}: {error}; {where}")
        if isinstance(error, NotFiniteError):
            raise NotFiniteError(f"{error}; {where}") from None
        raise

    weights = engine.weights()
    if engine.is_main:
        export(run, weights, config)
    if config.train.eval_every is not None:
        evaluate_run(engine, task.model, reader, config)
    if engine.is_main:
        write_state(run, "done", num_steps)


def training_plan(reader: Reader, config: Config) -> Plan:
    """The P x K plan over the training tracklets of the run's protocol and split."""
    chosen = np.flatnonzero(reader.roles(config.data.protocol, config.data.split) & Role.TRAIN)
    if not len(chosen):
        raise ValueError(f"{config.data.shards}: no training tracklets in this protocol and split")
    return Plan(
        chosen,
        reader.pids[chosen],
        reader.camids[chosen],
        num_identities=config.batch.num_identities,
        num_tracklets=config.batch.num_tracklets,
        seed=config.seed,
    )


def _due(done: int, every: int | None) -> bool:
    return every is not None and every > 0 and done % every == 0
