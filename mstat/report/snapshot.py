"""Write the model of a run as a folder in the layout of the Hugging Face Hub.

model.safetensors  model.json                the model
config.yaml        evaluation.json           settings and scores, without any path of this machine
README.md                                    the model card
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mstat.config import changed
from mstat.config.cli import load_config, save_config
from mstat.errors import UserError
from mstat.files import read_json, write_json, write_text
from mstat.report.model_card import card
from mstat.runs.source import model_of_run, provenance
from mstat.weights.export import export

CARD = "README.md"
SCORES = {"dataset", "protocol", "split", "num_valid_query", "num_gallery", "mAP"}  # what the card needs


def write_snapshot(
    run: Path,
    folder: Path,
    checkpoint: str | None = None,
    licence: str | None = None,
    init_licence: str | None = None,
    name: str | None = None,
) -> None:
    """See `mstat.save_pretrained`. `name` is that of the repository in the card; None takes the folder's."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: no config.yaml in it: give a folder that launch/train.py made")
    folder = folder.resolve()  # "." has no name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists, and is not an empty folder: give another one, or remove it")
    config = load_config(run / "config.yaml")
    model, source = model_of_run(run, checkpoint)
    origin = provenance(run, source, config, init_licence)
    evaluation = _evaluation(run, source)
    facts: dict[str, Any] = {
        "config": config,
        "evaluation": evaluation,
        "environment": read_json(run / "environment.json") if (run / "environment.json").is_file() else {},
    }
    tmp = folder.with_name(f".{folder.name}.{os.getpid()}")
    tmp.mkdir(parents=True)
    try:
        export(tmp, {f"model.{key}": value for key, value in model.state_dict().items()}, model.config, model.embedding)
        names = {"run": run.resolve().name, "data.shards": _name(config.data.shards)}
        if config.model.init:
            names["model.init"] = _name(config.model.init)
        save_config(changed(config, names), tmp / "config.yaml")
        if not isinstance(evaluation, str):
            write_json(tmp / "evaluation.json", evaluation)
        write_text(tmp / CARD, card(name or folder.name, origin, facts, licence))
        tmp.rename(folder)  # an empty folder is replaced
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _name(place: str) -> str:
    """Return the last part of a path or URL, without a query, which may hold a signature, and without a password."""
    if "://" not in place:
        return Path(place).name
    url = urlsplit(place)
    return Path(url.path).name or url.hostname or ""


def _evaluation(run: Path, source: Path) -> dict[str, Any] | str:
    """Return the scores of the finished model, or the reason why there are none."""
    if source.name != "model.safetensors":
        return f"Not measured: these are the weights of {source.name}, and scores are of the end of a training."
    if not (run / "evaluation.json").is_file():
        return "Not measured: the run was not evaluated."
    evaluation = read_json(run / "evaluation.json")
    if missing := SCORES - evaluation.keys():
        raise UserError(f"{run / 'evaluation.json'}: it lacks {', '.join(sorted(missing))}: evaluate the run again")
    return evaluation
