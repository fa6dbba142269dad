"""Workers: whatever happens to one, the right error comes at once and no process is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import torch

from mstat.data.workers import GRACE, Memory, Place, done
from mstat.errors import UserError
from shards.records import DataError
from tests.conftest import PROJECT

SLOTS = 8


def note_pid(memory: Memory, place: Place) -> None:
    """Work that leaves the worker's process id in its slot."""
    memory["pid"][place[0]] = os.getpid()


def fail(kind: str, memory: Memory, place: Place) -> None:
    """Work that fails at index 5, in one of many ways."""
    note_pid(memory, place)
    if place[1] != 5:
        return
    if kind == "data":
        raise DataError("a.tar: 0001C1T0001 frame 3: changed")
    if kind == "open files":
        raise OSError(errno.EMFILE, "Too many open files", "a.tar")
    if kind == "memory":
        raise MemoryError("no room")
    if kind == "exit":
        sys.exit(0)
    if kind == "unpicklable":
        raise OfManyWords("a", "b")
    if kind == "asleep":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        time.sleep(1000)
    os.kill(os.getpid(), signal.Signals[kind])


class OfManyWords(Exception):
    """An exception that pickle cannot make again from its message."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Bad:
    """Work that cannot be opened in a worker, as shards that have gone."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return _cannot_be_opened, ("no such folder",)

    def __call__(self, memory: Memory, place: Place) -> None:
        raise AssertionError("the trainer's own copy")


def _cannot_be_opened(message: str) -> Bad:
    raise DataError(message)


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Shared memory of a few slots; afterwards, none of the workers that wrote there may live."""
    shared = {"pid": torch.zeros(SLOTS, dtype=torch.int64).share_memory_()}
    yield shared
    workers = [pid for pid in shared["pid"].tolist() if pid]
    deadline = time.monotonic() + 120  # they die at once, but the machine may be busy
    while any(map(alive, workers)):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def places(number: int) -> list[Place]:
    return [(index % SLOTS, index) for index in range(number)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("data", DataError, "^a.tar: 0001C1T0001 frame 3: changed$"),
        ("open files", OSError, "Too many open files: 'a.tar'"),
        ("memory", MemoryError, "^no room$"),
        ("exit", RuntimeError, "SystemExit in a process of the loader: 0"),
        ("unpicklable", RuntimeError, "OfManyWords in a process of the loader: a and b"),
        ("SIGKILL", UserError, r"a process of the loader \(pid \d+\) was killed by SIGKILL"),
    ],
)
def test_the_error_of_a_worker_comes(kind: str, error: type[Exception], words: str, memory: Memory) -> None:
    """Each batch before the bad one is given; then comes the error as it was raised, its traceback in the worker as its
    cause; all workers have ended, though the traceback is still held."""
    slots = done(partial(fail, kind), memory, places(20), 2, ahead=2)
    assert [next(slots) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(error, match=words) as raised:
        next(slots)
    if error is not UserError:
        assert "in fail" in str(raised.value.__cause__), "where it was raised"
    if kind == "open files":
        assert (raised.value.errno, raised.value.filename) == (errno.EMFILE, "a.tar")  # type: ignore[attr-defined]


def test_work_that_cannot_be_opened(memory: Memory) -> None:
    """An error in a worker before its first place is an error like others."""
    with pytest.raises(DataError, match="no such folder"):
        next(done(Bad(), memory, places(3), 2, ahead=1))


def test_workers_that_do_not_end_are_killed(memory: Memory) -> None:
    """One is asleep, one is stopped; closing takes two seconds at most, apart from what a busy machine adds."""
    slots = done(partial(fail, "asleep"), memory, places(20), 2, ahead=1)
    with closing(slots):
        assert [next(slots) for _ in range(5)] == [0, 1, 2, 3, 4]
        os.kill(int(memory["pid"][4]), signal.SIGSTOP)
        begin = time.monotonic()
    assert time.monotonic() - begin < 2 * GRACE + 60


def test_all_workers_killed_while_nobody_waits(memory: Memory) -> None:
    """The next batch that was not finished is where it is told."""
    slots = done(note_pid, memory, places(50), 2, ahead=1)
    assert next(slots) == 0
    next(slots)
    for pid in {int(pid) for pid in memory["pid"] if pid}:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(UserError, match="SIGKILL"):
        list(slots)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "raise KeyError"])
def test_python_ends_though_the_loader_was_not_closed(end: str) -> None:
    """A generator in a global variable, half taken: the exit of Python does not wait for its workers."""
    code = f"""
if __name__ == "__main__":
    import torch
    from mstat.data.workers import done
    from tests.mstat.data.test_workers import SLOTS, note_pid, places
    memory = {{"pid": torch.zeros(SLOTS, dtype=torch.int64).share_memory_()}}
    slots = done(note_pid, memory, places(100), 2, ahead=2)
    next(slots)
    print(memory["pid"][0].item(), flush=True)
    {end}
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT, timeout=300
    )
    assert result.returncode == (1 if end else 0), result.stderr
    assert not alive(int(result.stdout))
