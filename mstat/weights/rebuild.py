"""Build a model from an untrusted description and untrusted weights.

Everything is checked before memory is allocated: the description's fields by type and range, and the tensors' names,
shapes and types against a model on the meta device.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from mstat.config import ClipConfig, Config, ModelConfig
from mstat.config.ranges import alternatives, out_of_range
from mstat.errors import UserError
from mstat.model.mstat import MSTAT
from mstat.weights.checkpoint_files import not_finite
from mstat.weights.safe_load import named

# Types of tensors by their safetensors names; the model converts them to its own precision.
FLOATS = {"F32", "F16", "BF16", "F64"}


def model_config(description: Any) -> ModelConfig:
    """Return the model settings of a description. Settings that an older version did not write get their default.

    Raises:
        UserError: If a field is unknown, or its value is invalid.
    """
    if not isinstance(description, Mapping):
        raise UserError("it has no model settings")
    kinds = get_type_hints(ModelConfig)
    if unknown := [str(key) for key in description if key not in kinds]:
        raise UserError(f"unknown model settings: {named(unknown)}")
    if odd := [key for key, value in description.items() if not is_of(kinds[key], value)]:
        raise UserError(f"model.{odd[0]} is {description[odd[0]]!r:.60}, which is not a valid value")
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in description.items()}
    config = ModelConfig(**fields)
    # Cropping is irrelevant here; the default padding could exceed a small image_size.
    if complaint := out_of_range(Config(model=config, clip=ClipConfig(crop_padding=0))):
        raise UserError(complaint)
    return config


def is_of(kind: Any, value: Any) -> bool:
    """Return whether a JSON value has the type of a setting; lists stand for tuples."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, list | tuple) or len(value) > 100:
            return False
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        return len(kinds) == len(value) and all(map(is_of, kinds, value))
    if (several := alternatives(kind)) != (kind,):
        return any(is_of(one, value) for one in several)
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e300
    return type(value) is (type(None) if kind is types.NoneType else kind)


def check_tensors(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> MSTAT:
    """Compare the tensors of a file with a config's model, and return the model on the meta device.

    Raises:
        UserError: If the model cannot be built, or names or shapes of tensors differ.
    """
    if sum(config.depths) > len(shapes):  # a block has more than one tensor
        raise UserError(f"model.depths {list(config.depths)} does not fit the {len(shapes)} tensors in the file")
    if not any(name.startswith("necks.") for name in shapes):
        config = dataclasses.replace(config, bnneck=False)  # exported before the neck was part of the model
    try:
        with torch.device("meta"):
            model = MSTAT(config)
    except UserError:
        raise
    except (RuntimeError, OverflowError, ValueError, TypeError) as error:  # impossible sizes
        raise UserError(f"no model can be built from its settings: {' '.join(str(error).split()):.200}") from None
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := sorted(ours.keys() - shapes.keys()):
        raise UserError(f"tensors are missing: {named(missing)}")
    if unknown := sorted(shapes.keys() - ours.keys()):
        raise UserError(f"tensors that are not in this model: {named(unknown)}")
    if wrong := [f"{name} {shapes[name]} (expected {shape})" for name, shape in ours.items() if shapes[name] != shape]:
        raise UserError(f"shapes differ: {named(wrong)}")
    return model


def fill(model: MSTAT, tensors: Mapping[str, Tensor]) -> MSTAT:
    """Allocate a model of `check_tensors` and load these weights.

    Raises:
        UserError: If a weight is not finite, or a pixel deviation is not positive.
    """
    if broken := not_finite(dict(tensors)):
        raise UserError(f"tensors are not finite: {named(broken)}")
    if not (tensors["stem.pixel_std"] > 0).all():
        raise UserError("stem.pixel_std must be more than 0, since pixels are divided by it")
    model = model.to_empty(device="cpu")
    model.load_state_dict(dict(tensors))
    return model.eval()
