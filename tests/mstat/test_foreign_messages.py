"""The messages that mstat/foreign_messages.py recognises, provoked; tests/launch/test_submit.py provokes Slurm's."""

from __future__ import annotations

import importlib
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path

import jsonargparse
import pytest
import torch
from torch.distributed.elastic.multiprocessing import errors as elastic

from mstat import foreign_messages
from mstat.config import Config
from tests.mstat.weights.test_safe_load import Hostile, in_tar, in_zip

# Two ranks form a group of gloo. Rank 1 ends or hangs, and rank 0 prints the error of its all-reduce.
GROUP = """
import datetime, os, sys, time, torch, torch.distributed as dist
rank, port, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
store = dist.TCPStore("127.0.0.1", port, 2, rank == 0)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=datetime.timedelta(seconds=5))
dist.barrier()
if rank == 1:
    time.sleep(0 if way == "ends" else 20)
    os._exit(0)
try:
    for _ in range(3):
        dist.all_reduce(torch.ones(1000))
except RuntimeError as error:
    print(type(error).__name__, error, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("way", ["ends", "hangs"])
def test_gloo(way: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-c", GROUP]
    with subprocess.Popen([*command, "1", str(port), way]) as peer:
        done = subprocess.run([*command, "0", str(port), way], capture_output=True, text=True)
        peer.kill()
    kind, _, text = done.stdout.partition(" ")
    assert kind == "RuntimeError", "gloo: errors have a type of their own, which lost_rank.py should use"
    assert foreign_messages.LOST_PEER.search(text), text


def test_torch_distributed() -> None:
    for name in ("DistNetworkError", "DistStoreError"):
        assert issubclass(getattr(torch.distributed, name), torch.distributed.DistError)
        assert foreign_messages.LOST_PEER_ERRORS.search(name)


def test_the_launcher() -> None:
    """The report of a process that SIGKILL has ended, and the exceptions around it."""
    failure = elastic.ProcessFailure(local_rank=0, pid=4242, exitcode=-9, error_file="/nonexistent")
    error = elastic.ChildFailedError("launch/train.py", {0: failure})
    assert foreign_messages.KILLED.search(str(error)), str(error)
    kinds = (elastic.ChildFailedError, subprocess.CalledProcessError)
    signal = importlib.import_module("torch.distributed.elastic.multiprocessing.api").SignalException
    for kind in (*kinds, signal):
        name = f"{kind.__module__}.{kind.__qualname__}"
        assert any(words in name for words in foreign_messages.LAUNCHER_ERRORS), name


def test_a_full_disk() -> None:
    with pytest.raises(OSError, match=foreign_messages.DISK_FULL):
        Path("/dev/full").write_text("x")


def test_the_unpickler(tmp_path: Path) -> None:
    """torch names the function that a pickle calls, an old archive, and its own unpickler."""
    path = tmp_path / "weights.pth"
    in_zip(Hostile(tmp_path / "ran", "mkdir"), path)
    with pytest.raises(pickle.UnpicklingError, match=foreign_messages.REFUSED_CALL):
        torch.load(path, weights_only=True)
    in_tar({}, path)
    with pytest.raises(RuntimeError, match=foreign_messages.LEGACY_TAR):
        torch.load(path, weights_only=True)
    path.write_bytes(b"\x80\x02\xff")
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(path, weights_only=True)
    message = foreign_messages.UNPICKLER_ERROR.search(str(caught.value))
    assert message is not None, str(caught.value)
    assert message[0] == "WeightsUnpickler error: "


@pytest.mark.parametrize(
    ("words", "pattern", "groups"),
    [
        (["--optim.lrr", "3"], foreign_messages.UNKNOWN_KEY, ("optim.lrr", None)),
        (["--optim", '{"lrr": 3}'], foreign_messages.UNKNOWN_KEY_IN_GROUP, ("optim", "lrr")),
        (["--optim.betas", "0.9"], foreign_messages.NOT_A_LIST, ("optim.betas", "0.9")),
    ],
)
def test_jsonargparse(words: list[str], pattern: re.Pattern[str], groups: tuple[str, ...]) -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, nested_key=None)
    with pytest.raises(jsonargparse.ArgumentError) as caught:
        parser.parse_args(words)
    match = pattern.search(str(caught.value))
    assert match is not None, str(caught.value)
    assert match.groups() == groups
