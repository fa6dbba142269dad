"""Reproducible numbers: fp32 where autocast must not reach, and threads whose number shows in no result.

BLAS cuts a matrix product by the number of threads that it may use, and so rounds; and how many threads a process has
depends on how many processes there are. So a product is left to one thread, and several threads work on several of
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

A = TypeVar("A")
R = TypeVar("R")


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Half precision becomes fp32; fp64, in which exactness is tested, stays.

    For features, softmaxes written by hand, and losses.
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@dataclass(frozen=True)
class Spread:
    """`spread(function, arguments)`: the results in the order of arguments, worked out by so many threads at a time.

    A pair of argument and result at a time, from arguments that take up memory, gives `stream`.
    """

    num_threads: int = 1
    pool: ThreadPoolExecutor | None = None

    def __call__(self, function: Callable[[Any], Any], arguments: Iterable[Any]) -> list[Any]:
        if self.pool is None:
            return [function(argument) for argument in arguments]
        # A new thread has its own mind about graphs.
        return list(self.pool.map(torch.no_grad()(function), arguments))

    @property
    def in_hand(self) -> int:
        """Arguments that `stream` has taken and not given back, at most: one waits for the thread that is done next."""
        return self.num_threads + (self.pool is not None)

    def stream(self, function: Callable[[A], R], arguments: Iterable[A]) -> Iterator[tuple[A, R]]:
        """Each argument and its result, in their order. An argument is taken when one is given back."""
        if self.pool is None:
            for argument in arguments:
                yield argument, function(argument)
            return
        waiting: deque[tuple[A, Future[R]]] = deque()
        without_graph = torch.no_grad()(function)
        for argument in arguments:
            waiting.append((argument, self.pool.submit(without_graph, argument)))
            if len(waiting) == self.in_hand:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()


IN_TURN = Spread()


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, torch computes with one thread meanwhile."""
    num_threads = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(num_threads)


@contextmanager
def spreading(device: torch.device, most: int | None = None) -> Iterator[Spread]:
    """Over as many threads as torch has on this CPU, `most` at most; each computes alone, as under `one_thread`.

    What they are given runs without a graph, and in fp32 unless it says otherwise. On a GPU it is a plain loop.
    """
    num_threads = min(torch.get_num_threads(), most or 2**30) if device.type == "cpu" else 1
    with torch.no_grad(), torch.autocast(device.type, enabled=False), one_thread(device):
        if num_threads == 1:
            yield IN_TURN
            return
        with ThreadPoolExecutor(num_threads, "spread", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield Spread(num_threads, pool)
