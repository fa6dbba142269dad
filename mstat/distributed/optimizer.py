"""The optimiser of a run: its parameter groups and their rates, and one case for each name of `optim.name`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mstat.config import OptimConfig
from mstat.model import no_weight_decay

# The classifiers and weights of metric losses, the BNNecks, and the classifier of pretraining.
HEADS = ("heads.", "metrics.", "model.necks.", "model.head.")
BLOCK = re.compile(r"model\.stage([123])\.blocks\.(\d+)\.")
BELOW_STAGE1 = ("model.stem.", "model.time_position")  # embeddings
BELOW_STAGE3 = "model.stage3.class_token"


def make_optimizer(task: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the trained parameters.

    Its groups are those with weight decay, then those without: one of each, unless `config` sets rates apart. A group
    has the keys `heads` and `factor`, which `set_rates` reads. All optimisers are fused, so they read weights,
    gradients and moments from memory once.
    """
    groups = _groups(task, config)
    lr, momentum = config.lr, config.momentum
    match config.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, betas=config.betas, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, betas=config.betas, fused=True)


def states_per_weight(config: OptimConfig) -> int:
    """Return the number of fp32 values that the optimiser keeps for each weight, in memory and in checkpoints."""
    match config.name:
        case "sgd":
            return int(config.momentum > 0)
        case "adamw" | "adam":
            return 2


def set_rates(groups: Iterable[dict[str, Any]], lr: float, *, heads_only: bool = False) -> None:
    """Set the rate of each group to `lr` times its factor, or with `heads_only` to 0 if it is not of the heads.

    At rate 0, neither gradients nor momentum nor weight decay move a weight.
    """
    for group in groups:
        # Groups from checkpoints of older versions have no such keys: their rates were not set apart.
        is_moved = group.get("heads", True) or not heads_only
        group["lr"] = lr * group.get("factor", 1.0) if is_moved else 0.0


def group_settings(config: OptimConfig) -> dict[str, Any]:
    """Return the settings that checkpoints keep in the optimiser's groups, as JSON values by dotted key.

    A default is None, as in checkpoints of versions without the setting.
    """
    names = ("betas", "head_lr", "bias_lr", "layer_decay", "freeze_steps")
    values = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(OptimConfig(), name)}
    if "betas" in values:
        values["betas"] = list(config.betas)
    return {f"optim.{name}": values.get(name) for name in names}


def _groups(task: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Return the parameter groups that are not empty, in an order that depends on nothing but names and settings."""
    parameters = [(name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad]
    levels = _levels([name for name, _ in parameters])
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in sorted(parameters, key=lambda one: no_weight_decay(*one)):
        factor = config.layer_decay ** levels[name]
        if name.rpartition(".")[2] == "bias":
            factor *= config.bias_lr
        heads = name.startswith(HEADS)
        if heads:
            factor *= config.head_lr
        # Heads have groups of their own only if needed: old checkpoints have two groups.
        key = (no_weight_decay(name, parameter), heads and config.freeze_steps > 0, factor)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": members, "weight_decay": 0.0 if is_free else config.weight_decay, "heads": heads, "factor": factor}
        for (is_free, heads, factor), members in groups.items()
    ]


def _levels(names: Sequence[str]) -> dict[str, int]:
    """Return the exponent of `optim.layer_decay` for each parameter: the blocks from the top down to its own.

    Stages II and III stand side by side on Stage I, so the last block of either has 1, and Stage I's last block has 1
    more than the first block of the deeper one. Embeddings lie below the first block. All that is behind the blocks,
    such as read-outs, norms and heads, has 0.
    """
    blocks = {name: (int(match[1]), int(match[2])) for name in names if (match := BLOCK.match(name))}
    first, second, third = (
        1 + max((index for of, index in blocks.values() if of == stage), default=-1) for stage in (1, 2, 3)
    )
    tops = {1: first + max(second, third), 2: second, 3: third}  # levels of the first block of each stage

    def level(name: str) -> int:
        if name in blocks:
            stage, index = blocks[name]
            return tops[stage] - index
        if name.startswith(BELOW_STAGE1):
            return tops[1] + 1
        return third + 1 if name == BELOW_STAGE3 else 0

    return {name: level(name) for name in names}
