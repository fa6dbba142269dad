"""launch/train.py with one fault at a chosen step: `faults.py FAULT RANK STEP [what launch/train.py takes]`.

The fault strikes between a rank's backbone and the gather, at the STEPth step of the first attempt. Only `slow-disk` is
there from the start: the rank's checkpoints are not written before step STEP is done, and what is then half-written is
the last that the rank does.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mstat.training.task
from launch import train
from mstat.distributed.engine import Engine
from mstat.distributed.gather import gather as real_gather


def strike(fault: str, features_BD: torch.Tensor) -> torch.Tensor:
    """A signal to this process or to its loader, an error in it, or features that spoil a loss or a gradient."""
    if fault == "kill-loader":
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, signal.SIGKILL)
        return features_BD
    if fault.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[fault])
        return features_BD
    if fault == "loss":  # the last feature is Stage III's
        return torch.cat([features_BD[:, :-1], torch.full_like(features_BD[:, -1:], torch.nan)], dim=1)
    if fault == "gradient":
        features_BD.register_hook(lambda grad: grad * torch.inf)
        return features_BD
    raise OSError(errno.EIO, f"{fault}, says the test")


def main() -> int:
    fault, rank, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    del sys.argv[1:4]
    real_update, real_save, begun = Engine.update, torch.save, [1]
    first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    struck = int(os.environ.get("RANK", "0")) == rank and first_attempt

    def gather(local_BD: torch.Tensor, total: int) -> torch.Tensor:
        if begun[0] == step and struck and fault != "slow-disk":
            local_BD = strike(fault, local_BD)
        return real_gather(local_BD, total)

    def update(self: Engine, loss: torch.Tensor, lr: float, *, heads_only: bool = False) -> torch.Tensor:
        norm = real_update(self, loss, lr, heads_only=heads_only)
        begun[0] += 1
        return norm

    def save_half(state: object, file: IO[bytes]) -> None:
        while begun[0] <= step:
            time.sleep(0.01)
        real_save(state, file)
        file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    mstat.training.task.gather, Engine.update = gather, update  # type: ignore[attr-defined, method-assign]
    if fault == "slow-disk" and struck:
        torch.save = save_half  # type: ignore[assignment]
    return train.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
