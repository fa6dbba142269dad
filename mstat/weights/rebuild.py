"""A model out of a description and weights that somebody else may have made.

All of it is checked before memory is taken: fields of the description by type and range, and names, shapes and types of
the tensors against a model on the meta device, which has shapes and no numbers.
"""

from __future__ import annotations

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

# Type of a tensor as safetensors calls it; half and double precision become the model's own.
FLOATS = {"F32", "F16", "BF16", "F64"}


def model_config(description: Any) -> ModelConfig:
    """The settings of a model that a description holds; those that an older version did not write have their default.

    Raises:
        UserError: If a field is unknown, or its value is not one that the setting may have.
    """
    if not isinstance(description, Mapping):
        raise UserError("it has no settings of a model")
    kinds = get_type_hints(ModelConfig)
    if unknown := [str(key) for key in description if key not in kinds]:
        raise UserError(f"unknown settings of a model: {named(unknown)}")
    if odd := [key for key, value in description.items() if not is_of(kinds[key], value)]:
        raise UserError(f"model.{odd[0]} is {description[odd[0]]!r:.60}, which it cannot be")
    fields: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in description.items()}
    config = ModelConfig(**fields)
    # No clip is cropped here.
    if complaint := out_of_range(Config(model=config, clip=ClipConfig(crop_padding=0))):
        raise UserError(complaint)
    return config


def is_of(kind: Any, value: Any) -> bool:
    """Return whether a JSON value is of the type of a setting; lists stand for tuples."""
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
    """The model of a config without memory, after a comparison of its tensors with those of a file.

    Raises:
        UserError: If the model cannot be built, or names or shapes of tensors differ.
    """
    if sum(config.depths) > len(shapes):  # a block has more than one tensor
        raise UserError(f"model.depths {list(config.depths)} does not fit the {len(shapes)} tensors in the file")
    try:
        with torch.device("meta"):
            model = MSTAT(config)
    except UserError:
        raise
    except (RuntimeError, OverflowError, ValueError, TypeError) as error:  # sizes that no tensor can have
        raise UserError(f"no model can be built of it: {' '.join(str(error).split()):.200}") from None
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := sorted(ours.keys() - shapes.keys()):
        raise UserError(f"tensors are missing: {named(missing)}")
    if unknown := sorted(shapes.keys() - ours.keys()):
        raise UserError(f"tensors that this model does not have: {named(unknown)}")
    if wrong := [f"{name} {shapes[name]} (here {shape})" for name, shape in ours.items() if shapes[name] != shape]:
        raise UserError(f"shapes differ: {named(wrong)}")
    return model


def fill(model: MSTAT, tensors: Mapping[str, Tensor]) -> MSTAT:
    """Give a model of `check_tensors` memory and these weights.

    Raises:
        UserError: If they are not all finite, or cannot be used.
    """
    if broken := not_finite(dict(tensors)):
        raise UserError(f"holds numbers that are not finite: {named(broken)}")
    if not (tensors["stem.pixel_std"] > 0).all():
        raise UserError("stem.pixel_std, by which pixels are divided, is not above 0")
    model = model.to_empty(device="cpu")
    model.load_state_dict(dict(tensors))
    return model.eval()
