"""The average of the weights is that of a plain loop over the steps."""

from __future__ import annotations

import torch
from torch import nn

from mstat.distributed.average import Average


def module() -> nn.Module:
    """A linear layer and a batch norm, in fp64, with one weight that is not trained."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    made[0].bias.requires_grad_(False)
    return made


def change(made: nn.Module) -> None:
    """Other weights, other statistics, and one more batch counted."""
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.add_(torch.randn_like(tensor))
    made(torch.randn(4, 3, dtype=torch.float64))


def values(made: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made.state_dict().items()}


def test_the_average_over_steps() -> None:
    """Of weights and of a batch norm's statistics; the decay rises as (1 + step) / (10 + step) up to its value. The
    count of batches, a whole number, stays the module's. Twice exchanged, all is as before."""
    made = module()
    expected = values(made)
    average = Average(made, decay=0.5)
    for step, decay in enumerate((1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5)):
        change(made)
        average.update(step)
        for name, value in made.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
    before, memory = values(made), [tensor.data_ptr() for tensor in made.parameters()]
    average.swap()
    torch.testing.assert_close(values(made), expected, rtol=1e-13, atol=1e-13)
    average.swap()
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert [tensor.data_ptr() for tensor in made.parameters()] == memory


def test_it_begins_at_the_weights() -> None:
    """When it is made, and when it begins again."""
    made = module()
    average = Average(made, decay=0.5)
    begun = values(made)
    for again in (False, True):
        change(made)
        if again:
            begun = values(made)
            average.restart()
        average.swap()
        assert all(torch.equal(made.state_dict()[name], value) for name, value in begun.items() if value.dim())
        average.swap()
