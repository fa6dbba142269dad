"""Learning rate and loss weight as pure functions of the step, so that a resume needs no scheduler state."""

from __future__ import annotations

import math

from mstat.config import LossConfig, OptimConfig, ScheduleConfig

PAPER_BATCH = 24  # clips in the paper's batch, the reference of `optim.lr_scaling`


def learning_rate(
    optim: OptimConfig, schedule: ScheduleConfig, *, step: int, num_steps: int, steps_per_epoch: int, batch_size: int
) -> float:
    """Return the learning rate at `step` (from 0) of a run of `num_steps` steps with global batches of `batch_size`."""
    scale = batch_size / PAPER_BATCH
    base = optim.lr * {"none": 1.0, "linear": scale, "sqrt": math.sqrt(scale)}[optim.lr_scaling]
    if step < schedule.warmup_steps:
        return base * (step + 1) / schedule.warmup_steps
    epoch = step // steps_per_epoch
    match schedule.name:
        case "step":
            return base * schedule.gamma ** (epoch // schedule.step_epochs)
        case "multistep":
            return base * schedule.gamma ** sum(milestone <= epoch for milestone in schedule.milestones)
        case "cosine":
            progress = (step - schedule.warmup_steps) / max(num_steps - schedule.warmup_steps, 1)
            falling = base * 0.5 * (1 + math.cos(math.pi * progress))
            return schedule.floor * base + (1 - schedule.floor) * falling


def metric_weight(loss: LossConfig, *, step: int) -> float:
    """Return the weight of the metric loss at `step` (from 0)."""
    if step >= loss.metric_warmup_steps:
        return loss.metric_weight
    return loss.metric_weight * step / loss.metric_warmup_steps
