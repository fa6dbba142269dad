import pytest
import torch
from torch.nn import functional as F

from mstat.model.attention import SHORT, attend


@pytest.mark.parametrize("keys", [1, 8, SHORT, SHORT + 1])
def test_attend_is_softmax_attention(keys: int) -> None:
    """Short and long, the result and its gradients are those of the textbook's formula in fp64."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 16, generator=generator, requires_grad=True) for length in (5, keys, keys))
    wide = [x.double() for x in (q, k, v)]
    expected = (wide[0] @ wide[1].mT / 4).softmax(-1) @ wide[2]
    out = attend(q, k, v)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v), rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    own = torch.autograd.grad((out * weights).sum(), [q, k, v])
    theirs = torch.autograd.grad((expected * weights).sum(), [q, k, v])
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
