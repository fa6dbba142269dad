import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mstat.config import ModelConfig
from mstat.model.attention import Attend
from mstat.model.cpu import FEWEST_ROWS, SHORT, CPUAttend, CPULinear, use_cpu_kernels
from mstat.model.mstat import MSTAT
from tests.mstat.model.small import SMALL


class Seen(TorchDispatchMode):
    """Names of the operators that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def layers(bias: bool) -> tuple[CPULinear, nn.Linear]:
    torch.manual_seed(0)
    ours = CPULinear(24, 40, bias=bias)
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


@pytest.mark.parametrize("keys", [1, 8, SHORT, SHORT + 1])
def test_attention_is_softmax_attention(keys: int) -> None:
    """Short and long, the result and its gradients are those of the textbook's formula in fp64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 16, generator=generator, requires_grad=True) for length in (5, keys, keys))
    wide = [x.double() for x in (q, k, v)]
    expected = (wide[0] @ wide[1].mT / 4).softmax(-1) @ wide[2]
    out = CPUAttend()(q, k, v)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, Attend()(q, k, v), rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    own = torch.autograd.grad((out * weights).sum(), [q, k, v])
    theirs = torch.autograd.grad((expected * weights).sum(), [q, k, v])
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [SMALL, dataclasses.replace(SMALL, activation="quick_gelu", norm_eps=1e-5, stem_norm=True, layer_scale=0.5)],
)
def test_a_model_keeps_its_weights_and_its_features(config: ModelConfig) -> None:
    """`use_cpu_kernels` replaces every linear layer and attention, and changes neither names nor, but for rounding,
    features. A new model has PyTorch's own layers, which exporters and adapters know."""
    torch.manual_seed(0)
    model = MSTAT(config)
    names = list(model.state_dict())
    frames = torch.randint(0, 256, (2, 3, *config.image_size, 3), dtype=torch.uint8)
    assert not any(isinstance(module, CPULinear | CPUAttend) for module in model.modules())
    with torch.no_grad():
        plain = model(frames)
        use_cpu_kernels(model)
        assert not any(type(module) in (nn.Linear, Attend) for module in model.modules())
        assert any(isinstance(module, CPULinear) for module in model.modules())
        for one, other in zip(plain, model(frames), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == names


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
