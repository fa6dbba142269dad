"""What benchmarks/startup.py launches in place of launch/train.py.

`stamps FILE [what launch/train.py takes]` is the same training, and leaves the time at the end of each part of a start.
`checkpoint FILE` saves a model of the paper's size, and leaves how long what takes. FILE is written by rank 0.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROUNDS = 3
CLASSES = 625  # of MARS
PARTS = (
    "launcher",  # until the first line of ours
    "imports",
    "processes meet",  # and DeepSpeed's own import
    "data and model",
    "optimiser",  # and DDP or ZeRO
    "checkpoint",
    "first batch",
    "first step",
)


def train_with_stamps(path: str) -> int:
    """launch/train.py; rank 0 leaves the time at the end of each of PARTS."""
    stamps = [time.time()]
    import mstat.training.splits  # noqa: F401
    from launch import train
    from mstat.distributed.engine import Engine
    from mstat.runs import checkpoint

    stamps.append(time.time())

    def stamped(function: Callable[..., Any], before: bool = False, after: bool = True) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            stamps.extend([time.time()] * before)
            result = function(*arguments, **options)
            stamps.extend([time.time()] * after)
            return result

        return call

    Engine.__init__ = stamped(Engine.__init__)  # type: ignore[method-assign]
    Engine.prepare = stamped(Engine.prepare, before=True)  # type: ignore[method-assign]
    checkpoint.restore = stamped(checkpoint.restore)
    Engine.losses = stamped(Engine.losses, before=True, after=False)  # type: ignore[method-assign]
    Engine.update = stamped(Engine.update)  # type: ignore[method-assign]
    status = train.main()
    if os.environ.get("RANK", "0") == "0":
        Path(path).write_text(json.dumps(stamps))
    return status


def save_large(path: str) -> None:
    """Checkpoints of a model of the paper's size after one step of SGD; rank 0 leaves seconds of each kind of save."""
    import torch

    from mstat.config import Config, TrainConfig
    from mstat.distributed.engine import Engine
    from mstat.runs.checkpoint import Writer
    from mstat.training.task import Task

    config = Config(train=TrainConfig(precision="no"))
    seconds: dict[str, list[float]] = {
        name: [] for name in ("torch", "blocked", "whole", "copy", "disk", "alone", "beside")
    }
    folder = Path(path).parent
    with Engine(config) as engine:
        task = Task(config, CLASSES)
        engine.prepare(task)
        # Any loss will do that gives each weight a gradient.
        engine.update(sum(p.square().mean() for p in task.parameters()), lr=0.1)  # type: ignore[arg-type]

        def timed(name: str, call: Callable[[], Any]) -> None:
            engine.barrier()
            began = time.perf_counter()
            call()
            engine.barrier()
            seconds[name].append(time.perf_counter() - began)

        def save_and_wait() -> None:
            """What a save was before it was written behind: every byte on the disk when it returns."""
            to = folder / "before"
            if engine.is_main:
                shutil.rmtree(to, ignore_errors=True)
                to.mkdir()
            engine.barrier()
            if engine.is_deepspeed:
                engine.wrapped.save_checkpoint(str(to), tag="deepspeed", save_latest=False)
            elif engine.is_main:
                state = {"task": task.state_dict(), "optimizer": engine.optimizer.state_dict()}
                torch.save(state, to / "optimizer.pt")
            if engine.is_main:
                for file in to.rglob("*"):
                    sync(file)

        left, right = torch.rand(2, 384, 384)

        def work() -> float:
            """Some of what a training does: many short calls of torch."""
            began = time.perf_counter()
            for _ in range(20):
                torch.mm(left, right).relu_()
            return time.perf_counter() - began

        for _ in range(ROUNDS):
            timed("torch", save_and_wait)
        with Writer(engine, folder / "run", keep=1, facts={}) as writer:
            for step in range(1, ROUNDS + 2):
                timed("blocked", lambda step=step: writer.save(step))  # type: ignore[misc]
                began = time.perf_counter()
                while writer.begun is not None and not writer.begun.done():
                    seconds["beside"].append(work())
                writer.wait()
                seconds["whole"].append(seconds["blocked"][-1] + time.perf_counter() - began)
        seconds["alone"] = [work() for _ in range(200)]
        sizes = [file.stat().st_size for file in (folder / "run" / "checkpoints").rglob("*") if file.is_file()]
        source = torch.ones(sum(sizes) // engine.world_size // 4)
        target = torch.zeros_like(source)
        for _ in range(ROUNDS):
            timed("copy", lambda: target.copy_(source))
            timed("disk", lambda: write_plainly(folder / f"plain-{engine.rank}", source))
        if engine.is_main:
            Path(path).write_text(json.dumps({"bytes": sum(sizes), **seconds}))


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def write_plainly(path: Path, source: Any) -> None:
    """The same number of bytes in one call, and to the disk."""
    with path.open("wb") as file:
        file.write(source.numpy())
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


if __name__ == "__main__":
    what, file = sys.argv[1:3]
    del sys.argv[1:3]
    if what == "checkpoint":
        save_large(file)
    else:
        sys.exit(train_with_stamps(file))
