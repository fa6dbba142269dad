"""The roll call names the rank that made a collective fail, in a store as the launcher keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch.distributed as dist

from mstat.distributed import lost_rank
from mstat.distributed.lost_rank import RollCall, failed_collective, within
from tests.conftest import PROJECT


def test_ranks_that_all_answer_blame_the_network(launcher: list[dist.TCPStore]) -> None:
    rolls = [RollCall(rank, 3, "attempt") for rank in range(3)]
    assert rolls[1].find().startswith("every rank answers, but a collective failed: the network between them")


def test_the_first_error_is_the_cause(launcher: list[dist.TCPStore]) -> None:
    """Later errors follow from the first one. Another attempt in the same store knows nothing of them."""
    rolls = [RollCall(rank, 3, "attempt") for rank in range(3)]
    rolls[2].leave_error("ValueError: wrong")
    rolls[1].leave_error("RuntimeError: follows")
    assert rolls[0].find() == f"{rolls[2].name}: ValueError: wrong"
    assert f"pid {os.getpid()}" in rolls[2].name
    assert rolls[1].find() == rolls[0].find(), "every rank gives the verdict of the first caller"
    later = [RollCall(rank, 2, "later") for rank in range(2)]
    assert later[0].find().startswith("every rank answers")


@pytest.mark.slow
def test_a_dead_rank_is_named_with_its_process(launcher: list[dist.TCPStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that answers is not named."""
    rolls = [RollCall(rank, 3, "a") for rank in range(2)]
    code = "import os; from mstat.distributed.lost_rank import RollCall; print(RollCall(2, 3, 'a').name); os._exit(0)"
    done = subprocess.run([sys.executable, "-uc", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    monkeypatch.setattr(lost_rank, "ANSWER_SECONDS", 5.0)  # the time that this test takes
    name = done.stdout.strip()
    assert name.startswith("rank 2 (host ")
    assert rolls[0].find() == f"no answer from {name}: killed, stopped, or its host cannot be reached"


def test_a_store_that_has_gone_is_told(launcher: list[dist.TCPStore], monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher of rank 0 has ended, and took the store along. Leaving an error there does no harm."""
    roll = RollCall(0, 1, "attempt")
    assert roll.find().startswith("every rank answers")
    monkeypatch.setattr(lost_rank, "ANSWER_SECONDS", 0.5)
    launcher.clear()
    roll.leave_error("ValueError: wrong")
    assert roll.find() == (
        "rank 0's host (127.0.0.1) does not answer: its launcher has ended, or host or network are down"
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (dist.DistNetworkError("failed to recv"), True),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3721"), True),
        (RuntimeError("Timed out waiting 6000ms for recv operation to complete"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("Broken pipe"), False),  # of a log that nobody reads, not of a rank
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_of_other_ranks_are_told_from_our_own(error: BaseException, expected: bool) -> None:
    assert failed_collective(error) is expected


def test_a_call_that_blocks_or_fails_gives_none() -> None:
    """The error of a bug in the call is not taken for an answer."""
    assert within(60, lambda: 7) == 7
    release = threading.Event()
    assert within(0.1, release.wait) is None
    release.set()

    def fail() -> int:
        raise dist.DistNetworkError("cut")

    assert within(60, fail) is None
