"""The learning rate of a step, by hand."""

from __future__ import annotations

import pytest

from mstat.config import LossConfig, OptimConfig, ScheduleConfig
from mstat.training.schedule import learning_rate, metric_weight


def rate(step: int, schedule: ScheduleConfig, optim: OptimConfig | None = None, batch_size: int = 24) -> float:
    return learning_rate(
        optim or OptimConfig(lr=1.0), schedule, step=step, num_steps=100, steps_per_epoch=2, batch_size=batch_size
    )


def test_the_paper_multiplies_by_three_quarters_every_25_epochs() -> None:
    """25 epochs of 2 steps: steps 0-49 at 1, 50-99 at 0.75, 100-149 at 0.75 squared."""
    assert [rate(step, ScheduleConfig()) for step in (0, 49, 50, 99, 100)] == [1, 1, 0.75, 0.75, 0.75**2]


def test_cosine_falls_from_one_to_zero_after_the_warmup() -> None:
    """Linear over the warm-up, 1 at its end, a half in the middle of the rest, nearly 0 at the last step."""
    schedule = ScheduleConfig(name="cosine", warmup_steps=10)
    assert rate(0, schedule) == pytest.approx(0.1)
    assert rate(9, schedule) == pytest.approx(1)
    assert rate(10, schedule) == pytest.approx(1)
    assert rate(55, schedule) == pytest.approx(0.5)
    assert 0 < rate(99, schedule) < 1e-3


def test_cosine_keeps_its_floor() -> None:
    """With a quarter: 1 at first, 5/8 in the middle, a quarter at the end."""
    schedule = ScheduleConfig(name="cosine", floor=0.25)
    assert [rate(step, schedule) for step in (0, 50)] == [1, pytest.approx(0.625)]
    assert 0.25 < rate(99, schedule) < 0.251


def test_multistep_multiplies_at_each_milestone() -> None:
    """Epochs of 2 steps, milestones 3 and 5: by a tenth from step 6, by a hundredth from step 10."""
    schedule = ScheduleConfig(name="multistep", gamma=0.1, milestones=(3, 5))
    expected = [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert [rate(step, schedule) for step in (0, 5, 6, 9, 10, 1000)] == pytest.approx(expected)


@pytest.mark.parametrize(("rule", "expected"), [("none", 1.0), ("linear", 4.0), ("sqrt", 2.0)])
def test_scaling_with_the_batch(rule: str, expected: float) -> None:
    """A batch of 96 clips is four of the paper's."""
    optim = OptimConfig(lr=1.0, lr_scaling=rule)  # type: ignore[arg-type]
    assert rate(0, ScheduleConfig(), optim, batch_size=96) == expected


def test_the_metric_loss_comes_in_slowly_where_asked() -> None:
    """From 0, linearly, to its weight; at once by default."""
    assert metric_weight(LossConfig(), step=0) == 1
    slow = LossConfig(metric_weight=2.0, metric_warmup_steps=4)
    assert [metric_weight(slow, step=step) for step in (0, 1, 3, 4, 100)] == [0, 0.5, 1.5, 2, 2]
