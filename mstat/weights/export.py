"""Write and load a trained model as two files: model.safetensors, and model.json, which describes the model."""

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
from mstat.model import MSTAT, Embedding
from mstat.weights import hub
from mstat.weights.checkpoint_files import META, checksum, folders, read_meta, read_weights
from mstat.weights.checkpoint_keys import to_timesformer
from mstat.weights.rebuild import FLOATS, check_tensors, fill, model_config
from mstat.weights.safe_load import named
from mstat.weights.source import refuse_changed
from shards.paths import expand
from shards.records import UsageError
from shards.text import printable

FORMAT = 1
DEFAULT = Embedding()
MOST_DESCRIPTION = 1 << 20  # bytes of a model.json
CLASSIFIER = (
    "an action classifier of launch/pretrain.py, which cannot tell people apart; "
    "train a model from its weights: launch/train.py --model.init {}"
)


def export(
    folder: Path, weights: Mapping[str, torch.Tensor], config: ModelConfig, embedding: Embedding = DEFAULT
) -> None:
    """Write the model of a task's weights, without the classifiers, which evaluation does not use.

    The weights include pixel mean and deviation; the description has the frame size.
    """
    settings = dataclasses.asdict(config)
    if config.init:
        settings["init"] = Path(config.init).name  # files for others name no folder of this machine
    _write(folder, _of_model(weights), {"model": settings, "embedding": embedding._asdict()})


def export_classifier(
    folder: Path, weights: Mapping[str, torch.Tensor], config: Config, classes: Sequence[str]
) -> None:
    """Write the classifier of a pretraining's weights as a TimeSformer, for `--model.init`.

    The description names the class of each row of the head. `load_model` refuses the file: it is not an MSTAT.
    """
    classifier = {
        "classes": list(classes),
        "num_frames": config.clip.num_frames,
        "time": config.pretrain.time,
        "image_size": config.model.image_size,
        "activation": config.model.activation,
        "norm_eps": config.model.norm_eps,
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
    tmp.chmod(mode)  # safetensors sets 0600 and ignores the umask
    # The description first, so that weights which are present can always be loaded.
    write_json(folder / "model.json", {"format": FORMAT, "sha256": checksum(tmp), **description})
    tmp.replace(folder / "model.safetensors")


def load_model(run_or_file: str | PathLike[str]) -> MSTAT:
    """See `mstat.load`."""
    note = ""
    try:
        source, repository = hub.local(expand(fspath(run_or_file)))
        if repository is not None:
            note = f" (a copy from the Hub: `hf cache rm model/{repository.name}` removes it from the cache)"
        return _load(source)
    except (UserError, UsageError, OSError) as error:
        raise UserError(printable(" ".join(str(error).split())) + note) from None


def _load(source: Path) -> MSTAT:
    if (source / META).exists():
        return _from_checkpoint(source)
    weights_file = source / "model.safetensors" if source.is_dir() else source
    description_file = weights_file.with_suffix(".json")
    for path in (weights_file, description_file):
        if not path.is_file():
            whole = folders(source) if source.is_dir() else []
            newest = f"; load its newest checkpoint instead: {whole[-1][1]}" if whole else ""
            raise UserError(
                f"{path}: no such file; a finished run has model.safetensors and model.json side by side{newest}"
            )
    config, embedding = _described(description_file, weights_file)
    refuse_changed(weights_file)
    try:
        with safe_open(weights_file, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            odd = [name for name, stored in slices.items() if stored.get_dtype() not in FLOATS]
            if odd:
                raise UserError(f"tensors that are not floating-point: {named(odd)}")
            model = check_tensors(config, {name: tuple(stored.get_shape()) for name, stored in slices.items()})
            model = fill(model, {name: file.get_tensor(name) for name in slices})
            model.embedding = embedding
            return model
    except UserError as error:
        raise UserError(f"{weights_file}: does not fit {description_file.name}: {error}") from None
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{weights_file}: not a valid safetensors file: {error}; copy it again") from None


def _described(path: Path, weights_file: Path) -> tuple[ModelConfig, Embedding]:
    """Return the model settings and the form of features in a model.json."""
    try:
        description = read_plain_json(path.resolve(), MOST_DESCRIPTION)
        if not isinstance(description, dict):
            raise UserError("it is not a JSON object")
        if description.get("format") != FORMAT:
            raise UserError(f"format {description.get('format')!r:.60}; this version of mstat reads format {FORMAT}")
        if "classifier" in description:
            raise UserError(CLASSIFIER.format(weights_file))
        return model_config(description.get("model")), _embedding(description.get("embedding", {}))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a model description: {error}") from None


def _embedding(value: Any) -> Embedding:
    """Return the form of features in a model.json; a file of an older version has the default."""
    if not isinstance(value, dict) or value.keys() - Embedding._fields:
        raise UserError(f"embedding is {value!r:.60}; it must hold feature and stage_norm")
    embedding = Embedding(**value)
    if embedding.feature not in ("feature", "neck") or not isinstance(embedding.stage_norm, bool):
        raise UserError(f"embedding is {value!r:.60}; feature must be feature or neck, stage_norm true or false")
    return embedding


def _from_checkpoint(folder: Path) -> MSTAT:
    """Load the model of a checkpoint; the run need not be finished."""
    meta = read_meta(folder)
    if meta.get("pretrain") is not None:
        raise UserError(f"{folder}: {CLASSIFIER.format(folder)}")
    weights = _of_model(read_weights(folder))
    try:
        model = check_tensors(model_config(meta.get("model")), {name: tuple(t.shape) for name, t in weights.items()})
        model = fill(model, weights)
    except UserError as error:
        raise UserError(f"{folder / META}: does not describe the model of this checkpoint: {error}") from None
    settings = folder.parent.parent / "config.yaml"  # RUN/config.yaml, for RUN/checkpoints/step-...
    if settings.is_file():
        from mstat.config.cli import load_config  # imports the parser, which weights alone do not need

        compared = load_config(settings).eval
        model.embedding = Embedding(compared.feature, compared.stage_norm)
    return model
