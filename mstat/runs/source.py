"""The model of a run, and the origin of its weights, for files that are given to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mstat.config import Config
from mstat.errors import UserError
from mstat.files import read_json
from mstat.model import MSTAT
from mstat.runs.checkpoint import find
from mstat.weights.export import load_model

FILES = ("model.safetensors", "model.json")


def model_of_run(run: Path, checkpoint: str | None) -> tuple[MSTAT, Path]:
    """Return the model of a run, and its source: a file or a checkpoint folder.

    Args:
        checkpoint: A name for `mstat.runs.checkpoint.find`; None is the model of a finished run, or the newest
            checkpoint of a run that is not finished.

    Raises:
        UserError: If there is no such checkpoint, or the files are damaged.
    """
    finished = checkpoint is None and all((run / name).is_file() for name in FILES)
    source = run / FILES[0] if finished else find(run, checkpoint or "newest")
    return load_model(source), source


def provenance(run: Path, source: Path, config: Config, licence: str | None) -> dict[str, Any]:
    """Return what the run knows of the origin of its weights; of files and folders, only their names.

    Raises:
        UserError: If a licence of start weights is given, and the run had none.
    """
    record = run / "init.json"
    init = str(read_json(record).get("file")) if record.is_file() else config.model.init
    if init is None and licence is not None:
        raise UserError("--init-licence: the run has no start weights (model.init): leave it out")
    return {
        "run": run.resolve().name,
        "weights": source.name,
        "seed": config.seed,
        "start_weights": "none: trained from scratch" if init is None else Path(init).name,
        "start_weights_licence": "none: trained from scratch" if init is None else licence or "unknown",
    }
