"""Allowed values of settings."""

from __future__ import annotations

import pytest

from mstat.config import Config
from mstat.config.cli import override
from mstat.config.ranges import is_number, lacks_triplets, out_of_range, ranges, setting_types
from mstat.errors import UserError


def test_every_number_has_a_range() -> None:
    """A new setting that is a number needs an interval beside its default."""
    assert ranges().keys() == {key for key, kind in setting_types().items() if is_number(kind)}
    assert out_of_range(Config()) is None


@pytest.mark.parametrize("key", [key for key in ranges() if "model.image_size" not in key and key != "model.depths"])
def test_no_number_may_be_negative_or_none_at_all(key: str) -> None:
    """-1, an infinity and NaN are refused by the name of the setting."""
    for value in ("-1", "-.inf", ".inf", ".nan"):
        with pytest.raises(UserError, match=key):
            override(Config(), {key: value})


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("optim.weight_decay", "-1e-4", "optim.weight_decay is -0.0001; it must be at least 0"),
        ("optim.momentum", "2", "optim.momentum is 2.0; it must be at least 0 and less than 1"),
        ("optim.momentum", "1", "optim.momentum is 1.0"),
        ("optim.lr", "0", "optim.lr is 0.0; it must be more than 0"),
        ("optim.clip_grad_norm", "0", "optim.clip_grad_norm is 0.0; it must be more than 0, or null"),
        ("schedule.gamma", "0", "schedule.gamma is 0.0; it must be more than 0"),
        ("loss.margin", "-0.3", "loss.margin is -0.3; it must be at least 0, or null"),
        ("model.image_size", "[64, 0]", "model.image_size is 0; it must be at least 1"),
        ("model.depths", "[1, -1, 1]", "model.depths is -1; it must be at least 0"),
        ("model.num_heads", "0", "model.num_heads is 0"),
        ("model.mlp_ratio", "0", "model.mlp_ratio is 0.0"),
        ("model.drop_path", "1", "model.drop_path is 1.0"),
        ("train.steps", "0", "train.steps is 0; it must be at least 1, or null"),
        ("train.timeout_minutes", "0", "train.timeout_minutes is 0.0"),
        ("train.keep", "0", "train.keep is 0"),
        ("loss.cross_entropy_weight", "-1", "loss.cross_entropy_weight is -1.0"),
        ("loss.stage_weights", "[1, -1, 1]", "loss.stage_weights is -1.0; it must be at least 0, or null"),
        ("optim.betas", "[0.9, 1]", "optim.betas is 1.0; it must be at least 0 and less than 1"),
        ("optim.layer_decay", "1.5", "optim.layer_decay is 1.5; it must be more than 0 and at most 1"),
        ("optim.head_lr", "0", "optim.head_lr is 0.0; it must be more than 0"),
        ("schedule.milestones", "[0, 5]", "schedule.milestones is 0; it must be at least 1"),
        ("clip.hue", "0.6", "clip.hue is 0.6; it must be at least 0 and at most 0.5"),
        ("clip.brightness", "2", "clip.brightness is 2.0; it must be at least 0 and at most 1"),
        ("eval.stride", "0", "eval.stride is 0; it must be at least 1"),
        ("data.num_workers", "2000", "data.num_workers is 2000; it must be at least 0 and at most 1024"),
    ],
)
def test_a_number_out_of_range_is_refused(key: str, value: str, complaint: str) -> None:
    """The message has the name, the value and the range."""
    with pytest.raises(UserError) as refusal:
        override(Config(), {key: value})
    assert str(refusal.value).startswith(complaint)


def test_a_run_without_a_loss_is_refused() -> None:
    """Neither cross-entropy nor metric loss."""
    for metric in ({"loss.metric": "none"}, {"loss.metric_weight": "0"}):
        with pytest.raises(UserError, match="keep one of the two losses"):
            override(Config(), {"loss.cross_entropy_weight": "0", **metric})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"schedule.name": "multistep"}, r"schedule.milestones is \[\], but schedule.name is multistep"),
        ({"schedule.milestones": "[60]"}, r"schedule.milestones is \[60\], but schedule.name is step"),
        ({"schedule.name": "multistep", "schedule.milestones": "[120, 60]"}, r"milestones is \[120, 60\].* ascend"),
        ({"schedule.name": "multistep", "schedule.milestones": "[60, 60]"}, r"milestones is \[60, 60\].* ascend"),
        ({"loss.stage_weights": "[1, 2]"}, r"loss.stage_weights is \[1.0, 2.0\].* model.stages \(I, II, III\)"),
        ({"loss.stage_weights": "[0, 0, 0]"}, "loss.stage_weights is 0 for every stage"),
        ({"train.log_with": "[tensorbord]"}, "train.log_with has 'tensorbord': did you mean 'tensorboard'"),
        ({"train.log_with": "[x]"}, "train.log_with has 'x': it must be of tensorboard, wandb, mlflow, trackio"),
        ({"train.log_with": "[mlflow, mlflow]"}, "train.log_with has 'mlflow' twice"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, str], complaint: str) -> None:
    """By the name of one of them."""
    with pytest.raises(UserError, match=complaint):
        override(Config(), settings)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"batch.num_tracklets": "1"}, "batch.num_tracklets is 1: BatchHard has no second clip"),
        ({"batch.num_identities": "1"}, "batch.num_identities is 1: BatchHard has no clip of another identity"),
        (
            {"batch.num_identities": "4", "loss.mining_groups": "4"},
            "batch.num_identities is 4 and loss.mining_groups is 4",
        ),
        ({"batch.num_tracklets": "1", "loss.metric_weight": "0"}, None),
        ({"batch.num_tracklets": "1", "loss.metric": "none"}, None),
        ({"batch.num_tracklets": "1", "loss.metric": "arcface"}, None),
        ({"batch.num_identities": "4", "loss.mining_groups": "2"}, None),
        ({}, None),
    ],
)
def test_batches_without_triplets(settings: dict[str, str], complaint: str | None) -> None:
    """BatchHard's loss would be 0 in every step; the message has the setting and a way out. Other losses need none."""
    message = lacks_triplets(override(Config(), settings))
    assert (message is None) == (complaint is None)
    if complaint:
        assert message is not None
        assert message.startswith(complaint)
        assert "--loss.metric none" in message
