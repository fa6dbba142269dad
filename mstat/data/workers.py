"""Worker processes that prepare batches, never outlive the trainer, and never let it wait for a dead worker.

Each worker has its own pipe: the trainer sends a place to fill, and receives its slot, or the error that was raised.
When a worker dies, its pipe closes, so the trainer's next read fails at once. When the trainer dies or closes a pipe,
the worker ends. torch's DataLoader checks for dead workers only every five seconds, and stops its workers by SIGTERM.
These workers ignore SIGTERM: schedulers send it to every process, and the workers must continue until the save.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import cycle, islice
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from mstat.distributed import signals
from mstat.errors import UserError

GRACE = 1.0  # seconds that a worker has to end by itself before it is killed
Memory = dict[str, torch.Tensor]  # shared with the workers
Place = tuple[int, int]  # slot and index
Work = Callable[[Memory, Place], None]


def done(
    work: Work,
    memory: Memory,
    places: Iterable[Place],
    num_workers: int,
    ahead: int,
    turns: Iterable[int] | None = None,
) -> Generator[int]:
    """Yield the slots of `places` in order, each when its work is done: by workers, or by this process without them.

    `turns` are the numbers of the workers that do the places; None deals the places out in turn.

    Close the generator if you stop early; otherwise workers keep running.

    Raises:
        UserError: If a worker cannot be started, or dies.
        Exception: Any error of the work. The cause of a worker's error is the worker's traceback.
    """
    if num_workers:
        with Workers(work, memory, num_workers) as workers:
            yield from workers.results(places, ahead, cycle(range(num_workers)) if turns is None else turns)
    else:
        for place in places:
            work(memory, place)
            yield place[0]


class Workers:
    """Worker processes that do `work(memory, place)`. A context manager: its exit ends all of them.

    `__enter__` and `results` raise the errors of `done`.
    """

    def __init__(self, work: Work, memory: Memory, num_workers: int) -> None:
        self.work, self.memory, self.num_workers = work, memory, num_workers
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []

    def __enter__(self) -> Workers:
        start_fork_server()
        atexit.register(self.close)  # if a generator is never closed, Python would wait for the workers at exit
        try:
            pickled = pickle.dumps(self.work)
            for _ in range(self.num_workers):
                self._start()
            for worker, pipe in enumerate(self.pipes):
                with self._alive(worker):
                    pipe.send_bytes(pickled)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def results(self, places: Iterable[Place], ahead: int, turns: Iterable[int]) -> Iterator[int]:
        """Yield the slots of `places` in order. The workers have at most `ahead` of them each, in the mean, to do."""
        dealt = zip(turns, places, strict=False)
        waiting: deque[int] = deque()

        def hand_out(number: int) -> None:
            for worker, place in islice(dealt, number):
                with self._alive(worker):
                    self.pipes[worker].send(place)
                waiting.append(worker)

        hand_out(self.num_workers * ahead)
        while waiting:
            worker = waiting.popleft()
            with self._alive(worker):
                slot = self.pipes[worker].recv()
            if isinstance(slot, BaseException):
                raise slot
            hand_out(1)
            yield slot

    def close(self) -> None:
        """End all workers: kill those that do not end by themselves within GRACE seconds."""
        atexit.unregister(self.close)
        for pipe in self.pipes:
            pipe.close()
        self._join()
        for process in self.processes:
            if process.is_alive():
                process.kill()
        self._join()

    def _join(self) -> None:
        deadline = time.monotonic() + GRACE
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        self.pipes.append(ours)
        with theirs:
            process = multiprocessing.get_context("forkserver").Process(
                target=_serve, args=(self.memory, theirs), daemon=True
            )
            try:
                process.start()
            except (EOFError, ConnectionError) as error:  # of the fork server's socket
                # mstat/cluster/restarts.py recognises this message and the one of `_alive`.
                raise UserError(
                    "no process can be started for the loader, since its fork server has ended: give the job more "
                    "memory or more open files (ulimit -n), or lower data.num_workers"
                ) from error
        self.processes.append(process)

    @contextlib.contextmanager
    def _alive(self, worker: int) -> Iterator[None]:
        """Turn the error of a closed pipe into one that explains how the worker died."""
        try:
            yield
        except (EOFError, OSError) as error:
            process = self.processes[worker]
            process.join(GRACE)
            code = process.exitcode
            how = f"ended with exit status {code}"
            if code is not None and code < 0:
                how = f"was killed by {signal.Signals(-code).name}"
            raise UserError(
                f"a process of the loader (pid {process.pid}) {how}; the system kills processes (SIGKILL) when "
                "memory runs out: lower data.num_workers, or give the job more memory"
            ) from error


def start_fork_server() -> None:
    """Start the fork server of the workers: forking this process, which has many threads, can hang.

    The server imports torch, which takes a second or two; start it early, so that this overlaps with other work.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["mstat.data.loader"])
    resource_tracker.ensure_running()  # its start unblocks signals, so start it outside of the block
    with signals.blocked():
        forkserver.ensure_running()


def _serve(memory: Memory, pipe: Connection) -> None:
    """Run a worker: do the requested work until the trainer closes its end of the pipe."""
    _end_with_trainer()
    torch.set_num_threads(1)
    work: Work | None = None

    def answer(place: Place) -> int | ExceptionWithTraceback:
        nonlocal work
        try:
            if work is None:
                work = pickle.loads(pickled)  # opens the shards, which can fail
            work(memory, place)
        except BaseException as error:
            return _sendable(error)
        return place[0]

    with contextlib.suppress(EOFError, ConnectionError):
        pickled = pipe.recv_bytes()
        while True:
            pipe.send(answer(pipe.recv()))


def _sendable(error: BaseException) -> ExceptionWithTraceback:
    """Wrap an error so that the trainer raises it with the worker's traceback as its cause.

    An error that would silently end the trainer (SystemExit), or that cannot be pickled, becomes a RuntimeError.
    """
    sent: Any = ExceptionWithTraceback(error, error.__traceback__)
    try:
        if isinstance(error, Exception) and isinstance(pickle.loads(pickle.dumps(sent)), type(error)):
            return sent
    except Exception:  # the pickling of a custom class can raise anything
        pass
    replaced = RuntimeError(f"{type(error).__name__} in a process of the loader: {error}")
    replaced.__cause__ = error
    return ExceptionWithTraceback(replaced, error.__traceback__)


def _end_with_trainer() -> None:
    """End this process when the trainer is killed, even in the middle of a batch."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
