"""A model that draws its own noise: none in eval mode, reproducible in train mode, and continued after a resume."""

from __future__ import annotations

import torch

from mstat.config import ModelConfig
from mstat.model import MSTAT, NoisyMSTAT
from tests.helpers.distributed import run_distributed

CONFIG = ModelConfig(
    image_size=(32, 16), patch_size=8, width=32, num_heads=2, depths=(1, 1, 1), num_attributes=3,
    num_temporal_attributes=3, num_prototypes=4, drop_path=0.5, tps_probability=1.0, tps_positions=4,
)  # fmt: skip
FRAMES_BTHWC = torch.randint(0, 256, (3, 4, 32, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def noisy(seed: int = 0) -> NoisyMSTAT:
    torch.manual_seed(0)
    return NoisyMSTAT(MSTAT(CONFIG), seed)


def outputs(module: NoisyMSTAT, calls: int) -> list[torch.Tensor]:
    return [torch.cat(module(FRAMES_BTHWC), dim=1) for _ in range(calls)]


def test_noise_belongs_to_train_mode() -> None:
    module = noisy()
    plain = torch.cat(module.model(FRAMES_BTHWC), dim=1)
    assert torch.equal(outputs(module.eval(), 1)[0], plain)
    first, second = outputs(module.train(), 2)
    assert not torch.equal(first, plain)
    assert not torch.equal(first, second)
    assert int(module.calls) == 2
    tps_BTN, keep_BR = module.draw(3, 4)
    assert not torch.equal(keep_BR[0], keep_BR[1])  # each clip has its own
    assert torch.equal(
        torch.cat(module(FRAMES_BTHWC), dim=1), torch.cat(module.model(FRAMES_BTHWC, tps_BTN, keep_BR), 1)
    )


def test_a_resumed_run_goes_on_with_its_noise() -> None:
    whole = outputs(noisy(), 4)
    stopped = noisy()
    outputs(stopped, 2)
    resumed = noisy()
    resumed.load_state_dict(stopped.state_dict())
    assert all(map(torch.equal, outputs(resumed, 2), whole[2:]))
    assert not torch.equal(outputs(noisy(seed=1), 1)[0], whole[0])


def drawn() -> torch.Tensor:
    return noisy().draw(3, 4)[1]


def test_ranks_have_different_noise() -> None:
    first, second = run_distributed(drawn, 2)
    assert torch.equal(first, drawn())
    assert not torch.equal(first, second)
