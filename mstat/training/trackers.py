"""Experiment trackers: TensorBoard, Weights & Biases, MLflow and Trackio, through Accelerate.

metrics.jsonl and evaluations.jsonl are the record of a run. For each tracker of `train.log_with`, a thread of the main
process copies steps from there once a checkpoint of a later step is complete, and the last step when the run is done.
A run resumes from its newest complete checkpoint, so a step that was sent is never trained again. RUN/trackers.json has
the run of each tracker and the last step that was sent.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from mstat.config import Config
from mstat.config.cli import flat
from mstat.console import console, print_line
from mstat.errors import UserError
from mstat.files import read_json, write_json
from mstat.runs import evaluation_log
from mstat.runs.log import logger
from mstat.weights import checkpoint_files
from shards.text import markup

FILE = "trackers.json"
POLL_SECONDS = 2.0  # between two looks at the newest checkpoint
STALL_SECONDS = 30.0  # without progress, after which the end of a run no longer waits for a tracker
QUIET_SECONDS = 5.0  # of waiting at the end of a run before a line says so
MOST_MESSAGE_CHARACTERS = 300

# What each tracker imports, and the extra that installs it.
NEEDS = {
    "tensorboard": (("torch.utils.tensorboard",), "trackers"),
    "wandb": (("wandb",), "trackers"),
    "mlflow": (("mlflow", "mlflow.store.tracking.sqlalchemy_store"), "trackers"),
    "trackio": (("trackio",), "trackio"),
}


def check(names: Sequence[str]) -> None:
    """Import the packages of trackers, here and not in a thread: two threads that import can fail.

    Raises:
        UserError: If a package is missing.
    """
    for name in names:
        modules, extra = NEEDS[name]
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError as error:
                raise UserError(
                    f"train.log_with {name} needs the package {error.name}: pip install 'mstat[{extra}]', "
                    f"or leave {name} out"
                ) from None


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
        """Start to follow the run, which resumes at step `start`; metrics.jsonl has no later steps.

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
        opened = OPENERS[self.name](self.folder, self.entry and self.entry[0], self.sent)
        tracker, self.sent = opened.tracker, opened.sent
        if opened.lacks_settings:
            tracker.store_init_configuration(hyperparameters(self.config))
        self.entries.set(self.name, opened.run, self.sent)
        is_last = False
        while not is_last:
            is_last = self.ended.wait(POLL_SECONDS)
            whole = checkpoint_files.folders(self.folder)
            # The newest checkpoint's own step may still get scores: a step is sent once, with all that it has.
            newest = whole[-1][0] if whole else 0
            self._send(tracker, opened.run, newest if self.final is not None else newest - 1)
        tracker.finish()

    def _send(self, tracker: GeneralTracker, run: str, last: int) -> None:
        """Send the steps up to `last` that the tracker lacks."""
        if last <= self.sent:
            return
        scores = _scores(self.folder) | ({} if self.final is None else {last: self.final})
        try:
            for record in self._records(last):
                if record["step"] > self.sent:
                    tracker.log(values(record, scores.get(record["step"], {})), step=record["step"])
                    self.sent = record["step"]
        finally:
            self.entries.set(self.name, run, self.sent)

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


class _Opened(NamedTuple):
    """A started tracker.

    Attributes:
        run: The tracker's name of the run, by which a later start goes on with it.
        sent: The last step that it has. A killed process may have sent more than trackers.json says, or lost what it
            sent: so a tracker that can tell is asked.
        lacks_settings: Whether the hyperparameters must be sent.
    """

    tracker: GeneralTracker
    run: str
    sent: int
    lacks_settings: bool


def _tensorboard(folder: Path, run: str | None, sent: int) -> _Opened:
    """Start TensorBoard in RUN/tensorboard. Its readers ignore what earlier files have from `purge_step` on."""
    tracker = TensorBoardTracker("tensorboard", folder, purge_step=sent + 1)
    tracker.start()
    return _Opened(tracker, "tensorboard", sent, lacks_settings=run is None)


def _wandb(folder: Path, run: str | None, sent: int) -> _Opened:
    """Start Weights & Biases in RUN/wandb, offline unless WANDB_MODE says otherwise.

    A killed process loses steps that its service had not written. Only the server says which it has. Offline, each
    start writes a folder of its own, with all steps.
    """
    import wandb

    mode = os.environ.get("WANDB_MODE", "offline")
    run = run or uuid.uuid4().hex
    tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", project(folder)),
        id=run,
        name=folder.name,
        dir=str(folder),
        mode=mode,
        resume="allow" if mode == "online" else None,  # offline it cannot, and warns
        settings=wandb.Settings(console="off", silent=True),  # run.log has the output
    )
    tracker.start()
    is_new = not tracker.tracker.resumed
    return _Opened(tracker, run, 0 if is_new else tracker.tracker.step - 1, lacks_settings=is_new)


def _mlflow(folder: Path, run: str | None, sent: int) -> _Opened:
    """Start MLflow in RUN/mlflow, or where MLFLOW_TRACKING_URI says. It stores a step in one transaction."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports each table that it makes
    artifacts = None
    if "MLFLOW_TRACKING_URI" not in os.environ:
        (folder / "mlflow").mkdir(exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # which MLflow has set: the run of another split has its own
        artifacts = str(folder / "mlflow" / "artifacts")
    tracker = MLflowTracker(project(folder), logging_dir=artifacts, run_id=run, run_name=folder.name)
    tracker.start()
    name = str(tracker.tracker.info.run_id)
    steps = (metric.step for metric in mlflow.MlflowClient().get_metric_history(name, "loss"))
    return _Opened(tracker, name, max(steps, default=0), lacks_settings=run is None)


def _trackio(folder: Path, run: str | None, sent: int) -> _Opened:
    """Start Trackio in its own folder, which is not the run's, since one dashboard shows all runs."""
    name = run or f"{folder.name}-{uuid.uuid4().hex[:8]}"
    tracker = TrackioTracker(
        project(folder),
        name=name,
        resume="allow",
        embed=False,
        auto_log_gpu=False,  # its samples of the machine would take time from the training
        auto_log_cpu=False,
    )
    tracker.start()
    # A killed process loses what Trackio's own thread had not written. A resume replaces the settings.
    return _Opened(tracker, name, max(0, tracker.tracker._next_step - 1), lacks_settings=True)


OPENERS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}


def project(folder: Path) -> str:
    """Return the project, or experiment, of a run folder: the name of the folder that holds it."""
    return folder.resolve().parent.name or "mstat"
