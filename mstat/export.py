"""The trained model as two files: model.safetensors, and model.json with all that rebuilds it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mstat.checkpoint_files import META, checksum, find, folders, read_meta, read_weights
from mstat.config import Config, ModelConfig
from mstat.errors import UserError
from mstat.files import read_plain_json, write_json
from mstat.model import MSTAT
from mstat.model.classifier import to_timesformer
from mstat.model.rebuild import FLOATS, check_tensors, fill, model_config
from mstat.model.source import refuse_changed
from mstat.model.weights import named
from shards.paths import expand
from shards.text import printable

FORMAT = 1
MOST_DESCRIPTION = 1 << 20  # bytes of a model.json
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
    try:
        config = dataclasses.replace(config, model=model_config(meta.get("model")))
    except UserError as error:
        raise UserError(f"{folder / META}: {error}") from None
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
    write_json(folder / "model.json", {"format": FORMAT, "sha256": checksum(aside), **description})
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
        raise UserError(f"{weights_file}: no weights: {printable(' '.join(str(error).split()))}") from None


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
        raise UserError(f"{path}: not a description of a model: {printable(error)}") from None


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
