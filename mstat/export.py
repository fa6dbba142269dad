"""The trained model as two files: model.safetensors, and model.json with all that rebuilds it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mstat.config import Config, ModelConfig
from mstat.errors import UserError
from mstat.files import write_json
from mstat.model import MSTAT
from mstat.model.classifier import to_timesformer
from shards.paths import expand

FORMAT = 1


def export(run: Path, weights: Mapping[str, torch.Tensor], config: Config) -> None:
    """Write the model alone out of a task's weights; the classifiers stay behind, no one evaluates with them.

    Pixel mean and deviation are among the weights; the frame size is in the description.
    """
    _write(run, _of_model(weights), {"model": dataclasses.asdict(config.model)})


def export_classifier(run: Path, weights: Mapping[str, torch.Tensor], config: Config, classes: Sequence[str]) -> None:
    """Write the classifier out of a pretraining's weights as a TimeSformer, for `--model.init`.

    The description says what the head's rows mean; no MSTAT can be made of it, and `load_model` says so.
    """
    classifier = {
        "classes": list(classes),
        "num_frames": config.clip.num_frames,
        "time": config.pretrain.time,
        "image_size": config.model.image_size,
    }
    _write(run, to_timesformer(_of_model(weights), config.model.patch_size), {"classifier": classifier})


def _of_model(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "model."
    return {name.removeprefix(prefix): t.contiguous() for name, t in weights.items() if name.startswith(prefix)}


def _write(run: Path, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    aside = run / ".model.safetensors"
    save_file(tensors, aside, metadata={"format": "pt"})
    # The description first: weights that are there can always be loaded.
    write_json(run / "model.json", {"format": FORMAT, **description})
    aside.replace(run / "model.safetensors")


def load_model(run_or_file: str | PathLike[str]) -> MSTAT:
    """See `mstat.load`."""
    weights_file = Path(expand(fspath(run_or_file)))
    if weights_file.is_dir():
        weights_file = weights_file / "model.safetensors"
    description_file = weights_file.with_suffix(".json")
    for path in (weights_file, description_file):
        if not path.is_file():
            raise UserError(f"{path}: not there; a finished run has model.safetensors and model.json side by side")
    try:
        description = json.loads(description_file.read_text())
        if description["format"] != FORMAT:
            raise UserError(f"format {description['format']}, this program reads {FORMAT}")
        if "classifier" in description:
            raise UserError(
                "launch/pretrain.py made it, and its classifier of actions tells no people apart; "
                f"train a model that starts from it: launch/train.py --model.init {weights_file}"
            )
        fields: dict[str, Any] = description["model"]
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        model = MSTAT(ModelConfig(**fields))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{description_file}: not a description of a model: {error}") from None
    try:
        model.load_state_dict(load_file(weights_file))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{weights_file}: does not fit {description_file.name}: {error}") from None
    return model.eval()
