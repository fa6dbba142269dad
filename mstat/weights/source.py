"""Read the source of `model.init`: a file, a sharded file, a folder, a run, or a checkpoint.

A Source holds the tensors, what a description beside them says of their model, and notes for the printed table. No code
of these files is run (`mstat.weights.safe_load`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mstat.errors import UserError
from mstat.files import read_plain_json
from mstat.weights import checkpoint_files
from mstat.weights.checkpoint_keys import PIXELS, Pixels, to_timesformer
from mstat.weights.file_kinds import TENSORFLOW
from mstat.weights.positions import Grid
from mstat.weights.safe_load import named, printable, read_file

# Usual names of weights in a folder; the first one present counts.
USUAL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SUFFIXES = (".safetensors", ".bin", ".pth", ".pyth", ".pt", ".ckpt")
MOST_JSON = 1 << 26  # bytes of a description


@dataclass
class Source:
    """Weights, and their description.

    Attributes:
        path: The file or folder of the weights, for messages.
        tensors: Tensors by their names in the file.
        others: Unused entries of the file, by name, with the reason.
        grid: Rows and columns of patches, if a description beside the weights gives them.
        activation: Activation of the MLPs, likewise.
        norm_eps: Epsilon of the norms, likewise.
        pixels: Mean and deviation of the pixels, likewise.
        notes: Decisions while reading, for the user.
    """

    path: Path
    tensors: dict[str, Tensor]
    others: dict[str, str] = field(default_factory=dict)
    grid: Grid | None = None
    activation: str | None = None
    norm_eps: float | None = None
    pixels: Pixels | None = None
    notes: list[str] = field(default_factory=list)


def read_source(path: Path) -> Source:
    """Return the weights at a path.

    Raises:
        UserError: If there are no weights or several, or if they are damaged or more than plain tensors.
    """
    if (path / checkpoint_files.META).exists():
        return _checkpoint(path)
    if path.is_dir():
        file = _file_in(path)
        source = read_source(file)
        source.notes.insert(0, f"{file.name} in the folder")
        return source
    source = _sharded(path) if path.name.endswith(".index.json") else _single(path)
    refuse_changed(path)
    _describe(path, source)
    return source


def _single(path: Path) -> Source:
    tensors, others, wrappers = read_file(path)
    notes = [f"weights under {printable(' / '.join(wrappers))!r} in the file"] if wrappers else []
    if (part := re.search(r"-(\d{5})-of-(\d{5})\.\w+$", path.name)) and int(part[2]) > 1:
        raise UserError(
            f"{path}: part {int(part[1])} of {int(part[2])} of sharded weights: give the folder, or its .index.json"
        )
    return Source(path, tensors, others, notes=notes)


def _sharded(path: Path) -> Source:
    """Return the tensors of all parts that a Hugging Face index names; the parts lie beside it."""
    index = _read_json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{path}: not an index of sharded weights: it has no weight_map")
    files = list(dict.fromkeys(name if isinstance(name, str) else repr(name)[:100] for name in places.values()))
    if not all(Path(name).name == name and name.endswith(SUFFIXES) for name in files):
        raise UserError(f"{path}: its parts must be files in the same folder, not {named(map(str, files))}")
    if missing := [name for name in files if not (path.parent / name).is_file()]:
        raise UserError(f"{path}: parts are missing: {named(missing)}; download them again")
    tensors: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    for name in files:
        part = read_file(path.parent / name)
        if twice := part.tensors.keys() & tensors.keys():
            raise UserError(f"{path.parent / name}: has keys of another part: {named(sorted(twice))}")
        tensors |= part.tensors
        others |= part.others
    if absent := sorted(places.keys() - tensors.keys() - others.keys()):
        raise UserError(f"{path}: its parts lack {named(absent)}; download them again")
    return Source(path, tensors, others, notes=[f"{len(files)} parts of {path.name}"])


def _file_in(folder: Path) -> Path:
    """Return the file with the weights in a folder."""
    for name in USUAL:
        if (folder / name).is_file():
            return folder / name
    if whole := checkpoint_files.folders(folder):
        raise UserError(f"{folder}: the run is not finished (no model.safetensors); give its checkpoint {whole[-1][1]}")
    if (folder / "saved_model.pb").exists() or any(folder.glob("*.index")):
        raise UserError(f"{folder}: it is {TENSORFLOW}")
    files = [
        path for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
        and (path.name.endswith(SUFFIXES) or path.name.endswith(".index.json"))
    ]  # fmt: skip
    indices = [path for path in files if path.name.endswith(".index.json")]
    if len(indices) == 1 and all(re.search(r"-\d{5}-of-\d{5}\.", path.name) for path in files if path not in indices):
        return indices[0]
    if len(files) == 1:
        return files[0]
    if files:
        names = named(path.name for path in files)
        raise UserError(f"{folder}: has {len(files)} files of weights ({names}): give one of the files instead")
    inside = named(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise UserError(f"{folder}: has no file of weights ({', '.join(SUFFIXES)}), but {inside}")


def _checkpoint(folder: Path) -> Source:
    """Return the weights of a checkpoint; its run need not be finished."""
    meta = checkpoint_files.read_meta(folder)
    tensors = checkpoint_files.read_weights(folder)
    others = {name: "belongs to training, not to the model" for name in tensors if not name.startswith("model.")}
    tensors = {name: value for name, value in tensors.items() if name not in others}
    source = Source(folder, tensors, others, _grid(meta.get("model")), notes=[f"checkpoint after step {meta['step']}"])
    _take_settings(source, meta.get("model"))
    if "model.head.weight" in tensors:  # a classifier of actions
        bare = {name.removeprefix("model."): value for name, value in tensors.items()}
        try:
            side = math.isqrt(bare["stem.patch.weight"].shape[1] // 3)
            source.tensors = to_timesformer(bare, side)
            source.pixels = _same_for_colours("divided" if "time_position" in bare else "none")
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            raise UserError(f"{folder}: not the weights of a pretraining run: {printable(str(error))}") from None
        source.notes.append("a checkpoint of launch/pretrain.py; keys as in its model.safetensors")
    return source


def refuse_changed(path: Path) -> None:
    """Refuse a model.safetensors of ours that differs from the checksum in the model.json beside it."""
    description = path.with_suffix(".json")
    if path.suffix == ".safetensors" and description.is_file():
        content = _read_json(description)
        expected = content.get("sha256") if isinstance(content, dict) and content.get("format") else None
        if expected is not None and checkpoint_files.checksum(path) != expected:
            raise UserError(
                f"{path}: changed after it was written (its SHA-256 differs from {description.name}): copy it again"
            )


def _describe(path: Path, source: Source) -> None:
    """Add what the description beside the file says: our model.json, or Hugging Face's or timm's config.json."""
    ours, theirs = path.with_suffix(".json"), path.parent / "config.json"
    if path.suffix == ".safetensors" and ours.is_file() and isinstance(description := _read_json(ours), dict):
        classifier, model = description.get("classifier"), description.get("model")
        if isinstance(classifier, dict):
            kernel = source.tensors.get("patch_embed.proj.weight")
            source.grid = _grid({**classifier, "patch_size": _side(kernel)})
            source.pixels = _same_for_colours(classifier.get("time"))
            _take_settings(source, classifier)
            return
        if (grid := _grid(model)) is not None:
            source.grid = grid
            _take_settings(source, model)
            return
    if theirs.is_file() and isinstance(description := _read_json(theirs), dict):
        of_timm = description.get("pretrained_cfg")
        if isinstance(of_timm, dict) and isinstance(size := of_timm.get("input_size"), list):
            kernel = next((v for k, v in source.tensors.items() if k.endswith("patch_embed.proj.weight")), None)
            source.grid = _grid({"image_size": size[-2:], "patch_size": _side(kernel)})
            source.pixels = _pixels(of_timm.get("mean"), of_timm.get("std"))
            # OpenAI's weights also belong to architectures of timm without QuickGELU, for fine-tuning.
            quick = "quickgelu" in str(description.get("architecture")) or of_timm.get("tag") == "openai"
            source.activation = "quick_gelu" if quick else "gelu"
            return
        of_clip = description.get("vision_config")
        settings = of_clip if isinstance(of_clip, dict) else description
        source.grid = _grid(settings)
        _take_settings(source, {"activation": settings.get("hidden_act"), "norm_eps": settings.get("layer_norm_eps")})


def _take_settings(source: Source, settings: Any) -> None:
    """Add activation and epsilon of a description."""
    if isinstance(settings, Mapping):
        activation, eps = settings.get("activation"), settings.get("norm_eps")
        source.activation = activation if isinstance(activation, str) else None
        source.norm_eps = eps if type(eps) is float else None


def _pixels(mean: Any, std: Any) -> Pixels | None:
    """Return mean and deviation, if they are three numbers each, the deviation more than 0."""
    for three in (mean, std):
        if not isinstance(three, list) or len(three) != 3 or not all(type(x) is float and 0 <= x <= 1 for x in three):
            return None
    return (tuple(mean), tuple(std)) if all(std) else None


def _same_for_colours(time: Any) -> Pixels | None:
    """Return mean and deviation of our classifier with the setting `pretrain.time`."""
    if not isinstance(time, str) or time not in PIXELS:
        return None
    mean, std = PIXELS[time]
    return (mean,) * 3, (std,) * 3


def _side(kernel: Tensor | None) -> int | None:
    """Return the side of a square patch: the last dimension of the patch embedding."""
    return kernel.shape[-1] if kernel is not None and kernel.dim() else None


def _grid(description: Any) -> Grid | None:
    """Return image size over patch size, if a description has both."""
    if not isinstance(description, Mapping):
        return None

    def pair(value: Any) -> tuple[int, int] | None:
        sides = value if isinstance(value, list | tuple) else [value, value]
        good = len(sides) == 2 and all(type(side) is int and 0 < side < 1 << 20 for side in sides)
        return (sides[0], sides[1]) if good else None

    image, patch = pair(description.get("image_size")), pair(description.get("patch_size"))
    if image is None or patch is None:
        return None
    return max(1, image[0] // patch[0]), max(1, image[1] // patch[1])


def _read_json(path: Path) -> Any:
    try:
        return read_plain_json(path.resolve(), MOST_JSON)  # download caches consist of links
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {printable(' '.join(str(error).split()))}") from None
