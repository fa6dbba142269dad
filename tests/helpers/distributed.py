"""Run a function on several gloo processes, for tests of what crosses ranks."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _enter(rank: int, world_size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    # An earlier test may have started the fork server as the loader does: with the signals that stop a run blocked.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    torch.save(function(*args), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@contextmanager
def as_launched() -> Iterator[None]:
    """Set the variables by which a launcher tells an engine its rank, in a process of `run_distributed`."""
    with pytest.MonkeyPatch.context() as patch:
        if dist.is_initialized():
            rank, world_size = str(dist.get_rank()), str(dist.get_world_size())
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            for name, value in {**ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
                patch.setenv(name, value)
        yield


def run_distributed(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Return the result of `function(*args)` on each of `world_size` ranks; function and results must be importable."""
    with tempfile.TemporaryDirectory() as folder:
        # A fork server that has torch in memory: new processes cost milliseconds, and none inherits our threads.
        multiprocessing.set_forkserver_preload(["torch", "mstat.training.task"])
        mp.start_processes(_enter, (world_size, folder, function, args), world_size, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]
