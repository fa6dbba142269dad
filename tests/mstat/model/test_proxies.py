import dataclasses
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from mstat.model.proxies import AAP, IAP
from tests.mstat.model.small import SMALL


def test_aap_is_attention_with_proxies_for_queries() -> None:
    """Head by head: softmax(P_Q K^T / sqrt(d)) V, keys and values from the normalised tokens (Eq. 4)."""
    torch.manual_seed(0)
    aap, x = AAP(SMALL, 5), torch.randn(2, 11, 32)
    keys, values = F.linear(F.layer_norm(x, (32,), eps=1e-6), aap.kv.weight, aap.kv.bias).chunk(2, -1)
    heads = []
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        attention = (aap.proxies[:, part] @ keys[..., part].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append(attention @ values[..., part])
    torch.testing.assert_close(aap(x), aap.proj(torch.cat(heads, -1)), rtol=1e-5, atol=1e-6)


def test_proxies_start_anisotropic() -> None:
    """Rows are orthogonal and of length sqrt(D)."""
    torch.manual_seed(0)
    for proxies in (AAP(SMALL, 5).proxies, IAP(SMALL).keys):
        torch.testing.assert_close(proxies @ proxies.T, 32 * torch.eye(len(proxies)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", ["softmax-l1", "l1-softmax"])
def test_iap_makes_the_class_row_of_the_whole_map(order: Literal["softmax-l1", "l1-softmax"]) -> None:
    """The short cut to the class token's row equals building all of A, in either order, and taking row 0 of A V."""
    torch.manual_seed(0)
    iap, x = IAP(dataclasses.replace(SMALL, iap_norm=order)), torch.randn(2, 11, 32)
    queries = iap.query(F.layer_norm(x, (32,), eps=1e-6))
    heads = []
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        affinity = queries[..., part] @ iap.keys[:, part].T / 8**0.5  # B, S, M
        if order == "softmax-l1":
            affinity = affinity.softmax(1)
            affinity = affinity / affinity.abs().sum(2, keepdim=True)
        else:
            affinity = affinity / affinity.abs().sum(2, keepdim=True)
            affinity = affinity.softmax(1)
        heads.append((affinity @ iap.values[:, part])[:, 0])
    updated = x[:, 0] + iap.proj(torch.cat(heads, -1))
    updated = updated + iap.mlp(F.layer_norm(updated, (32,), eps=1e-6))
    torch.testing.assert_close(iap(x), updated, rtol=1e-5, atol=1e-6)


def test_iap_hears_all_tokens() -> None:
    """A patch token acts on the class token through the normalisation over tokens."""
    torch.manual_seed(0)
    iap, x = IAP(SMALL), torch.randn(1, 11, 32, requires_grad=True)
    iap(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(1) > 1e-6).all()


def test_iap_bears_large_logits() -> None:
    """Prototypes ten thousand times as long as usual give finite features."""
    torch.manual_seed(0)
    iap = IAP(SMALL)
    with torch.no_grad():
        iap.keys.mul_(1e4)
    assert iap(torch.randn(2, 11, 32)).isfinite().all()
