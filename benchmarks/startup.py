"""Delays that users see: `--help`, the first step after a restart, a checkpoint (`make bench-startup`).

Every command is started as users start it. It needs 12 GB of memory, and 12 GB of disk in $TMPDIR.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import harness
from benchmarks.harness import (
    MARS_IDENTITIES,
    PROJECT,
    Figure,
    call_elsewhere,
    in_turn,
    medians,
    run,
    run_main,
    save,
    table,
)
from mstat.config import Config, TrainConfig
from mstat.distributed.engine import Engine
from mstat.runs.checkpoint import Writer
from mstat.training.task import Task

ROUNDS = 3
KINDS = {"single": "one process", "ddp": "DDP, 2 processes", "zero2": "ZeRO-2, 2 processes"}
SCRIPTS = ("train", "pretrain", "evaluate", "robustness", "reproduce", "preflight", "submit", "report")
PYTHON, IMPORT, HELP = '-c "pass"', '-c "import shards"', "launch/train.py --help"
COMMANDS = {
    PYTHON: ["-c", "pass"],
    IMPORT: ["-c", "import shards"],
    **{f"launch/{script}.py --help": [f"launch/{script}.py", "--help"] for script in SCRIPTS},
    "-m shards --help": ["-m", "shards", "--help"],
}


def python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=PROJECT)


def first_step(kind: str, shards: Path, folder: Path) -> float:
    """Return the seconds from the command to the line of the first step in metrics.jsonl, for a run that continues."""
    command = [*harness.launch(kind), "launch/train.py", "--config", "configs/synthetic.yaml", "--data.shards", shards]
    command += ["--train.eval_every", "null", "--train.log_every", 1]
    run(*command, "--run", folder / "first", "--train.steps", 1)
    seconds = []
    for number in range(ROUNDS):
        again = folder / str(number)
        shutil.copytree(folder / "first", again)
        began = time.time()
        run(*command, "--run", again, "--train.steps", 2)
        seconds.append((again / "metrics.jsonl").stat().st_mtime - began)
    return statistics.median(seconds)


def save_large(name: str) -> dict[str, float]:
    """Save a model of the paper's size after one step of SGD; return seconds of each kind of save, and its bytes.

    `at once` is a save by torch or DeepSpeed, and fsync; `waits` is the time that a step waits for `Writer.save`, with
    the memory for its copy allocated; `copy` is a copy of the same number of bytes.
    """
    folder = Path(name)
    with Engine(Config(train=TrainConfig(precision="no"))) as engine:
        task = Task(engine.config, MARS_IDENTITIES)
        engine.prepare(task)
        # Any loss that gives each weight a gradient suffices.
        engine.update(sum(p.square().mean() for p in task.parameters()), lr=0.1)  # type: ignore[arg-type]
        to = folder / "at-once"

        def prepare() -> None:
            if engine.is_main:
                shutil.rmtree(to, ignore_errors=True)
                to.mkdir()
            engine.barrier()

        def at_once() -> None:
            if engine.is_deepspeed:
                engine.wrapped.save_checkpoint(str(to), tag="deepspeed", save_latest=False)
            elif engine.is_main:
                torch.save({"task": task.state_dict(), "optimizer": engine.optimizer.state_dict()}, to / "state.pt")
            for file in to.rglob("*") if engine.is_main else ():
                descriptor = os.open(file, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
            engine.barrier()

        seconds = in_turn({"at once": at_once}, ROUNDS, before=prepare)
        with Writer(engine, folder / "run", keep=1, facts={}) as writer:
            steps = iter(range(1, ROUNDS + 2))

            def wait() -> None:
                writer.wait()
                engine.barrier()

            seconds |= in_turn({"waits": lambda: writer.save(next(steps))}, ROUNDS, warm_up=1, before=wait)
        sizes = [file.stat().st_size for file in (folder / "run" / "checkpoints").rglob("*") if file.is_file()]
        source = torch.ones(sum(sizes) // engine.world_size // 4)
        target = torch.zeros_like(source)
        seconds |= in_turn({"copy": lambda: target.copy_(source)}, ROUNDS, before=engine.barrier)
        return {**medians(seconds), "bytes": sum(sizes)}


def main() -> None:
    helps = medians(in_turn({name: partial(python, *command) for name, command in COMMANDS.items()}, ROUNDS, warm_up=1))
    steps, saves = {}, {}
    with tempfile.TemporaryDirectory() as name:
        shards = Path(name) / "shards"
        run(sys.executable, "-m", "shards", "build", "synthetic", "--out", shards)
        for kind, title in KINDS.items():
            steps[title] = first_step(kind, shards, Path(name) / kind)
    for kind in ("single", "zero2"):
        with tempfile.TemporaryDirectory() as name:
            saves[KINDS[kind]] = call_elsewhere(save_large, name, launcher=harness.launch(kind))
    alone = f"Python alone: {helps[PYTHON]:.2f} s"
    figures = [
        Figure("`import shards`", f"{helps[IMPORT]:.2f} s", wanted="< 0.3 s", limit=alone),
        Figure(f"`{HELP}`", f"{helps[HELP]:.2f} s", wanted="< 1.5 s", limit=alone),
        *(Figure(f"first step of a resumed run, {t}", f"{s:.1f} s", wanted="< 20 s") for t, s in steps.items()),
    ]
    rows = []
    for title, one in saves.items():
        what = f"training waits for a checkpoint of {one['bytes'] / 1e9:.2f} GB, {title}"
        ours, theirs, copy = (f"{one[name]:.2f} s" for name in ("waits", "at once", "copy"))
        times, share, limit = one["at once"] / one["waits"], one["copy"] / one["waits"], f"a copy of the bytes: {copy}"
        figures.append(Figure(what, ours, "saved at once (torch, DeepSpeed)", theirs, times, "< 2 s", limit, share))
        rows.append([title, f"{one['bytes'] / 1e9:.2f} GB", theirs, f"**{ours}**", copy])
    save(
        "startup",
        "Start and end",
        f"Each figure is the middle one of {ROUNDS}. Files were in the page cache and bytecode was compiled.",
        table(["`python ...`", "s"], [[f"`{name}`", f"{seconds:.2f}"] for name, seconds in helps.items()]),
        "## From the command to the first step of a run that continues",
        table(
            ["`accelerate launch launch/train.py` on configs/synthetic.yaml", "s"],
            [[title, f"{seconds:.1f}"] for title, seconds in steps.items()],
        ),
        "## A checkpoint of the paper's size",
        f"178 M weights and their momentum ({MARS_IDENTITIES} classes, SGD). *At once* is what torch or DeepSpeed do "
        "when called, and fsync. *Training waits* is what a step waits for `checkpoint.Writer.save`, after a first one "
        "that gets the memory of the copy; that memory is kept between saves. On GPUs it is pinned; that has not been "
        "measured.",
        table(["", "bytes", "saved at once", "**training waits**", "a copy of the bytes"], rows),
        figures=figures,
    )


if __name__ == "__main__":
    run_main(main, __doc__)
