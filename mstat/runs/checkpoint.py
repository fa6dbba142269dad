"""Checkpoints of a run: written aside, renamed when whole, the newest whole one wins.

    RUN/checkpoints/step-000000500/   weights, optimiser state, checkpoint.json (mstat/weights/checkpoint_files.py)
    RUN/checkpoints/.step-000000500   the same while it is being written or removed; gone with the next save

A name without the dot is a promise: it is given by one rename after every file is on the disk. The training waits for
a copy in memory only; threads write it during the next steps. The learning rate, the plan and all noise are functions
of (seed, step), so weights, optimiser state and the step are the whole state.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import rich
import torch

from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.runs.evaluation_log import kept
from mstat.runs.folder import NotFiniteError, write_state
from mstat.weights.checkpoint_files import (
    META,
    NAME,
    OPTIMIZER_FILE,
    damaged,
    folders,
    not_finite,
    read_meta,
    refuse_damaged,
    way_out,
)
from mstat.weights.safe_load import named
from shards.text import markup

if TYPE_CHECKING:
    from torch.distributed.checkpoint.staging import DefaultStager


def find(run: Path, name: str) -> Path:
    """A checkpoint by what a user calls it: a path, a step, `newest`, or `best`.

    Raises:
        UserError: If there is none; the message names those that there are.
    """
    whole, best = folders(run), kept(run)
    step = {"best": best and best["step"], "newest": whole[-1][0] if whole else None}.get(name, name)
    candidates = [Path(name)]
    if str(step).isdecimal():
        candidates = [run / "checkpoints" / f"step-{int(str(step)):09d}"]
    elif NAME.fullmatch(name):
        candidates.append(run / "checkpoints" / name)
    for folder in candidates:
        if (folder / META).is_file():
            return folder
    if name == "best" and step is None:
        raise UserError(f"{run}: no best checkpoint; train with --train.keep_best true and --train.eval_every N")
    there = ", ".join(path.name for _, path in whole) or "none"
    raise UserError(f"{candidates[-1]}: no checkpoint (no {META} in it); whole ones of {run}: {there}")


class Writer:
    """Writes the checkpoints of a run beside its training: `save` copies, and a thread of each rank does the rest.

    A context manager: whatever ends the training, what was begun becomes whole if it can. Every rank makes one, and
    calls `save` and `wait` at the same steps.

    Args:
        engine, run: Whose state is written, and where.
        keep: Newest checkpoints that stay.
        facts: What a run must not change when it goes on; JSON values.

    Attributes:
        best: A step whose checkpoint stays, too, whatever its age.
    """

    def __init__(self, engine: Engine, run: Path, keep: int, facts: dict[str, Any]) -> None:
        self.engine, self.run, self.keep, self.facts = engine, run, keep, facts
        self.stager = _stager(engine.device)
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.begun: Future[None] | None = None
        before = kept(run)
        self.best: int | None = before["step"] if before else None

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
        tmp = self.run / "checkpoints" / f".step-{step:09d}"
        if self.engine.is_main:
            for rest in tmp.parent.glob(".step-*"):
                _remove(rest)
            tmp.mkdir(parents=True, exist_ok=True)
        self.engine.barrier()
        files = self.engine.snapshot(tmp, self.stager.stage)
        self.begun = self.thread.submit(self._write, step, tmp, files)

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

    def _write(self, step: int, tmp: Path, files: list[tuple[Path, Any]]) -> None:
        """The thread's part: this rank's files, and when all ranks have theirs, the name."""
        try:
            for _, state in files:
                _refuse_not_finite(step, state)
            written = {str(path.relative_to(tmp)): _save(state, path) for path, state in files}
            of_all_ranks = self.engine.gather_from_writers(written)
            if self.engine.is_main:
                self._name(step, tmp, {name: file for of_rank in of_all_ranks for name, file in of_rank.items()})
            self.engine.barrier_of_writers()
        except BaseException:
            if self.engine.is_main:
                shutil.rmtree(tmp, ignore_errors=True)
            raise

    def _name(self, step: int, tmp: Path, written: dict[str, Written]) -> None:
        meta = {
            "step": step,
            "world_size": self.engine.world_size,
            **self.facts,
            "bytes": {name: file.size for name, file in sorted(written.items())},
            "sha256": {name: file.sha256 for name, file in sorted(written.items())},
        }
        (tmp / META).write_text(json.dumps(meta, indent=2) + "\n")
        _to_disk(tmp)
        whole = tmp.with_name(tmp.name[1:])
        if whole.exists():  # without a description, or the run would have gone on from it
            _remove(whole)
        tmp.rename(whole)
        _sync(tmp.parent)
        for old_step, old in folders(self.run)[: -max(self.keep, 1)]:
            if old_step != self.best:
                _remove(old)
        write_state(self.run, "running", step)


def _refuse_not_finite(step: int, state: Any) -> None:
    """No checkpoint holds weights from which nothing can go on."""
    if isinstance(state, dict) and "task" in state and (broken := not_finite(state["task"])):
        raise NotFiniteError(f"step {step}: weights are not finite after the update: {named(broken)}")


def _remove(folder: Path) -> None:
    """Take a checkpoint's name away, then its files: what a crash leaves of it must not pass for whole.

    What cannot be removed (`.nfs...`, a file that somebody holds open) is tried again at the next save.
    """
    tmp = folder.with_name(f".{folder.name.lstrip('.')}.old")
    if tmp.exists():
        shutil.rmtree(tmp, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder = folder.rename(tmp)
    shutil.rmtree(folder, ignore_errors=True)


def restore(engine: Engine, run: Path, facts: dict[str, Any]) -> int:
    """Load the newest whole checkpoint; gives its step, 0 without one. Every rank calls it.

    Raises:
        UserError: If the checkpoint was made by another kind of run than `facts` describes, or is not what was written.
    """
    newest = engine.from_main(folders(run)[-1:])
    if engine.is_main:
        _mention_hollow(run)
    if not newest:
        return 0
    step, folder = newest[0]
    meta = read_meta(folder)
    for name, value in facts.items():
        if meta.get(name) != value:
            raise UserError(
                f"{folder}: made with {name}={meta.get(name)!r}, this run has {value!r}: "
                "launch it as it was, or give another --run folder"
            )
    if engine.is_deepspeed and meta["world_size"] != engine.world_size:
        raise UserError(
            f"{folder}: DeepSpeed wrote it on {meta['world_size']} processes, here are {engine.world_size}: "
            f"launch with --num_processes {meta['world_size']}, "
            f"or start a new run from its weights (--run ANOTHER --model.init {folder})"
        )
    if not engine.is_deepspeed and OPTIMIZER_FILE not in meta["bytes"]:
        raise UserError(f"{folder}: {META} does not name {OPTIMIZER_FILE}: {way_out(folder)}")
    # Each rank reads its share of the files, and all of them know what any has found.
    share = sorted(meta["bytes"])[engine.rank :: engine.world_size]
    refuse_damaged(folder, _of_all(engine, damaged(folder, meta, share)))
    engine.load(folder)
    if broken := _of_all(engine, engine.not_finite()):
        raise UserError(f"{folder}: holds weights that are not finite: {named(broken)}; {way_out(folder)}")
    return step


def _of_all(engine: Engine, names: list[str]) -> list[str]:
    """Return the names that any rank gives, each once."""
    return sorted({name for names_of_rank in engine.gather_objects(names) for name in names_of_rank})


def _mention_hollow(run: Path) -> None:
    """Say which folders have the name of a checkpoint and are none."""
    for path in sorted((run / "checkpoints").glob("step-*")):
        if NAME.fullmatch(path.name) and not (path / META).is_file():
            rich.print(f"[yellow]{markup(str(path))}: no {META} in it: left out[/]")


def _stager(device: torch.device) -> DefaultStager:
    """Return the stager, which copies tensors to the CPU into the memory of the last copy.

    New memory would take longer than the copy. For GPUs the memory is pinned, and one wait serves all copies.
    """
    # Imported late: it loads torch's compiler, which making an optimiser loads anyway, and scoring does not.
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    gpu = device.type == "cuda"
    return DefaultStager(
        StagingOptions(gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=gpu)
    )


class Written(NamedTuple):
    """Size and checksum of a written file."""

    size: int
    sha256: str


class _Summing(io.BufferedWriter):
    """A file that takes its checksum while torch.save writes it, which goes from the first byte to the last."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return super().write(data)


def _save(state: Any, path: Path) -> Written:
    """torch.save to a Python file object and fsync: writes release the GIL, and a full disk surfaces as ENOSPC.

    With a path, torch would raise "unexpected pos" on a full disk.
    """
    try:
        with _Summing(path) as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
            return Written(file.tell(), file.digest.hexdigest())
    except (RuntimeError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise OSError(cause.errno, os.strerror(cause.errno), str(path)) from None
        raise


def _to_disk(folder: Path) -> None:
    for path in sorted(folder.rglob("*")) + [folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
