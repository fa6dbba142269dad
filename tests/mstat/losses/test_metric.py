"""The other losses of Table V against their formulas, and the common scale."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F

from mstat.config import LossConfig
from mstat.losses.metric import METRIC_LOSSES, OIM, Scaled, _probe, metric_loss

DIM, CLASSES = 6, 4
LABELS = torch.tensor([2, 0, 2, 1, 0, 2])


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(len(LABELS), DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_oim_is_a_softmax_over_its_memory() -> None:
    """Written out for one clip; with an empty memory it is log C, and the memory gets no gradient."""
    oim = OIM(DIM, CLASSES).double()
    assert oim(features(), LABELS).item() == pytest.approx(math.log(CLASSES))
    memory = oim.memory_CD.clone()
    x = features(1)[:1].requires_grad_()
    logits = [30 * float(F.normalize(x.detach())[0] @ row) for row in memory]
    expected = math.log(sum(map(math.exp, logits))) - logits[2]
    loss = oim(x, LABELS[:1])
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert x.grad is not None
    assert x.grad.norm() > 0
    assert not oim.memory_CD.requires_grad


def test_oim_remembers_a_running_mean_of_unit_length() -> None:
    """As the authors' code has it: clip after clip of a batch, half of the old and half of the new, brought to unit
    length each time; identities that are not there keep their row."""
    oim = OIM(DIM, CLASSES).double()
    for seed in range(3):
        expected = oim.memory_CD.clone()
        for x, label in zip(F.normalize(features(seed)), LABELS.tolist(), strict=True):
            expected[label] = 0.5 * expected[label] + 0.5 * x
            expected[label] /= expected[label].norm()
        oim(features(seed), LABELS)
        torch.testing.assert_close(oim.memory_CD, expected)
    assert (oim.memory_CD[3] == 0).all()


def test_arcface_adds_its_angle() -> None:
    """Cross-entropy of 64 cos(angle), the own class's angle larger by the margin in degrees."""
    for degrees in (None, 34.32):
        torch.manual_seed(0)
        loss = metric_loss(LossConfig(metric="arcface", angular_margin=degrees), DIM, CLASSES).double()
        assert isinstance(loss, Scaled)
        angles = (F.normalize(features()) @ F.normalize(loss.loss.get_parameter("W").detach(), dim=0)).acos()
        angles += F.one_hot(LABELS, CLASSES) * math.radians(degrees or 28.6)
        assert (angles < math.pi).all()  # beyond it the library goes on otherwise
        expected = loss.scale * F.cross_entropy(64 * angles.cos(), LABELS)
        assert loss(features(), LABELS).item() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("metric", ["arcface", "sphereface", "oim"])
@pytest.mark.parametrize("margin", [0.3, None])
def test_all_are_of_one_magnitude(metric: str, margin: float | None) -> None:
    """On the drawn batch each has the value that BatchHard has; and drawing it has left no trace."""
    torch.manual_seed(0)
    loss = metric_loss(LossConfig(metric=metric, margin=margin), 32, 9)  # type: ignore[arg-type]
    assert all((buffer == 0).all() for buffer in loss.buffers())
    triplet = metric_loss(LossConfig(margin=margin), 32, 9)
    probe = _probe(32, 9)
    assert loss(*probe).item() == pytest.approx(triplet(*probe).item(), rel=1e-5)
    assert triplet(*probe) > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["batch_hard", "arcface", "sphereface", "oim"])
def test_descent_pulls_identities_together(metric: str) -> None:
    """Free features, moved along the gradient of the loss alone: the loss falls to a tenth, and an identity's clips
    lie nearer to each other, compared with the others, than before."""
    torch.manual_seed(0)
    loss = metric_loss(LossConfig(metric=metric, unit_length=True), DIM, CLASSES)  # type: ignore[arg-type]
    points = features().float().requires_grad_()
    same = LABELS[:, None] == LABELS

    def gap() -> float:
        cosine = F.normalize(points.detach()) @ F.normalize(points.detach()).T
        return float(cosine[same & ~torch.eye(len(LABELS), dtype=torch.bool)].mean() - cosine[~same].mean())

    before = gap()
    optimizer = torch.optim.Adam([points, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(100):
        optimizer.zero_grad()
        value = loss(points, LABELS)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0] / 10
    assert gap() > before + 0.3


def test_every_loss_has_a_name_in_the_settings() -> None:
    """`loss.metric` accepts the losses of the table, and none."""
    assert {*METRIC_LOSSES, "none"} == set(get_args(get_type_hints(LossConfig)["metric"]))
