"""Signals that ask a run to stop: they set a flag, and the loop stops where a checkpoint is whole.

SIGTERM and SIGUSR1 are what schedulers send before they take a machine away. The death of the launcher counts as
SIGTERM, so that no orphan trains on.
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

_asked = 0


class StopRequested(Exception):
    """A signal asked one rank to stop, and all have agreed to."""


def end_with_launcher() -> None:
    """SIGTERM to this process when the one that launched it dies. A launch that waits for others ends at once."""
    # Not where a shell started it: a shell may end before what it started (nohup).
    if any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def listening() -> Iterator[None]:
    """Within it, and after an error has left it, stop signals only set the flag that `asked` gives.

    (An error ends the process, and the launcher's SIGTERM, sent when another rank has ended, must not cut it short.)
    """
    global _asked
    _asked = 0
    with blocked():
        resource_tracker.ensure_running()  # of multiprocessing: started later, a signal would kill it
    before = {number: signal.signal(number, _remember) for number in STOP_SIGNALS}
    try:
        yield
    except StopRequested:
        # Schedulers ask more than once, and Python's own end brings the default back, which kills.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise
    for number, handler in before.items():
        signal.signal(number, handler)


def asked() -> int:
    """Number of the signal that asked this process to stop; 0 if none did."""
    return _asked


@contextmanager
def blocked() -> Iterator[None]:
    """Processes started within it never see a stop signal, nor Ctrl-C: schedulers and terminals signal them all, and
    loaders must go on until this process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _remember(number: int, frame: FrameType | None) -> None:
    global _asked
    _asked = number
