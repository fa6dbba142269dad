"""launch/train.py with one fault at a chosen step: `faults.py FAULT RANK STEP [what launch/train.py takes]`.

The fault strikes between a rank's backbone and the gather, at the STEPth step of the first attempt.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mstat.task
from launch import train
from mstat.engine import Engine


def strike(fault: str, features_BD: torch.Tensor) -> torch.Tensor:
    """A signal to this process, an error in it, or features that spoil a loss or a gradient."""
    if fault.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[fault])
        return features_BD
    if fault == "loss":  # the last feature is Stage III's
        return torch.cat([features_BD[:, :-1], torch.full_like(features_BD[:, -1:], torch.nan)], dim=1)
    if fault == "gradient":
        features_BD.register_hook(lambda grad: grad * torch.inf)
        return features_BD
    raise OSError(f"{fault}, says the test")


def main() -> int:
    fault, rank, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[1:4]
    real_gather, real_update, begun = mstat.task.gather, Engine.update, [1]
    first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"

    def gather(features_BD: torch.Tensor, total: int) -> torch.Tensor:
        if begun[0] == step and int(os.environ.get("RANK", "0")) == rank and first_attempt:
            features_BD = strike(fault, features_BD)
        return real_gather(features_BD, total)

    def update(self: Engine, loss: torch.Tensor, lr: float) -> torch.Tensor:
        norm = real_update(self, loss, lr)
        begun[0] += 1
        return norm

    mstat.task.gather, Engine.update = gather, update  # type: ignore[method-assign]
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
