"""The optimiser of a run: one branch of `make_optimizer` for each name of `optim.name`."""

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
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=True)
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)
