"""Run jobs in several processes: progress on a terminal, a clean Ctrl-C, and no worker that outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import rich.progress
from rich.console import Console

J = TypeVar("J")
R = TypeVar("R")


class Progress:
    """Counters that all workers increase, and the flag that stops the workers."""

    def __init__(self, context: Any) -> None:
        self.tracklets = context.Value("q", 0)
        self.frames = context.Value("q", 0)
        self.stop = context.Event()

    def advance(self, tracklets: int, frames: int) -> None:
        """Add finished tracklets and frames."""
        with self.tracklets.get_lock():
            self.tracklets.value += tracklets
        with self.frames.get_lock():
            self.frames.value += frames

    def check(self) -> None:
        """Raise InterruptedError if the parent has stopped the jobs."""
        if self.stop.is_set():
            raise InterruptedError("stopped")


_progress: Progress | None = None  # of this worker; shared counters can be passed only when a process starts


def available_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(work: Callable[[J, Progress], R], jobs: Sequence[J], *, workers: int, total: int) -> list[R]:
    """Return `[work(job, progress) for job in jobs]`, computed by `workers` processes (a thread of this one if 1).

    `total` is the number of tracklets that the jobs will count. Processes are spawned, since the caller may have
    threads. The first exception stops the other jobs and is raised.
    """
    context = multiprocessing.get_context("spawn")
    progress = Progress(context)
    workers = min(workers, len(jobs))
    executor: Executor
    if workers <= 1:
        executor = ThreadPoolExecutor(1, initializer=_set_progress, initargs=(progress,))
    else:
        executor = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(progress,))
    try:
        futures = [executor.submit(_call, work, job) for job in jobs]
        _watch(futures, progress, total)
        return [future.result() for future in futures]
    except BaseException:
        progress.stop.set()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _call(work: Callable[[J, Progress], R], job: J) -> R:
    assert _progress is not None
    return work(job, _progress)


def _set_progress(progress: Progress) -> None:
    global _progress
    _progress = progress


def _start_worker(progress: Progress) -> None:
    _set_progress(progress)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all processes; the parent handles it
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Exit with the parent: workers of a killed parent would wait for ever, or write into the next build."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _watch(futures: Sequence[Future[Any]], progress: Progress, total: int) -> None:
    """Show the counters until all jobs are done; raise the first exception at once."""
    console = Console(file=sys.stderr)
    bar = rich.progress.Progress(
        rich.progress.TextColumn("tracklets"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]:.0f} frames/s"),
        rich.progress.TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    began = time.monotonic()
    pending = set(futures)
    with bar:
        task = bar.add_task("", total=total, rate=0.0)
        while pending:
            done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
            rate = progress.frames.value / max(1e-3, time.monotonic() - began)
            bar.update(task, completed=progress.tracklets.value, rate=rate)
            for future in done:
                future.result()
