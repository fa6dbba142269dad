from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mstat.model.linear import FEWEST_ROWS, Linear


class Seen(TorchDispatchMode):
    """Names of the operators that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def layers(bias: bool) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours = Linear(24, 40, bias=bias)
    plain = nn.Linear(24, 40, bias=bias)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def gradients(layer: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return list(torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (FEWEST_ROWS - 1,), (FEWEST_ROWS,), (3, 5, 50)])
def test_it_is_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    """Output and gradients are nn.Linear's, for few rows and many."""
    ours, plain = layers(bias)
    x = torch.randn(*shape, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
    torch.testing.assert_close(ours(x), plain(x))
    for own, expected in zip(gradients(ours, x, ours(x)), gradients(plain, x, plain(x)), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))


@pytest.mark.parametrize("rows", [7, FEWEST_ROWS])
def test_scale_multiplies_the_output(rows: int) -> None:
    """Output and all gradients, that of the scale too, are those of the layer's output times it; at 0 as well."""
    ours, plain = layers(bias=True)
    x = torch.randn(rows, 24, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for value in (0.0, 0.7):
        scale = torch.tensor([value], requires_grad=True)
        y, expected = ours(x, scale), scale * plain(x)
        torch.testing.assert_close(y, expected)
        (own,) = torch.autograd.grad(y.sum() + y.square().sum(), scale, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected.sum() + expected.square().sum(), scale, retain_graph=True)
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-3)
        for one, other in zip(gradients(ours, x, y), gradients(plain, x, expected), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def operators(layer: nn.Module, x: Tensor) -> set[str]:
    with Seen() as seen:
        layer(x)
    return seen.names


def test_who_multiplies(threads: Callable[[int], None]) -> None:
    """oneDNN, by a convolution, where rows are many and fp32; training with one thread, autocast and fp64 are
    PyTorch's as ever."""
    ours, _ = layers(bias=True)
    x = torch.randn(FEWEST_ROWS, 24)
    for count in (1, 2):
        threads(count)
        assert ("convolution" in operators(ours, x)) == (count > 1)
        with torch.no_grad():
            assert "mkldnn_convolution" in operators(ours, x)
        with torch.autocast("cpu", torch.bfloat16):
            assert not any("convolution" in name for name in operators(ours, x))
            assert ours(x).dtype == torch.bfloat16
    assert not any("convolution" in name for name in operators(ours.double(), x.double()))


@pytest.mark.parametrize("count", [1, 2])
def test_it_compiles(threads: Callable[[int], None], count: int) -> None:
    """As one graph, with and without gradients, on one thread and two."""
    threads(count)
    ours, plain = layers(bias=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x = torch.randn(FEWEST_ROWS, 24, generator=torch.Generator().manual_seed(1))
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            torch.testing.assert_close(compiled(x), plain(x))


def test_two_runs_give_the_same_bits() -> None:
    """Forward and backward of the convolution do not depend on chance, nor on where its input lies in memory."""
    ours, _ = layers(bias=True)
    room = torch.randn(FEWEST_ROWS * 24 + 1, generator=torch.Generator().manual_seed(1))
    aligned = room[:-1].view(FEWEST_ROWS, 24).clone().requires_grad_()
    moved = torch.empty_like(room)[1:].view(FEWEST_ROWS, 24).copy_(aligned.detach()).requires_grad_()
    first = [ours(aligned), *gradients(ours, aligned, ours(aligned))]
    for x in (aligned, moved):
        for one, other in zip(first, [ours(x), *gradients(ours, x, ours(x))], strict=True):
            assert torch.equal(one, other)
