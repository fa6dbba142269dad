"""Detection of the rank that made a collective fail.

A failed collective says that some peer closed its connection or did not answer in time, and not which of them
began it. The launcher keeps a key-value store that outlives its workers. Every rank leaves its name there and keeps a
thread that waits, at no cost, for a roll call; it answers from that thread even while the rank itself is blocked in a
collective. A rank that fails calls the roll: whoever left an error is the cause, else whoever does not answer.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

from mstat.foreign_messages import LOST_PEER

ANSWER_SECONDS = 5.0  # to wait for answers; they take milliseconds
POLL_SECONDS = 0.1
FAR = timedelta(days=365)
T = TypeVar("T")


class LostRankError(RuntimeError):
    """Another rank failed, was killed, hangs or cannot be reached."""


class RollCall:
    """The part of a rank in a roll call. Every rank makes one; none of its methods is a collective.

    Args:
        rank, world_size: This process.
        attempt: Name of this start of the ranks. Each start has its own roll in the launcher's store.
    """

    def __init__(self, rank: int, world_size: int, attempt: str) -> None:
        self.rank, self.world_size = rank, world_size
        self.address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.prefix = f"mstat/{attempt}/roll"
        self.name = f"rank {rank} (host {platform.node()}, pid {os.getpid()})"
        self._connect().set(self._key(f"name/{rank}"), self.name)
        threading.Thread(target=self._answer, daemon=True).start()

    def leave_error(self, message: str) -> None:
        """Leave the reason why this rank ends for the others; the first error counts."""
        text = f"{self.name}: {message}"
        # Torch looks up the name of the store's address as it connects; a resolver that does not answer takes 5 s.
        within(2 * ANSWER_SECONDS, lambda: self._connect().compare_set(self._key("error"), "", text))

    def find(self) -> str:
        """Return a sentence that names the cause of a failed collective, within one to three times ANSWER_SECONDS."""
        cause = within(3 * ANSWER_SECONDS, self._find)
        host = self.address[0]
        return cause or f"rank 0's host ({host}) does not answer: its launcher has ended, or host or network are down"

    def _find(self) -> str:
        store = self._connect()
        if store.add(self._key("calls"), 1) > 1:  # another rank calls the roll already; a thousand would be a flood
            store.wait([self._key("verdict")], timedelta(seconds=2 * ANSWER_SECONDS))
            return store.get(self._key("verdict")).decode()
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        silent = {rank: store.get(self._key(f"name/{rank}")).decode() for rank in others}
        store.set(self._key("call"), "")
        deadline = time.monotonic() + ANSWER_SECONDS
        with contextlib.suppress(dist.DistError):  # the launcher of rank 0 may end meanwhile, and the store with it
            while silent and time.monotonic() < deadline:
                if store.check([self._key("error")]):
                    break
                time.sleep(POLL_SECONDS)
                silent = {rank: name for rank, name in silent.items() if not store.check([self._key(f"here/{rank}")])}
            verdict = self._verdict(store, list(silent.values()))
            store.set(self._key("verdict"), verdict)
            return verdict
        return f"no answer from {', '.join(silent.values())}: killed, or its host is down"

    def _verdict(self, store: dist.TCPStore, silent: list[str]) -> str:
        if store.check([self._key("error")]):
            return store.get(self._key("error")).decode()
        if silent:
            return f"no answer from {', '.join(silent)}: killed, stopped, or its host cannot be reached"
        return "every rank answers, but a collective failed: the network between them, or one was far too slow"

    def _answer(self) -> None:
        # The store ends with the launcher, and then there is nobody to answer.
        with contextlib.suppress(dist.DistError, RuntimeError):
            store = self._connect()
            store.wait([self._key("call")], FAR)
            store.set(self._key(f"here/{self.rank}"), "")

    def _connect(self) -> dist.TCPStore:
        timeout = timedelta(seconds=2 * ANSWER_SECONDS)
        return dist.TCPStore(*self.address, is_master=False, wait_for_workers=False, timeout=timeout)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}"


def failed_collective(error: BaseException) -> bool:
    """Return whether an error is about another rank. Those of gloo are plain RuntimeErrors."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and LOST_PEER.search(str(error)) is not None


def within(seconds: float, call: Callable[[], T]) -> T | None:
    """Return the result of a call, or None if it fails or takes longer: a store behind a cut link blocks for ever."""
    results: list[T] = []

    def attempt() -> None:
        with contextlib.suppress(dist.DistError, RuntimeError):
            results.append(call())

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
