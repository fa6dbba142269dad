"""The trained model as two files: model.safetensors, and model.json with all that rebuilds it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mstat.checkpoint_files import META, find, folders, read_meta, read_weights
from mstat.config import Config, ModelConfig
from mstat.errors import UserError
from mstat.files import write_json
from mstat.model import MSTAT
from mstat.model.classifier import to_timesformer
from shards.paths import expand

FORMAT = 1
CLASSIFIER = (
    "launch/pretrain.py made it, and its classifier of actions tells no people apart; "
    "train a model that starts from it: launch/train.py --model.init {}"
)


def export(folder: Path, weights: Mapping[str, torch.Tensor], config: Config) -> None:
    """Write the model alone out of a task's weights; the classifiers stay behind, no one evaluates with them.

    Pixel mean and deviation are among the weights; the frame size is in the description.
    """
    _write(folder, _of_model(weights), {"model": dataclasses.asdict(config.model)})


def export_classifier(
    folder: Path, weights: Mapping[str, torch.Tensor], config: Config, classes: Sequence[str]
) -> None:
    """Write the classifier out of a pretraining's weights as a TimeSformer, for `--model.init`.

    The description says what the head's rows mean; no MSTAT can be made of it, and `load_model` says so.
    """
    classifier = {
        "classes": list(classes),
        "num_frames": config.clip.num_frames,
        "time": config.pretrain.time,
        "image_size": config.model.image_size,
    }
    _write(folder, to_timesformer(_of_model(weights), config.model.patch_size), {"classifier": classifier})


def export_run(run: Path, checkpoint: str | None, config: Config, out: Path) -> Path:
    """Write the model of a run into `out`; gives the file or the checkpoint that it comes from.

    Args:
        checkpoint: As `mstat.checkpoint_files.find` takes it; None is the finished run's model, or the newest
            checkpoint's where the run is not finished.
    """
    files = [run / name for name in ("model.json", "model.safetensors")]
    if checkpoint is None and all(file.is_file() for file in files):
        out.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, out / file.name)
        return files[1]
    folder = find(run, checkpoint or "newest")
    meta, weights = read_meta(folder), read_weights(folder)
    config = dataclasses.replace(config, model=_model_config(meta["model"]))
    out.mkdir(parents=True, exist_ok=True)
    if meta.get("pretrain") is None:
        export(out, weights, config)
    else:
        from mstat.pretrain import PRETRAINING  # which imports this file

        PRETRAINING.export(out, weights, config)
    return folder


def _of_model(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "model."
    return {name.removeprefix(prefix): t.contiguous() for name, t in weights.items() if name.startswith(prefix)}


def _write(folder: Path, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    aside = folder / ".model.safetensors"
    aside.touch()
    mode = aside.stat().st_mode
    save_file(tensors, aside, metadata={"format": "pt"})
    aside.chmod(mode)  # safetensors leaves 0600, whatever the umask says
    # The description first: weights that are there can always be loaded.
    write_json(folder / "model.json", {"format": FORMAT, **description})
    aside.replace(folder / "model.safetensors")


def load_model(run_or_file: str | PathLike[str]) -> MSTAT:
    """See `mstat.load`."""
    source = Path(expand(fspath(run_or_file)))
    if (source / META).exists():
        return _from_checkpoint(source)
    weights_file = source / "model.safetensors" if source.is_dir() else source
    description_file = weights_file.with_suffix(".json")
    for path in (weights_file, description_file):
        if not path.is_file():
            whole = folders(source) if source.is_dir() else []
            newest = f"; its newest checkpoint can be loaded: {whole[-1][1]}" if whole else ""
            raise UserError(
                f"{path}: not there; a finished run has model.safetensors and model.json side by side{newest}"
            )
    try:
        description = json.loads(description_file.read_text())
        if description["format"] != FORMAT:
            raise UserError(f"format {description['format']}, this program reads {FORMAT}")
        if "classifier" in description:
            raise UserError(CLASSIFIER.format(weights_file))
        model = _build(description["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{description_file}: not a description of a model: {error}") from None
    try:
        model.load_state_dict(load_file(weights_file))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{weights_file}: does not fit {description_file.name}: {error}") from None
    return model.eval()


def _from_checkpoint(folder: Path) -> MSTAT:
    """The model in a checkpoint of a run, which may not be finished."""
    meta = read_meta(folder)
    if meta.get("pretrain") is not None:
        raise UserError(f"{folder}: {CLASSIFIER.format(folder)}")
    weights = _of_model(read_weights(folder))
    try:
        model = _build(meta["model"])
        model.load_state_dict(weights)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder / META}: does not describe the model of this checkpoint: {error}") from None
    return model.eval()


def _build(fields: Mapping[str, Any]) -> MSTAT:
    return MSTAT(_model_config(fields))


def _model_config(description: Mapping[str, Any]) -> ModelConfig:
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in description.items()}
    return ModelConfig(**fields)
