"""The trained model as two files: model.safetensors, and model.json with all that rebuilds it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mstat.config import Config, ModelConfig
from mstat.files import write_json
from mstat.model import MSTAT

FORMAT = 1


def export(run: Path, weights: Mapping[str, torch.Tensor], config: Config) -> None:
    """Write the model alone out of a task's weights; the classifiers stay behind, no one evaluates with them.

    Pixel mean and deviation are among the weights; the frame size is in the description.
    """
    prefix = "model."
    model = {name.removeprefix(prefix): t.contiguous() for name, t in weights.items() if name.startswith(prefix)}
    aside = run / ".model.safetensors"
    save_file(model, aside, metadata={"format": "pt"})
    # The description first: weights that are there can always be loaded.
    write_json(run / "model.json", {"format": FORMAT, "model": dataclasses.asdict(config.model)})
    aside.replace(run / "model.safetensors")


def load_model(run_or_file: str | PathLike[str]) -> MSTAT:
    """See `mstat.load`."""
    weights_file = Path(run_or_file)
    if weights_file.is_dir():
        weights_file = weights_file / "model.safetensors"
    description_file = weights_file.with_suffix(".json")
    for path in (weights_file, description_file):
        if not path.is_file():
            raise ValueError(f"{path}: not there; a finished run has model.safetensors and model.json side by side")
    try:
        description = json.loads(description_file.read_text())
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}, this program reads {FORMAT}")
        fields: dict[str, Any] = description["model"]
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        model = MSTAT(ModelConfig(**fields))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{description_file}: not a description of a model: {error}") from None
    try:
        model.load_state_dict(load_file(weights_file))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{weights_file}: does not fit {description_file.name}: {error}") from None
    return model.eval()
