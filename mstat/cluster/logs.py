"""Find the cause of a failure in a job's log, among the lines of all ranks and launchers.

Standard library only, for Python 3.9: mstat/cluster/restarts.py imports it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mstat.foreign_messages import LAUNCHER_ERRORS, SLURM_ERROR

# The first words of an attempt; earlier lines belong to earlier attempts.
BEGIN = "=== mstat: attempt"
TRACEBACK = "Traceback (most recent call last):"
TAIL_BYTES = 1 << 20

_LABEL = re.compile(r"^ *(\d+): ?(.*)$", re.S)  # of `srun --label`, which documents it
_ERROR = re.compile(r"^(\[rank \d+\] )?(error|bash|[\w/.]+\.py): ")


def last_failure(log: Path) -> str:
    """Return the last traceback of a log's last attempt, or else its last error line, or an empty text."""
    lines = tail(log)
    tracebacks: list[tuple[int, str]] = []
    errors: list[tuple[int, str]] = []
    for _, of_node in _by_node(lines):
        tracebacks += _tracebacks(of_node)
        errors += [(number, line.strip()) for number, line in of_node if _ERROR.match(line)]
    if tracebacks:
        return max(tracebacks)[1]
    return max(errors)[1] if errors else ""


def last_slurm_error(log: Path) -> str:
    """Return the last error message of Slurm in a log's last attempt, or an empty text."""
    return next((line for line in reversed(tail(log)) if SLURM_ERROR.match(line)), "")


def tail(log: Path) -> list[str]:
    """Return the lines of a log's last attempt; of a long attempt, the end."""
    if not log.is_file():  # reading a pipe would block
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
    """Yield the label and the numbered lines of each node. srun interleaves whole lines of the nodes."""
    nodes: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(lines):
        match = _LABEL.match(line)
        label, text = match.groups() if match else ("", line)
        nodes.setdefault(label, []).append((number, text))
    yield from nodes.items()


def _tracebacks(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the number of the last line and the text of each traceback, except those of launchers."""
    block: list[str] = []
    for number, line in lines:
        if line.endswith(TRACEBACK):
            block = [TRACEBACK]
        elif block:
            block.append(line)
            if line and not line[0].isspace():  # the line of the exception
                if not any(word in line for word in LAUNCHER_ERRORS):
                    yield number, "\n".join(block)
                block = []
