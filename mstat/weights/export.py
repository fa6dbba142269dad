"""The trained model as two files: model.safetensors, and model.json with all that rebuilds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mstat.config import Config, ModelConfig
from mstat.errors import UserError
from mstat.files import read_plain_json, write_json
from mstat.model import MSTAT
from mstat.weights.checkpoint_files import META, checksum, folders, read_meta, read_weights
from mstat.weights.checkpoint_keys import to_timesformer
from mstat.weights.rebuild import FLOATS, check_tensors, fill, model_config
from mstat.weights.safe_load import named
from mstat.weights.source import refuse_changed
from shards.paths import expand
from shards.records import UsageError
from shards.text import printable

FORMAT = 1
MOST_DESCRIPTION = 1 << 20  # bytes of a model.json
CLASSIFIER = (
    "launch/pretrain.py made it, and its classifier of actions tells no people apart; "
    "train a model that starts from it: launch/train.py --model.init {}"
)


def export(folder: Path, weights: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Write the model alone out of a task's weights; the classifiers stay behind, no one evaluates with them.

    Pixel mean and deviation are among the weights; the frame size is in the description.
    """
    _write(folder, _of_model(weights), {"model": dataclasses.asdict(config)})


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


def _of_model(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "model."
    return {name.removeprefix(prefix): t.contiguous() for name, t in weights.items() if name.startswith(prefix)}


def _write(folder: Path, tensors: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    tmp = folder / ".model.safetensors"
    tmp.touch()
    mode = tmp.stat().st_mode
    save_file(tensors, tmp, metadata={"format": "pt"})
    tmp.chmod(mode)  # safetensors leaves 0600, whatever the umask says
    # The description first: weights that are there can always be loaded.
    write_json(folder / "model.json", {"format": FORMAT, "sha256": checksum(tmp), **description})
    tmp.replace(folder / "model.safetensors")


def load_model(run_or_file: str | PathLike[str]) -> MSTAT:
    """See `mstat.load`."""
    try:
        return _load(Path(expand(fspath(run_or_file))))
    except (UserError, UsageError, OSError) as error:
        raise UserError(printable(" ".join(str(error).split()))) from None


def _load(source: Path) -> MSTAT:
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
    config = _described(description_file, weights_file)
    refuse_changed(weights_file)
    try:
        with safe_open(weights_file, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no dict
            odd = [name for name, stored in slices.items() if stored.get_dtype() not in FLOATS]
            if odd:
                raise UserError(f"tensors of another type than floats: {named(odd)}")
            model = check_tensors(config, {name: tuple(stored.get_shape()) for name, stored in slices.items()})
            return fill(model, {name: file.get_tensor(name) for name in slices})
    except UserError as error:
        raise UserError(f"{weights_file}: does not fit {description_file.name}: {error}") from None
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{weights_file}: no weights: {error}") from None


def _described(path: Path, weights_file: Path) -> ModelConfig:
    """The settings of the model in a model.json."""
    try:
        description = read_plain_json(path.resolve(), MOST_DESCRIPTION)
        if not isinstance(description, dict):
            raise UserError("it holds no object")
        if description.get("format") != FORMAT:
            raise UserError(f"format {description.get('format')!r:.60}, this program reads {FORMAT}")
        if "classifier" in description:
            raise UserError(CLASSIFIER.format(weights_file))
        return model_config(description.get("model"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a description of a model: {error}") from None


def _from_checkpoint(folder: Path) -> MSTAT:
    """The model in a checkpoint of a run, which may not be finished."""
    meta = read_meta(folder)
    if meta.get("pretrain") is not None:
        raise UserError(f"{folder}: {CLASSIFIER.format(folder)}")
    weights = _of_model(read_weights(folder))
    try:
        model = check_tensors(model_config(meta.get("model")), {name: tuple(t.shape) for name, t in weights.items()})
        return fill(model, weights)
    except UserError as error:
        raise UserError(f"{folder / META}: does not describe the model of this checkpoint: {error}") from None
