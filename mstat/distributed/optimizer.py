"""The optimiser of a run: each name of `optim.name` has one case in each function here."""

from __future__ import annotations

import torch
from torch import nn

from mstat.config import OptimConfig
from mstat.model import no_weight_decay


def make_optimizer(task: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the trained parameters, in two groups: with weight decay and without.

    Both optimisers are fused, so they read weights, gradients and momentum from memory once.
    """
    parameters = [(name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for n, p in parameters if not no_weight_decay(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in parameters if no_weight_decay(n, p)], "weight_decay": 0.0},
    ]
    lr, momentum = config.lr, config.momentum
    match config.name:
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=True)


def states_per_weight(config: OptimConfig) -> int:
    """Return the number of fp32 values that the optimiser keeps for each weight, in memory and in checkpoints."""
    match config.name:
        case "sgd":
            return int(config.momentum > 0)
        case "adamw":
            return 2
