"""The trackers that Accelerate knows: what each needs, how it starts, and how it goes on with a run.

Each `_<tracker>` takes the run folder, the tracker's name of the run and the last step by trackers.json (None and 0 if
nothing was sent), and returns a `Started`.
"""

from __future__ import annotations

import importlib
import logging
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from mstat.errors import UserError

# What each tracker imports, and the extra that installs it.
NEEDS = {
    "tensorboard": (("torch.utils.tensorboard",), "trackers"),
    "wandb": (("wandb",), "wandb"),
    "mlflow": (("mlflow", "mlflow.store.tracking.sqlalchemy_store"), "trackers"),
    # Trackio looks for matplotlib at each step, which fails while the report imports it in the main thread.
    "trackio": (("trackio", "matplotlib.figure"), "trackio"),
}


def check_packages(names: Sequence[str]) -> None:
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
                    f"train.log_with {name} needs the package {error.name or module}: pip install 'mstat[{extra}]', "
                    f"or leave {name} out"
                ) from None


class Started(NamedTuple):
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


def _tensorboard(folder: Path, run: str | None, sent: int) -> Started:
    """Start TensorBoard in RUN/tensorboard. Its readers ignore what earlier files have from `purge_step` on."""
    tracker = TensorBoardTracker("tensorboard", folder, purge_step=sent + 1)
    tracker.start()
    return Started(tracker, "tensorboard", sent, lacks_settings=run is None)


def _wandb(folder: Path, run: str | None, sent: int) -> Started:
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
    return Started(tracker, run, 0 if is_new else max(0, tracker.tracker.step - 1), lacks_settings=is_new)


def _mlflow(folder: Path, run: str | None, sent: int) -> Started:
    """Start MLflow in RUN/mlflow, or where MLFLOW_TRACKING_URI says. It stores a step in one transaction."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it reports each table that it makes
    uri, artifacts = os.environ.get("MLFLOW_TRACKING_URI"), None
    if uri:
        mlflow.set_tracking_uri(uri)
    else:
        (folder / "mlflow").mkdir(exist_ok=True)
        artifacts = str(folder / "mlflow" / "artifacts")
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # which MLflow has set: the run of another split has its own
    tracker = MLflowTracker(project(folder), logging_dir=artifacts, run_id=run, run_name=folder.name)
    tracker.start()
    name = str(tracker.tracker.info.run_id)
    steps = (metric.step for metric in mlflow.MlflowClient().get_metric_history(name, "loss"))
    return Started(tracker, name, max(steps, default=0), lacks_settings=run is None)


def _trackio(folder: Path, run: str | None, sent: int) -> Started:
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
    return Started(tracker, name, max(0, tracker.tracker._next_step - 1), lacks_settings=True)


STARTS = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow, "trackio": _trackio}


def project(folder: Path) -> str:
    """Return the project, or experiment, of a run folder: the name of the folder that holds it."""
    return folder.resolve().parent.name or "mstat"
