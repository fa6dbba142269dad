"""The cause of a failure in a job's log, among all that ranks and launchers wrote.

The standard library alone, for Python 3.9: see mstat/cluster/restarts.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# The line that begins an attempt; what is above it is of the attempts before.
BEGIN = "=== mstat: attempt"
TRACEBACK = "Traceback (most recent call last):"
TAIL_BYTES = 1 << 20

_LABEL = re.compile(r"^ *(\d+): ?(.*)$", re.S)  # of `srun --label`
_TOLD = re.compile(r"^(\[rank \d+\] )?(error|bash|[\w/.]+\.py): ")
# The launcher's own last words after a rank has ended, which say nothing about why.
_LAUNCHERS = ("ChildFailedError", "CalledProcessError", "SignalException", "torch.distributed.elastic")


def last_failure(log: Path) -> str:
    """The last traceback of a log's last attempt, or the last line in which it tells an error; empty without one."""
    lines = tail(log)
    tracebacks: list[tuple[int, str]] = []
    message: list[tuple[int, str]] = []
    for _, of_node in _by_node(lines):
        tracebacks += _tracebacks(of_node)
        message += [(number, line.strip()) for number, line in of_node if _TOLD.match(line)]
    if tracebacks:
        return max(tracebacks)[1]
    return max(message)[1] if message else ""


def last_word(log: Path) -> str:
    """Return Slurm's own message at a log's end, for logs without another cause; empty if there is none."""
    return next((line for line in reversed(tail(log)) if re.match(r"(srun|slurmstepd|slurmd)\b.*: error: ", line)), "")


def tail(log: Path) -> list[str]:
    """The lines of a log's last attempt, of a long one only the end."""
    if not log.is_file():  # nor a pipe, which would be waited for
        return []
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    begins = [number for number, line in enumerate(lines) if line.startswith(BEGIN)]
    return lines[begins[-1] :] if begins else lines


def _by_node(lines: Iterable[str]) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(label, numbered lines without it) of each node: srun mixes their lines, but never within one."""
    nodes: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(lines):
        match = _LABEL.match(line)
        label, text = match.groups() if match else ("", line)
        nodes.setdefault(label, []).append((number, text))
    yield from nodes.items()


def _tracebacks(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """(number of its last line, text) of each traceback that is not a launcher's."""
    block: list[str] = []
    for number, line in lines:
        if line.endswith(TRACEBACK):
            block = [TRACEBACK]
        elif block:
            block.append(line)
            if line and not line[0].isspace():  # the exception itself
                if not any(word in line for word in _LAUNCHERS):
                    yield number, "\n".join(block)
                block = []
