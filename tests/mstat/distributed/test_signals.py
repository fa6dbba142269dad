"""Signals that ask a run to stop."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PROJECT

ENDING = """
import os, signal
from mstat.distributed.signals import StopRequested, listening

class Last:  # Python's handlers are gone when it goes
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGUSR1):
        kill(pid, number)
        print("lived on")

last = Last()
try:
    with listening():
        raise StopRequested
except StopRequested:
    pass
"""


def test_a_second_signal_does_not_kill_a_run_that_ends() -> None:
    """It has saved, and is taking its modules down, which takes seconds on a busy node."""
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, cwd=PROJECT)
    assert (done.returncode, done.stdout) == (0, "lived on\n"), done.stderr
