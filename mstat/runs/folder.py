"""The files of a run folder, and how each is written so that a reader never sees half of one.

config.yaml  environment.json  state.json  run.log  init.json  metrics.jsonl  evaluations.jsonl  checkpoints/
model.safetensors  model.json  evaluation.json  rankings.json  queries.json  embedding.json  evaluations/
robustness.json  report.html  figures/  trackers.json  tensorboard/  mlflow/  wandb/
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import torch

from mstat.errors import UserError
from mstat.files import MOST_JOURNAL_BYTES, read_json, read_plain, write_json, write_text
from mstat.provenance import commit, hardware, versions
from shards.guarded import open_lock

State = Literal["running", "done", "requeue", "failed"]

LOCK = ".lock"
LOCK_SECONDS = 30.0


class RunState(TypedDict):
    """state.json: the state that schedulers read, the last step, and the reason of an end."""

    state: State
    step: int
    reason: str | None


class Environment(TypedDict):
    """environment.json: the command that started the run, and its surroundings."""

    command: str
    folder: str
    started: str
    versions: dict[str, str]
    commit: str | None
    hardware: str
    world_size: int
    shards_checksum: str


class NotFiniteError(ArithmeticError):
    """A loss or a gradient norm is not finite: training cannot continue."""


def write_state(run: Path, state: State, step: int, reason: str | None = None) -> None:
    """Write state.json, which schedulers read: `accelerate launch` does not pass on an exit status."""
    content: RunState = {"state": state, "step": step, "reason": reason}
    write_json(run / "state.json", content)


def read_state(run: Path) -> RunState:
    """Read state.json. A run without one has failed at step 0."""
    try:
        return cast(RunState, read_json(run / "state.json"))
    except FileNotFoundError:
        return {"state": "failed", "step": 0, "reason": "it did not start"}


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock a run folder, so that two trainings do not overwrite each other's files.

    A second training waits for the first, which may be about to end after a signal, and then gives up.

    Raises:
        UserError: If another training uses the folder.
    """
    run.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_lock(run / LOCK), "r+b") as lock:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{run}: another training uses this folder; stop it, wait for it, or give another --run"
                    ) from None
                time.sleep(0.2)
        yield


def write_environment(run: Path, world_size: int, shards_checksum: str) -> None:
    """Write environment.json: command, versions, commit, hardware."""
    content: Environment = {
        "command": shlex.join(sys.argv),
        "folder": os.getcwd(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "world_size": world_size,
        "shards_checksum": shards_checksum,
    }
    write_json(run / "environment.json", content)


class Journal:
    """metrics.jsonl: one JSON object per step. Values stay on the device until `flush`, which waits for the device.

    A run that resumes at step k removes the records of later steps.

    Args:
        total: Function that sums a tensor over ranks in place and returns it; called only in `flush`, on every rank.
    """

    def __init__(
        self,
        run: Path,
        start: int,
        batch_size: int,
        enabled: bool,
        total: Callable[[torch.Tensor], torch.Tensor] = lambda shares: shares,
    ) -> None:
        self.path, self.batch_size, self.enabled, self.total = run / "metrics.jsonl", batch_size, enabled, total
        self.waiting: list[tuple[dict[str, Any], dict[str, torch.Tensor]]] = []
        self.since = time.perf_counter()
        if enabled:
            cut_back(self.path, start)
            self.path.touch()

    def add(self, record: dict[str, Any], shares: dict[str, torch.Tensor]) -> None:
        """Add the record of a step: values that all ranks know, and this rank's shares of values that are sums."""
        values = {name: v.detach() if isinstance(v, torch.Tensor) else v for name, v in record.items()}
        self.waiting.append((values, {name: share.detach() for name, share in shares.items()}))

    def flush(self) -> list[dict[str, Any]]:
        """Write the waiting records, and return them as plain numbers. Every rank calls it after the same step.

        Raises:
            NotFiniteError: If a loss or gradient norm is not finite; every rank sees the same values and raises.
        """
        if not self.waiting:
            return []
        sums = self._sums()
        records = [
            {**{k: v.item() if isinstance(v, torch.Tensor) else v for k, v in record.items()}, **of_step}
            for (record, _), of_step in zip(self.waiting, sums, strict=True)
        ]
        now = time.perf_counter()
        clips_per_s = len(records) * self.batch_size / (now - self.since)
        self.since, self.waiting = now, []
        for record in records:
            record["clips_per_s"] = round(clips_per_s, 2)
        if self.enabled:
            with self.path.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
        for record in records:
            broken = {name: value for name, value in record.items() if not math.isfinite(value)}
            # A term that is not finite spoils the total loss and the gradient: name the term.
            terms = {name: value for name, value in broken.items() if name.startswith("loss/")} or broken
            if terms:
                message = ", ".join(f"{name} is {value}" for name, value in terms.items())
                raise NotFiniteError(f"step {record['step']}: {message}")
        return records

    def _sums(self) -> list[dict[str, float]]:
        """Return the sums over ranks for each waiting record, by one collective."""
        names = list(self.waiting[0][1])
        shares = [torch.stack([shares[name] for name in names]) for _, shares in self.waiting if names]
        if not shares:
            return [{} for _ in self.waiting]
        # In fp64, and rounded: then the order in which a collective adds does not show.
        rows = self.total(torch.stack(shares).double()).float().tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]


def cut_back(path: Path, step: int) -> int:
    """Remove the lines of a journal after `step`, and return the last remaining step; 0 if none remains."""
    try:
        lines = read_plain(path, MOST_JOURNAL_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    kept = [line for line in lines if _step(line) <= step]
    if len(kept) < len(lines):
        write_text(path, "".join(line + "\n" for line in kept))
    return int(_step(kept[-1])) if kept else 0


def _step(line: str) -> float:
    """Return the step of a line; inf for a line that a crash truncated, so that it is removed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
