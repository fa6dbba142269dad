"""Checkpoints of a run: written aside, renamed when whole, the newest whole one wins.

    RUN/checkpoints/step-000000500/   optimizer.pt (weights and optimiser state) or deepspeed/, and checkpoint.json
    RUN/checkpoints/.step-000000500   the same while it is being written or removed; gone with the next save

A name without the dot is a promise: it is given by one rename after every file is on the disk. The training waits for
a copy in memory only; threads write it during the next steps. The learning rate, the plan and all noise are functions
of (seed, step), so weights, optimiser state and the step are the whole state.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from mstat.engine import Engine
from mstat.errors import UserError
from mstat.run import write_state

if TYPE_CHECKING:
    from torch.distributed.checkpoint.staging import DefaultStager

NAME = re.compile(r"step-(\d{9})")
META = "checkpoint.json"


def folders(run: Path) -> list[tuple[int, Path]]:
    """Whole checkpoints of a run as (step, folder), oldest first."""
    found = [(NAME.fullmatch(path.name), path) for path in (run / "checkpoints").glob("step-*")]
    return sorted((int(match[1]), path) for match, path in found if match and (path / META).is_file())


class Writer:
    """Writes the checkpoints of a run beside its training: `save` copies, and a thread of each rank does the rest.

    A context manager: whatever ends the training, what was begun becomes whole if it can. Every rank makes one, and
    calls `save` and `wait` at the same steps.

    Args:
        engine, run: Whose state is written, and where.
        keep: Newest checkpoints that stay.
        facts: What a run must not change when it goes on; JSON values.
    """

    def __init__(self, engine: Engine, run: Path, keep: int, facts: dict[str, Any]) -> None:
        self.engine, self.run, self.keep, self.facts = engine, run, keep, facts
        self.stager = _stager(engine.device)
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.begun: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.thread.shutdown()  # when what was begun has come to its end, good or bad
        if error is None:
            self.wait()

    def save(self, step: int) -> None:
        """Begin the checkpoint after `step` steps, once the one before is whole; the weights may then change.

        Raises:
            OSError: If this one cannot be begun, or the one before could not be written.
        """
        self.wait()
        aside = self.run / "checkpoints" / f".step-{step:09d}"
        if self.engine.is_main:
            for rest in aside.parent.glob(".step-*"):
                shutil.rmtree(rest)
            aside.mkdir(parents=True)
        self.engine.barrier()
        files = self.engine.snapshot(aside, self.stager.stage)
        self.begun = self.thread.submit(self._write, step, aside, files)

    def check(self) -> None:
        """Raises what `wait` would, where that is known already; else it does not wait."""
        if self.begun is not None and self.begun.done():
            self.wait()

    def wait(self) -> None:
        """Until the checkpoint that was begun is whole, and known to be by every rank.

        Raises:
            OSError: If it cannot be written; the others are as they were.
        """
        if self.begun is not None:
            begun, self.begun = self.begun, None
            begun.result()

    def _write(self, step: int, aside: Path, files: list[tuple[Path, Any]]) -> None:
        """The thread's part: this rank's files, and when all ranks have theirs, the name."""
        try:
            for path, state in files:
                _save(state, path)
            self.engine.barrier_of_writers()
            if self.engine.is_main:
                self._name(step, aside)
            self.engine.barrier_of_writers()
        except BaseException:
            if self.engine.is_main:
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _name(self, step: int, aside: Path) -> None:
        meta = {"step": step, "world_size": self.engine.world_size, **self.facts, "bytes": _sizes(aside)}
        (aside / META).write_text(json.dumps(meta, indent=2) + "\n")
        _to_disk(aside)
        aside.rename(aside.with_name(aside.name[1:]))
        _sync(aside.parent)
        for _, old in folders(self.run)[: -max(self.keep, 1)]:
            # First the dot: what a crash leaves of it must not pass for whole.
            shutil.rmtree(old.rename(old.with_name("." + old.name)))
        write_state(self.run, "running", step)


def restore(engine: Engine, run: Path, facts: dict[str, Any]) -> int:
    """Load the newest whole checkpoint; gives its step, 0 without one. Every rank calls it.

    Raises:
        ValueError: If the checkpoint was made by another kind of run than `facts` describes, or a file of it is cut.
    """
    found = engine.from_main(folders(run)[-1:])
    if not found:
        return 0
    step, folder = found[0]
    meta = json.loads((folder / META).read_text())
    if (sizes := _sizes(folder)) != meta["bytes"]:
        damaged = sorted(name for name in sizes.keys() | meta["bytes"] if sizes.get(name) != meta["bytes"].get(name))
        raise UserError(
            f"{folder}: {', '.join(damaged)} changed after the checkpoint was made: "
            "copy it anew, or remove the folder to go on from the one before"
        )
    for name, value in facts.items():
        if meta.get(name) != value:
            raise UserError(
                f"{folder}: made with {name}={meta.get(name)!r}, this run has {value!r}: "
                "launch it as it was, or give another --run folder"
            )
    if engine.is_deepspeed and meta["world_size"] != engine.world_size:
        raise UserError(
            f"{folder}: DeepSpeed wrote it on {meta['world_size']} processes, here are {engine.world_size}: "
            f"launch with --num_processes {meta['world_size']}, or start a new run from its weights (--model.init)"
        )
    engine.load(folder)
    return step


def _stager(device: torch.device) -> DefaultStager:
    """Copies to the CPU, where the last copy lay: new memory would take longer than the copy. From GPUs it takes pinned
    memory, and waits once for all.
    """
    # Imported late: it loads torch's compiler, which making an optimiser loads anyway, and scoring does not.
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    gpu = device.type == "cuda"
    return DefaultStager(
        StagingOptions(gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=gpu)
    )


def _save(state: Any, path: Path) -> None:
    """torch.save, and to the disk, through a file of Python's: the training has the interpreter while that one writes,
    and what the system says of a full disk is not lost. (Through its own, torch says "unexpected pos".)
    """
    try:
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except (RuntimeError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, os.strerror(cause.errno), str(path)) from None
        raise


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != META)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _to_disk(folder: Path) -> None:
    for path in sorted(folder.rglob("*")) + [folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
