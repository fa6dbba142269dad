"""Processes that make batches ahead of the trainer, and never outlive it or make it wait for nothing.

Each worker has a pipe of its own: the trainer sends a place to fill, and gets back its slot or the error that was
raised. A worker that dies closes its pipe, so that the trainer's next read fails at once. A trainer that dies or closes
a pipe ends the worker. torch's DataLoader looks for dead workers every five seconds, and ends its workers by SIGTERM,
which these do not hear: schedulers send it to every process, and the workers must go on.
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

GRACE = 1.0  # seconds in which a worker may end by itself before it is killed
Memory = dict[str, torch.Tensor]  # shared with the workers
Place = tuple[int, int]  # slot and index
Work = Callable[[Memory, Place], None]


def done(work: Work, memory: Memory, places: Iterable[Place], num_workers: int, ahead: int) -> Generator[int]:
    """The slots of `places` in their order, each when its work is done: by workers, or by this process if there are 0.

    To be closed by who does not take them all.

    Raises:
        UserError: If a worker cannot be started, or dies.
        Exception: What the work raised; of a worker's error, the cause is its traceback.
    """
    if num_workers:
        with Workers(work, memory, num_workers) as workers:
            yield from workers.results(places, ahead)
    else:
        for place in places:
            work(memory, place)
            yield place[0]


class Workers:
    """Worker processes that do `work(memory, place)`. A context manager: none of them is left behind it.

    Entering it, and `results`, raise what `done` does.
    """

    def __init__(self, work: Work, memory: Memory, num_workers: int) -> None:
        self.work, self.memory, self.num_workers = work, memory, num_workers
        self.processes: list[BaseProcess] = []
        self.pipes: list[Connection] = []

    def __enter__(self) -> Workers:
        start_fork_server()
        atexit.register(self.close)  # for a generator that is never closed; Python itself would wait for the workers
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

    def results(self, places: Iterable[Place], ahead: int) -> Iterator[int]:
        """The slot of each place in their order. Each worker has `ahead` of them to do, or fewer."""
        turns = zip(cycle(range(self.num_workers)), places, strict=False)
        waiting: deque[int] = deque()

        def hand_out(number: int) -> None:
            for worker, place in islice(turns, number):
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
        """End all workers: they have a second to end by themselves."""
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
                raise UserError(
                    "no process can be started for the loader: its fork server has ended; it may need memory, or more "
                    "open files (ulimit -n); or lower data.num_workers"
                ) from error
        self.processes.append(process)

    @contextlib.contextmanager
    def _alive(self, worker: int) -> Iterator[None]:
        """Explain a pipe that is closed at its other end: its worker has died."""
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
                f"a process of the loader (pid {process.pid}) {how}. The system kills processes (SIGKILL) when memory "
                "runs out: lower data.num_workers, or give the job more memory"
            ) from error


def start_fork_server() -> None:
    """Start the server that workers are forked from: forking this process, with its many threads, can hang.

    It imports torch, for a second or two: begin early, and there is something else to do meanwhile.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["mstat.data.loader"])
    resource_tracker.ensure_running()  # starting it lets signals through again
    with signals.blocked():
        forkserver.ensure_running()


def _serve(memory: Memory, pipe: Connection) -> None:
    """A worker: do what is asked for until the trainer closes its end of the pipe."""
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
    """An error that the trainer will get as it is, with this traceback as its cause.

    What would end the trainer without a word (SystemExit), or has no way through a pipe, becomes a RuntimeError.
    """
    sent: Any = ExceptionWithTraceback(error, error.__traceback__)
    try:
        if isinstance(error, Exception) and isinstance(pickle.loads(pickle.dumps(sent)), type(error)):
            return sent
    except Exception:  # whatever a class of its own raises when it is pickled
        pass
    replaced = RuntimeError(f"{type(error).__name__} in a process of the loader: {error}")
    replaced.__cause__ = error
    return ExceptionWithTraceback(replaced, error.__traceback__)


def _end_with_trainer() -> None:
    """End this process when the trainer is killed, also in the middle of a batch."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
