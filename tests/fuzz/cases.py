"""Runs an action on a mutated input in a child process, within bounds, and says what became of it."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import torch

import mstat.distributed.lost_rank
import mstat.runs.folder  # noqa: F401 - with torch, before the children: what `report_errors` would import in each
from launch.common import report_errors

SECONDS = 30.0  # of one case; a good input takes well under one on a quiet machine
MEMORY_BYTES = 2 << 30  # beyond what the parent holds
MOST_LINES = 1000  # of one refusal: faults of a set are listed


class Outcome(StrEnum):
    """Outcome of a case. The last four are faults of ours."""

    READ = "read right"
    REFUSED = "refused in one line"
    WRONG = "wrong"
    TRACEBACK = "traceback"
    HANG = "hang"
    CRASH = "crash"


FAULTS = (Outcome.WRONG, Outcome.TRACEBACK, Outcome.HANG, Outcome.CRASH)


class Result(NamedTuple):
    """An outcome, and what the case printed."""

    outcome: Outcome
    output: str


def attempt(action: Callable[[], int | bool | None], *, listed: bool = False, seconds: float = SECONDS) -> Result:
    """Run an action in a forked child.

    Args:
        action: Returns None or True if what it read is right, False if it is not, or the exit status of a command.
            It raises an error that `launch.common.report_errors` prints, or ends by SystemExit as a command line does.
        listed: Whether a refusal may have several lines, each fault of a set its own.
        seconds: After which the child is killed.
    """
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            _run(action, errors.fileno())
        status = _wait(child, seconds)
        errors.seek(0)
        output = errors.read().decode(errors="replace")
    return Result(_outcome(status, output, listed), output)


def _run(action: Callable[[], int | bool | None], errors: int) -> None:
    """The child's part: it never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # a test runner has put others in their place
        in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, in_use + MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()  # a test runner would print where a crash was
        torch.set_num_threads(1)  # a pool of threads that the parent has used would be waited for in vain
        code = _status(action)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _status(action: Callable[[], int | bool | None]) -> int:
    results: list[int | bool | None] = []
    try:
        status = report_errors(lambda: results.append(action()))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    if status or not results:
        return status or 1
    result = results[0]
    if result is None or result is True:
        return 0
    return 71 if result is False else int(result)


def _wait(child: int, seconds: float) -> int | None:
    """The child's wait status; None if it had to be killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.002)
    for number in (child, -child):
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            continue
    os.waitpid(child, 0)
    return None


def _outcome(status: int | None, output: str, listed: bool) -> Outcome:
    if status is None:
        return Outcome.HANG
    if os.WIFSIGNALED(status):
        return Outcome.CRASH
    code, lines = os.WEXITSTATUS(status), output.strip().splitlines()
    if "Traceback (most recent call last)" in output or code == 70:
        return Outcome.TRACEBACK
    if code == 71 or any(ord(c) < 32 and c not in "\n\t" for c in output):
        return Outcome.WRONG
    if code == 0:
        return Outcome.READ
    return Outcome.REFUSED if 1 <= len(lines) <= (MOST_LINES if listed else 1) else Outcome.WRONG
