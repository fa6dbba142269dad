"""The DeepSpeed configuration says the same as the settings, with nothing left to DeepSpeed's defaults."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pytest

from mstat.config import Config
from mstat.distributed.deepspeed import configuration


def with_precision(precision: Literal["no", "bf16"], clip_grad_norm: float | None) -> Config:
    config = Config()
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, precision=precision),
        optim=dataclasses.replace(config.optim, clip_grad_norm=clip_grad_norm),
    )


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stage_and_clipping_are_the_settings(stage: int) -> None:
    """Without a limit the file holds 0: DeepSpeed would clip at 1."""
    made = configuration(stage, with_precision("no", 2.5))
    assert (made["zero_optimization"]["stage"], made["gradient_clipping"]) == (stage, 2.5)
    assert configuration(stage, with_precision("no", None))["gradient_clipping"] == 0.0


def test_bf16_is_autocast_over_fp32_weights() -> None:
    """As under DDP; DeepSpeed's `bf16` section would keep the weights themselves in half precision."""
    is_on_with: dict[Literal["no", "bf16"], bool] = {"bf16": True, "no": False}
    for precision, is_on in is_on_with.items():
        made = configuration(2, with_precision(precision, None))
        assert made["torch_autocast"] == {"enabled": is_on, "dtype": "bfloat16"}
        assert made["bf16"] == made["fp16"] == {"enabled": False}
