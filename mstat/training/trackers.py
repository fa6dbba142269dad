"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and Trackio, through Accelerate.

metrics.jsonl and evaluations.jsonl are the record of a run. For each tracker of `train.log_with`, a thread of the main
process copies steps from there once a checkpoint of a later step is complete, and the last step when the run is done.
A run resumes from its newest complete checkpoint, so a step that was sent is never trained again. RUN/trackers.json has
the run of each tracker and the last step that was sent.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from mstat.config import Config
from mstat.config.cli import flat
from mstat.console import console, print_line
from mstat.errors import UserError
from mstat.files import read_json, write_json
from mstat.runs import evaluation_log
from mstat.runs.log import logger
from mstat.training.tracker_kinds import STARTS, Started
from mstat.weights import checkpoint_files
from shards.text import markup

FILE = "trackers.json"
POLL_SECONDS = 2.0  # between two looks at the newest checkpoint
STALL_SECONDS = 30.0  # without progress, after which the end of a run no longer waits for a tracker
QUIET_SECONDS = 5.0  # of waiting at the end of a run before a line says so
MOST_MESSAGE_CHARACTERS = 300


class Trackers:
    """The trackers of a run; a context manager, which on exit waits until they have what they may have.

    Args:
        config: Settings of the run.
        names: Names of trackers; none on every rank but 0.
    """

    def __init__(self, config: Config, names: Sequence[str]) -> None:
        self.config, self.names = config, names
        self.senders: list[_Sender] = []
        self.ended = threading.Event()

    def __enter__(self) -> Trackers:
        return self

    def begin(self, start: int) -> None:
        """Start to follow the run, which resumes from the checkpoint of step `start`; 0 if it has none.

        Raises:
            UserError: If trackers.json is damaged.
        """
        if self.names:
            entries = _Entries(Path(self.config.run))
            self.senders = [_Sender(name, self.config, entries, start, self.ended) for name in self.names]
            for sender in self.senders:
                sender.start()

    def finish(self, evaluation: Mapping[str, Any] | None) -> None:
        """Let the trackers have the last step, with its scores, if any. Call it when the run is done."""
        for sender in self.senders:
            sender.final = evaluation or {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended.set()
        for sender in self.senders:
            sender.join(QUIET_SECONDS)
            if sender.is_alive():
                print_line(f"train.log_with {sender.name}: sending the last steps; Ctrl-C leaves them to a later start")
            while sender.is_alive():
                before = sender.sent
                sender.join(STALL_SECONDS)
                if sender.is_alive() and sender.sent == before:
                    sender.warn(f"no answer for {STALL_SECONDS:.0f} s")
                    break


class _Entries:
    """RUN/trackers.json: for each tracker, `run`, its own name of the run, and `sent`, the last step sent."""

    def __init__(self, run: Path) -> None:
        self.path, self.lock = run / FILE, threading.Lock()
        self.entries: dict[str, Any] = read_json(self.path) if self.path.exists() else {}

    def get(self, name: str) -> tuple[str, int] | None:
        """Return `run` and `sent` of a tracker; None if nothing was sent to it."""
        if name not in self.entries:
            return None
        match self.entries[name]:
            case {"run": str(run), "sent": int(sent)}:
                return run, sent
        raise UserError(f"{self.path}: {name} must have `run` and `sent`: remove the file to begin new tracker runs")

    def set(self, name: str, run: str, sent: int) -> None:
        with self.lock:
            self.entries[name] = {"run": run, "sent": sent}
            write_json(self.path, self.entries)


class _Sender(threading.Thread):
    """The thread of one tracker. Its errors become one warning: they never end the training.

    It is a daemon, since a server that does not answer must not keep the process from its end.

    Attributes:
        sent: The last step sent.
        final: Scores of the last step, when the run is done; None before.
    """

    def __init__(self, name: str, config: Config, entries: _Entries, start: int, ended: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.config, self.folder, self.entries, self.ended = config, Path(config.run).absolute(), entries, ended
        self.entry = entries.get(name)
        if self.entry is not None and self.entry[1] > start:
            self._mention(
                f"it has steps up to {self.entry[1]}, but the run resumes at {start}: a new run of the tracker begins"
            )
            self.entry = None
        self.sent = 0 if self.entry is None else self.entry[1]
        self.final: Mapping[str, Any] | None = None
        self.place = 0  # in metrics.jsonl, behind the last record sent

    def run(self) -> None:
        try:
            self._follow()
        except Exception as error:
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_MESSAGE_CHARACTERS]
            self.warn(cause.rstrip("."))

    def warn(self, cause: str) -> None:
        """Say in run.log and on the terminal that this tracker gets no more steps from this process."""
        self._mention(f"{cause}; the run is not affected, and its next start sends the steps after {self.sent}")

    def _mention(self, note: str) -> None:
        note = f"train.log_with {self.name}: {note}"
        logger.warning("%s", note)
        console().print(f"[yellow]{markup(note)}[/]", highlight=False, soft_wrap=True)

    def _follow(self) -> None:
        started = STARTS[self.name](self.folder, self.entry and self.entry[0], self.sent)
        self.sent = started.sent
        if started.lacks_settings:
            started.tracker.store_init_configuration(hyperparameters(self.config))
        self.entries.set(self.name, started.run, self.sent)
        is_last = False
        while not is_last:
            is_last = self.ended.wait(POLL_SECONDS)
            whole = checkpoint_files.folders(self.folder)
            # The newest checkpoint's own step may still get scores: a step is sent once, with all that it has.
            newest = whole[-1][0] if whole else 0
            self._send(started, newest if self.final is not None else newest - 1)
        started.tracker.finish()

    def _send(self, to: Started, last: int) -> None:
        """Send the steps up to `last` that the tracker lacks."""
        if last <= self.sent:
            return
        scores = _scores(self.folder) | ({} if self.final is None else {last: self.final})
        try:
            for record in self._records(last):
                if record["step"] > self.sent:
                    to.tracker.log(values(record, scores.get(record["step"], {})), step=record["step"])
                    self.sent = record["step"]
        finally:
            self.entries.set(self.name, to.run, self.sent)

    def _records(self, last: int) -> Iterator[dict[str, Any]]:
        """Yield the records of metrics.jsonl from the last place up to step `last`."""
        with (self.folder / "metrics.jsonl").open("rb") as file:
            file.seek(self.place)
            while line := file.readline():
                if not line.endswith(b"\n") or (record := json.loads(line))["step"] > last:
                    break
                self.place = file.tell()
                yield record


def hyperparameters(config: Config) -> dict[str, str | int | float | bool]:
    """Return every setting by its dotted key, as values that all trackers accept: null and lists become text."""
    settings = flat(asdict(config))
    return {
        key: value if isinstance(value, str | int | float) else json.dumps(value) for key, value in settings.items()
    }


def values(record: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, float]:
    """Return what a tracker gets of a step: its record in metrics.jsonl, and its scores as `evaluation/mAP`."""
    of_step = {name: value for name, value in record.items() if name != "step"}
    return of_step | {
        f"evaluation/{name}": value
        for name, value in scores.items()
        if type(value) in (int, float) and name != "step" and not name.startswith("num_")
    }


def _scores(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the records of evaluations.jsonl by step."""
    path = folder / evaluation_log.FILE
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return {record["step"]: record for record in records}
