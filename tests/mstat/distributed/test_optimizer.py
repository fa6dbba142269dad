"""The optimiser of a run: weight decay and rates reach the weights that they should, the name chooses the update."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import nn

from mstat.config import Config, OptimConfig, changed
from mstat.distributed.optimizer import group_settings, make_optimizer, set_rates, states_per_weight
from mstat.training.task import Task
from tests.mstat.training.test_task import SMALL


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


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_both_adams_have_their_betas_and_their_decay(name: Literal["adamw", "adam"]) -> None:
    """The first step is lr, whatever the gradient. Adam adds the decay to the gradient, AdamW to the step."""
    task = nn.Linear(1, 1, bias=False)
    nn.init.constant_(task.weight, 2.0)
    optimizer = make_optimizer(task, OptimConfig(name=name, lr=0.1, betas=(0.5, 0.75), weight_decay=0.25))
    task.weight.grad = torch.ones_like(task.weight)
    optimizer.step()
    gradient, decay = (1.5, 0.0) if name == "adam" else (1.0, 0.1 * 0.25 * 2)
    torch.testing.assert_close(task.weight.detach(), torch.tensor([[2 - 0.1 - decay]]))
    state = optimizer.state[task.weight]
    moments = torch.stack([state["exp_avg"], state["exp_avg_sq"]]).flatten()
    torch.testing.assert_close(moments, torch.tensor([0.5 * gradient, 0.25 * gradient**2]))


def task_of(bnneck: bool = False) -> Task:
    """A task with two blocks in Stages I and III, and one in Stage II."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"model.depths": (2, 1, 2), "model.bnneck": bnneck, "loss.metric": "arcface"}
    return Task(changed(Config(model=SMALL), settings), num_classes=3)


def rates(task: nn.Module, optimizer: torch.optim.Optimizer, **options: bool) -> dict[str, float]:
    """The rate of each parameter at lr 1."""
    set_rates(optimizer.param_groups, 1.0, **options)
    of = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    return {name: of[id(parameter)] for name, parameter in task.named_parameters() if parameter.requires_grad}


def test_two_groups_unless_rates_are_set_apart() -> None:
    """With decay and without, in the order of the parameters, all at one rate: checkpoints of older versions fit."""
    task = task_of()
    optimizer = make_optimizer(task, OptimConfig())
    assert set(rates(task, optimizer).values()) == {1.0}
    names = {id(parameter): name for name, parameter in task.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-5, 0.0]
    first = len(optimizer.param_groups[0]["params"])
    for part in (order[:first], order[first:]):
        assert part == [name for name in names.values() if name in part]
    assert set(group_settings(OptimConfig()).values()) == {None}


RATES = {
    "model.stem.patch.weight": 0.5**5,
    "model.stem.patch.bias": 3 * 0.5**5,
    "model.stem.class_token": 0.5**5,
    "model.stage1.blocks.0.mlp.fc1.weight": 0.5**4,
    "model.stage1.blocks.1.mlp.fc1.weight": 0.5**3,
    "model.stage1.blocks.1.mlp.fc1.bias": 3 * 0.5**3,
    "model.stage1.norm.weight": 1.0,
    "model.stage1.norm.bias": 3.0,
    "model.stage2.blocks.0.mlp.fc1.weight": 0.5,
    "model.stage3.class_token": 0.5**3,
    "model.stage3.blocks.0.mlp.fc1.weight": 0.5**2,
    "model.stage3.blocks.1.mlp.fc1.weight": 0.5,
    "heads.II.classifier.weight": 10.0,
}


@pytest.mark.parametrize("bnneck", [False, True])
def test_rates_by_group(bnneck: bool) -> None:
    """Each parameter has the product of its factors: of its block, of biases, of heads."""
    task = task_of(bnneck)
    config = OptimConfig(head_lr=10.0, bias_lr=3.0, layer_decay=0.5)
    rates_by_name = rates(task, make_optimizer(task, config))
    assert {name: rates_by_name[name] for name in RATES} == RATES
    heads = {name for name in rates_by_name if not name.startswith("model.") or name.startswith("model.necks.")}
    assert {rates_by_name[name] for name in heads} == ({10.0} if bnneck else {10.0, 30.0})
    assert {name.split(".")[0] for name in heads} == {"heads", "metrics", *(["model"] if bnneck else [])}
    assert all(group["params"] for group in make_optimizer(task, config).param_groups), "DeepSpeed drops empty groups"


@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_a_frozen_backbone_stays(name: Literal["sgd", "adamw", "adam"]) -> None:
    """Bit for bit, with gradients, momentum and weight decay, while the heads move; afterwards all move."""
    task = task_of(bnneck=True)
    optimizer = make_optimizer(task, OptimConfig(name=name, weight_decay=0.1, freeze_steps=3, head_lr=2.0))
    trained = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}

    def moved(heads_only: bool) -> set[str]:
        before = {name: parameter.detach().clone() for name, parameter in trained.items()}
        for parameter in trained.values():
            parameter.grad = torch.randn_like(parameter)
        set_rates(optimizer.param_groups, 0.1, heads_only=heads_only)
        optimizer.step()
        return {name for name, parameter in trained.items() if not torch.equal(parameter, before[name])}

    heads = {name for name in trained if name.startswith(("heads.", "metrics.", "model.necks."))}
    assert moved(heads_only=False) == set(trained), "momentum exists"
    for _ in range(3):
        assert moved(heads_only=True) == heads
    assert moved(heads_only=False) == set(trained)
    assert rates(task, optimizer, heads_only=True)["heads.I.classifier.weight"] == 2.0


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adamw", 0.9), ("adam", 0.9)])
def test_the_states_of_every_optimiser(name: Literal["sgd", "adamw", "adam"], momentum: float) -> None:
    """As many values for each weight as the optimiser has after a step."""
    task, config = small()[0], OptimConfig(name=name, momentum=momentum)
    optimizer = make_optimizer(task, config)
    task(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    weight = next(task.parameters())
    states = [value for value in optimizer.state[weight].values() if torch.is_tensor(value)]
    assert sum(state.shape == weight.shape for state in states) == states_per_weight(config)
