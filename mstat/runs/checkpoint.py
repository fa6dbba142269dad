"""Checkpoints of a run: written under a temporary name, renamed when complete; the newest complete one is resumed.

    RUN/checkpoints/step-000000500/   weights, optimiser state, checkpoint.json (mstat/weights/checkpoint_files.py)
    RUN/checkpoints/.step-000000500   the same while it is written or removed; the next save deletes leftovers

A name without a dot guarantees a complete checkpoint: one rename sets it after every file is on disk. Training only
waits for a copy in memory; threads write the copy during the next steps. Learning rate, batches and all noise are
functions of (seed, step), so weights, their average, optimiser state and the step are the complete state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from mstat.config import Config
from mstat.console import console
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.runs.evaluation_log import kept
from mstat.runs.folder import NotFiniteError, write_state
from mstat.weights.checkpoint_files import (
    AVERAGE_FILE,
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

logger = logging.getLogger(__name__)


def find(run: Path, name: str) -> Path:
    """Return the checkpoint that a user names by path, step, `newest` or `best`.

    Raises:
        UserError: If it does not exist; the message lists the existing ones.
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
    existing = ", ".join(path.name for _, path in whole) or "none"
    raise UserError(f"{candidates[-1]}: not a checkpoint (it has no {META}); checkpoints of {run}: {existing}")


class Writer:
    """Write checkpoints while training continues: `save` copies the state, and a thread of each rank writes the copy.

    A context manager: on exit it completes the checkpoint in progress, also after an error. Every rank makes one, and
    calls `save` and `wait` at the same steps.

    Args:
        engine, run: The state to write, and the run folder.
        keep: Number of newest checkpoints to keep.
        facts: Facts that must not change when the run resumes; JSON values.

    Attributes:
        best: A step whose checkpoint is kept, too, whatever its age.
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
        self.thread.shutdown()  # waits for the checkpoint in progress
        if error is None:
            self.wait()

    def save(self, step: int) -> None:
        """Wait for the previous checkpoint, then begin that of `step`. The weights may change after the return.

        Raises:
            OSError: If this checkpoint cannot be begun, or the previous one could not be written.
        """
        self.wait()
        tmp = self.run / "checkpoints" / f".step-{step:09d}"
        if self.engine.is_main:
            for leftover in tmp.parent.glob(".step-*"):
                _remove(leftover)
            tmp.mkdir(parents=True, exist_ok=True)
        self.engine.barrier()
        files = self.engine.snapshot(tmp, self.stager.stage)
        self.begun = self.thread.submit(self._write, step, tmp, files)

    def check(self) -> None:
        """Raise the error of the checkpoint in progress, if it has failed already. Never waits."""
        if self.begun is not None and self.begun.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint in progress is complete on every rank.

        Raises:
            OSError: If it cannot be written; older checkpoints are unchanged.
        """
        if self.begun is not None:
            begun, self.begun = self.begun, None
            begun.result()

    def _write(self, step: int, tmp: Path, files: list[tuple[Path, Any]]) -> None:
        """Write this rank's files, then rename the folder when all ranks have written theirs. Runs in the thread."""
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
        if whole.exists():  # it has no description, or the run would have resumed from it
            _remove(whole)
        tmp.rename(whole)
        _sync(tmp.parent)
        for old_step, old in folders(self.run)[: -max(self.keep, 1)]:
            if old_step != self.best:
                _remove(old)
        write_state(self.run, "running", step)


def _refuse_not_finite(step: int, state: Any) -> None:
    """Raise if weights are not finite: no run can resume from them."""
    if isinstance(state, dict) and "task" in state and (broken := not_finite(state["task"])):
        raise NotFiniteError(f"step {step}: weights are not finite after the update: {named(broken)}")


