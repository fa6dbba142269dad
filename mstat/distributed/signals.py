"""Signals that stop a run: they set a flag, and the training loop saves a checkpoint and stops.

Schedulers send SIGTERM or SIGUSR1 before they end a job. The death of the launcher also causes SIGTERM, so that no
orphan continues to train.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_requested = 0


class StopRequested(Exception):
    """A signal asked a rank to stop, and all ranks have agreed to stop."""


def end_with_launcher() -> None:
    """Ask the kernel to send SIGTERM to this process when its launcher dies."""
    # Only under a launcher: a shell may end before the processes that it started (nohup).
    if any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def listening() -> Iterator[None]:
    """Make stop signals only set the flag that `asked` returns, in this context and after an error has left it.

    An error ends the process anyway. The SIGTERM that the launcher sends when another rank ends must not interrupt it.
    """
    global _requested
    _requested = 0
    with blocked():
        resource_tracker.ensure_running()  # a signal would kill it if it started later
    before = {number: signal.signal(number, _remember) for number in STOP_SIGNALS}
    try:
        yield
    except StopRequested:
        # Schedulers signal repeatedly, and Python restores the default handler, which kills, at exit.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise
    for number, handler in before.items():
        signal.signal(number, handler)


def asked() -> int:
    """Return the number of the signal that asked this process to stop; 0 if there was none."""
    return _requested


@contextmanager
def blocked() -> Iterator[None]:
    """Block stop signals and Ctrl-C for processes that are started in this context.

    Schedulers and terminals signal all processes, but loader workers must continue until this process ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remember(number: int, frame: FrameType | None) -> None:
    global _requested
    _requested = number
