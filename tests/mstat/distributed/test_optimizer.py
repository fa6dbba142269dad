"""The optimiser of a run: weight decay reaches the weights that it should, and the names choose the update."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from mstat.config import OptimConfig
from mstat.distributed.optimizer import make_optimizer, states_per_weight


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def after_one_step(config: OptimConfig, steps: int = 1) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights before and after steps whose gradients are all 0, as under weight decay alone."""
    task = small()
    before = {name: value.detach().clone() for name, value in task.named_parameters()}
    optimizer = make_optimizer(task, config)
    for _ in range(steps):
        for parameter in task.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return before, {name: value.detach() for name, value in task.named_parameters()}


def test_biases_and_norms_do_not_decay() -> None:
    """Matrices shrink by lr times weight decay, under both optimisers."""
    for name in ("sgd", "adamw"):
        before, after = after_one_step(OptimConfig(name=name, lr=0.1, weight_decay=0.5, momentum=0.0))
        for key in before:
            factor = 1 - 0.1 * 0.5 if key in ("0.weight", "2.weight") else 1.0
            torch.testing.assert_close(after[key], factor * before[key], msg=f"{name}: {key}")


def test_frozen_weights_are_left_out() -> None:
    """They have no gradient, and would decay."""
    task = small()
    task[0].requires_grad_(False)
    optimizer = make_optimizer(task, OptimConfig())
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in [*task[1].parameters(), *task[2].parameters()]}


def test_sgd_takes_the_nesterov_step() -> None:
    """With gradient 1 the first step is lr (1 + momentum); without momentum, lr."""
    for momentum, first in ((0.9, 0.19), (0.0, 0.1)):
        task = nn.Linear(1, 1, bias=False)
        before = task.weight.detach().clone()
        optimizer = make_optimizer(task, OptimConfig(name="sgd", lr=0.1, momentum=momentum, weight_decay=0.0))
        task.weight.grad = torch.ones_like(task.weight)
        optimizer.step()
        torch.testing.assert_close(before - task.weight, torch.full((1, 1), first))


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adamw", 0.9)])
def test_the_states_of_every_optimiser(name: Literal["sgd", "adamw"], momentum: float) -> None:
    """As many values for each weight as the optimiser has after a step."""
    task, config = small()[0], OptimConfig(name=name, momentum=momentum)
    optimizer = make_optimizer(task, config)
    task(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    weight = next(task.parameters())
    states = [value for value in optimizer.state[weight].values() if torch.is_tensor(value)]
    assert sum(state.shape == weight.shape for state in states) == states_per_weight(config)