def _remove(folder: Path) -> None:
    """Rename a checkpoint, then delete its files, so that a crash leaves no incomplete checkpoint under a valid name.

    Files that cannot be removed (`.nfs...`, open in another process) are removed at the next save.
    """
    tmp = folder.with_name(f".{folder.name.lstrip('.')}.old")
    if tmp.exists():
        shutil.rmtree(tmp, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder = folder.rename(tmp)
    shutil.rmtree(folder, ignore_errors=True)


def restore(engine: Engine, run: Path, facts: dict[str, Any]) -> int:
    """Load the newest complete checkpoint, and return its step; 0 without one. Every rank calls this function.

    Raises:
        UserError: If the checkpoint's facts differ from `facts`, or if the checkpoint is damaged.
    """
    newest = engine.from_main(folders(run)[-1:])
    if engine.is_main:
        _mention_hollow(run)
    if not newest:
        return 0
    step, folder = newest[0]
    meta = read_meta(folder)
    for name, value in facts.items():
        for key, old, new in _differences(name, meta.get(name), value):
            raise UserError(
                f"{folder}: made with {key}={old!r}, this run has {new!r}: "
                "use the old value, or give another --run folder"
            )
    if engine.is_deepspeed and meta["world_size"] != engine.world_size:
        raise UserError(
            f"{folder}: DeepSpeed wrote it on {meta['world_size']} processes, this launch has {engine.world_size}: "
            f"launch with --num_processes {meta['world_size']}, "
            f"or start a new run from its weights (--run ANOTHER --model.init {folder})"
        )
    if not engine.is_deepspeed and OPTIMIZER_FILE not in meta["bytes"]:
        raise UserError(f"{folder}: {META} does not name {OPTIMIZER_FILE}; {way_out(folder)}")
    # Each rank verifies its share of the files; all ranks raise the same error.
    share = sorted(meta["bytes"])[engine.rank :: engine.world_size]
    refuse_damaged(folder, _of_all(engine, damaged(folder, meta, share)))
    engine.load(folder)
    has_average = AVERAGE_FILE in meta["bytes"]
    engine.load_average(folder if has_average else None)
    if engine.is_main and has_average != (engine.average is not None):
        _mention(
            f"{folder}: has an average of the weights, which train.ema null drops"
            if has_average
            else f"{folder}: has no average of the weights, so that of train.ema begins with this checkpoint"
        )
    if broken := _of_all(engine, engine.not_finite()):
        raise UserError(f"{folder}: weights are not finite: {named(broken)}; {way_out(folder)}")
    return step


def _differences(name: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """Return the name and both values of each difference of a fact; if it is a section of settings, of each setting."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [(name, old, new)] if old != new else []
    # Settings that a checkpoint lacks are newer than the checkpoint, which was made with their defaults.
    defaults = json.loads(json.dumps(dataclasses.asdict(getattr(Config(), name))))
    old = {key: value for key, value in defaults.items() if key in new} | old
    return [(f"{name}.{key}", old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)]


def _of_all(engine: Engine, names: list[str]) -> list[str]:
    """Return the union of the names of all ranks, sorted."""
    return sorted({name for names_of_rank in engine.gather_objects(names) for name in names_of_rank})


def _mention_hollow(run: Path) -> None:
    """Warn about folders that are named like a checkpoint but have no description."""
    for path in sorted((run / "checkpoints").glob("step-*")):
        if NAME.fullmatch(path.name) and not (path / META).is_file():
            _mention(f"{path}: ignored, since it has no {META}")


def _mention(note: str) -> None:
    logger.warning("%s", note)
    console().print(f"[yellow]{markup(note)}[/]", soft_wrap=True)


def _stager(device: torch.device) -> DefaultStager:
    """Return the stager, which copies tensors to the CPU and reuses the memory of the last copy.

    Allocating new memory would take longer than the copy. For GPUs, it is pinned, and all copies share one wait.
    """
    # A late import: it loads torch's compiler. Training needs that anyway, for the optimiser; scoring does not.
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
    """A file that computes its checksum while torch.save writes it sequentially."""

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
