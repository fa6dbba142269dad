import pytest
import torch

from mstat.losses import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_definition(smoothing: float) -> None:
    """Mean of -sum_c q_c log p_c with q = (1 - s) onehot + s / C; fp64 stays fp64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    target = (1 - smoothing) * torch.eye(5, dtype=torch.float64)[labels] + smoothing / 5
    expected = -(target * (logits.exp() / logits.exp().sum(1, keepdim=True)).log()).sum(1).mean()
    loss = cross_entropy(logits, labels, smoothing)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected)


def test_half_precision_is_computed_in_fp32_under_autocast() -> None:
    """bf16 logits under autocast give the fp32 loss of these logits."""
    logits = (10 * torch.randn(6, 700, generator=torch.Generator().manual_seed(0))).bfloat16()
    labels = torch.arange(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(logits, labels, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == cross_entropy(logits.float(), labels, 0.1).item()
