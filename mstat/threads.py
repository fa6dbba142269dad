"""Threads of a CPU, without their number showing in a result.

BLAS cuts a matrix product by the number of threads that it may use, and so rounds; and how many threads a process has
depends on how many processes there are. So a product is left to one thread, and several threads work on several of
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

# function, its arguments -> its results in that order
Spread = Callable[[Callable[[Any], Any], Iterable[Any]], list]


def in_turn(function: Callable[[Any], Any], arguments: Iterable[Any]) -> list:
    """The `Spread` of one thread."""
    return [function(argument) for argument in arguments]


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
def spreading(device: torch.device) -> Iterator[Spread]:
    """A `map` over as many threads as torch has on this CPU; meanwhile each of them computes alone, as `one_thread`.

    What it is given runs without a graph, and in fp32 where that is what it has. On a GPU it is a plain loop.
    """
    num_threads = torch.get_num_threads() if device.type == "cpu" else 1
    with torch.no_grad(), torch.autocast(device.type, enabled=False), one_thread(device):
        if num_threads == 1:
            yield in_turn
            return
        # A new thread has settings of its own: of its threads, and whether there is a graph.
        with ThreadPoolExecutor(num_threads, "spreading", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield lambda function, arguments: list(pool.map(torch.no_grad()(function), arguments))
