"""Compare the settings of a model with those that pretrained weights need, and name the ones to change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from typing import Any

from torch import Tensor

from mstat.config import ModelConfig
from mstat.errors import UserError
from mstat.model.attention import ACTIVATIONS
from mstat.weights.checkpoint_keys import has_layer_scale, has_stem_norm
from mstat.weights.safe_load import printable
from mstat.weights.source import Source


def refuse_settings(config: ModelConfig, source: Source, names: Collection[str], kernel: Tensor | None = None) -> None:
    """Raise a UserError that names the settings to use, if the weights need others than the model has.

    Names show the modules. No name shows the activation and the epsilon: a description beside the weights states them,
    otherwise they are OpenAI's for weights with CLIP's norm before the blocks, and the usual ones for all others.

    Args:
        names: Official names of the weights, or ours.
        kernel: Patch embedding as a convolution, which shows the size of the patches.
    """
    stem_norm, layer_scale = has_stem_norm(names), has_layer_scale(names)
    needed: dict[str, Any] = {
        "stem_norm": stem_norm,
        "activation": source.activation or ("quick_gelu" if stem_norm else "gelu"),
        "norm_eps": source.norm_eps or (1e-5 if stem_norm else 1e-6),
    }
    if needed["activation"] not in ACTIVATIONS:
        raise UserError(
            f"{source.path}: trained with the activation {printable(needed['activation'])}, which MSTAT lacks"
        )
    if layer_scale != (config.layer_scale is not None):
        needed["layer_scale"] = 1 if layer_scale else None
    if kernel is not None and kernel.dim() == 4 and kernel.shape[2] == kernel.shape[3]:
        needed["patch_size"] = kernel.shape[3]
    settings = dataclasses.asdict(config)
    flags = [f"--model.{name} {as_flag(value)}" for name, value in needed.items() if settings[name] != value]
    if not flags:
        return
    hint = ""
    if settings["activation"] != needed["activation"] and source.activation is None:
        hint = f"; if they were trained with {config.activation}, state it in a config.json beside them: "
        hint += json.dumps({"hidden_act": config.activation})
    raise UserError(f"{source.path}: these weights need other settings: {' '.join(flags)}{hint}")


def as_flag(value: Any) -> str:
    """Return a setting as it is written on a command line."""
    return f"{value:.1e}" if isinstance(value, float) else json.dumps(value) if not isinstance(value, str) else value
