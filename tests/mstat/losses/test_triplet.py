import math

import pytest
import torch
from torch import Tensor

from mstat.losses import batch_hard, batch_hard_distances


def brute_force(features: Tensor, pids: list[int], margin: float | None) -> Tensor:
    """BatchHard by its definition, one anchor and one other clip at a time."""
    losses = []
    for a in range(len(pids)):
        distance = [(features[a] - features[b]).square().sum().sqrt() for b in range(len(pids))]
        positives = [distance[b] for b in range(len(pids)) if pids[b] == pids[a] and b != a]
        negatives = [distance[b] for b in range(len(pids)) if pids[b] != pids[a]]
        if positives and negatives:
            gap = torch.stack(positives).max() - torch.stack(negatives).min()
            losses.append(torch.log1p(gap.exp()) if margin is None else (gap + margin).clamp(min=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("margin", [0.3, 5.0, None])
@pytest.mark.parametrize("seed", range(5))
def test_equals_a_double_loop(seed: int, margin: float | None) -> None:
    """Loss and gradient are the definition's, in fp64 to rounding, for ragged identities and single clips."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(9, 6, dtype=torch.float64, generator=generator)
    pids = torch.randint(4, (9,), generator=generator)
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss, expected = batch_hard(ours, pids, margin), brute_force(theirs, pids.tolist(), margin)
    loss.backward()
    expected.backward()
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-14)


def test_gradient_passes_gradcheck() -> None:
    """The analytic gradient is the numeric one."""
    features = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert torch.autograd.gradcheck(lambda x: batch_hard(x, pids, 2.0), features)
    assert torch.autograd.gradcheck(lambda x: batch_hard(x, pids, None), features)


def test_hand_computed() -> None:
    """On a line at 0, 1, 3, 7 with identities a, a, b, b: gaps of 1-3, 1-2, 4-2 and 4-6."""
    features, pids = torch.tensor([[0.0], [1.0], [3.0], [7.0]]), torch.tensor([5, 5, 8, 8])
    positive, negative, valid = batch_hard_distances(features, pids)
    assert positive.tolist() == [1, 1, 4, 4]
    assert negative.tolist() == [3, 2, 2, 6]
    assert valid.all()
    assert batch_hard(features, pids, 1.5).item() == pytest.approx((0 + 0.5 + 3.5 + 0) / 4)


def test_equal_clips_give_finite_gradients() -> None:
    """Clips at distance 0, of one identity or of two, give no NaN in loss or gradient."""
    features = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard(features, torch.tensor([0, 0, 1, 1]), 0.3)
    loss.backward()
    assert loss.item() == pytest.approx(0.3)
    assert features.grad is not None
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("pids", [[0, 1, 2, 3], [7, 7, 7, 7]])
def test_no_anchor_left_is_zero_with_a_graph(pids: list[int]) -> None:
    """A batch of single clips, or of one identity, has loss 0 and gradient 0, and can be trained on."""
    features = torch.randn(4, 3, requires_grad=True)
    loss = batch_hard(features, torch.tensor(pids), None)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(4, 3))


def test_anchor_without_positive_is_left_out_of_the_mean() -> None:
    """A single clip of an identity serves as a negative, not as an anchor."""
    features, pids = torch.tensor([[0.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])
    assert batch_hard_distances(features, pids)[2].tolist() == [True, True, False]
    assert batch_hard(features, pids, 1.0).item() == pytest.approx((0 + 2) / 2)


def test_ties_take_the_lowest_index() -> None:
    """Of equally near negatives and equally far positives the first in the batch gets the gradient."""
    features = torch.tensor([[0.0, 0], [0, 3], [3, 0], [1, 0], [0, 1]], requires_grad=True)
    positive, negative, _ = batch_hard_distances(features, torch.tensor([0, 0, 0, 1, 1]))
    (positive[0] + negative[0]).backward()
    assert features.grad is not None
    assert features.grad.abs().sum(dim=1).gt(0).tolist() == [True, True, False, True, False]


def test_near_neighbours_far_from_the_origin_keep_their_digits() -> None:
    """In fp32, distances of close features with a large common part agree with fp64, and so does the mining."""
    steps = torch.randint(-8, 9, (12, 18432), generator=torch.Generator().manual_seed(0))
    features = 1000 + steps.double() / 4096
    pids = torch.arange(12) // 2
    for narrow, wide in zip(
        batch_hard_distances(features.float(), pids), batch_hard_distances(features, pids), strict=True
    ):
        torch.testing.assert_close(narrow.double(), wide.double(), rtol=1e-5, atol=0)


def test_half_precision_is_computed_in_fp32_under_autocast() -> None:
    """bf16 features under autocast give the fp32 loss of these features, and a bf16 gradient."""
    features = (100 * torch.randn(8, 64, generator=torch.Generator().manual_seed(0))).bfloat16().requires_grad_()
    pids = torch.arange(8) // 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = batch_hard(features, pids, 20.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == batch_hard(features.detach().float(), pids, 20.0).item() > 0
    assert features.grad is not None
    assert features.grad.dtype == torch.bfloat16


def test_infinite_features_are_not_hidden() -> None:
    """A broken feature makes the loss not finite, so that training stops on it."""
    features = torch.randn(4, 3)
    features[0, 0] = math.nan
    assert not batch_hard(features, torch.tensor([0, 0, 1, 1])).isfinite()


@pytest.mark.parametrize(("features", "pids"), [((4, 3), (3,)), ((4, 2, 3), (4,)), ((4, 3), (4, 1))])
def test_wrong_shapes_are_refused(features: tuple[int, ...], pids: tuple[int, ...]) -> None:
    """Shapes that do not fit are named in a ValueError."""
    with pytest.raises(ValueError, match="must have shapes"):
        batch_hard(torch.zeros(features), torch.zeros(pids))
