"""Detection of the rank that made a collective fail.

A failed collective says that a peer closed its connection or timed out, but not which rank failed first. The launcher
keeps a key-value store that outlives its workers. Every rank stores its name there and has a thread that waits for a
roll call; the thread answers even while the rank is blocked in a collective. A rank that fails calls the roll. The
cause is the rank that stored an error, or else the ranks that do not answer.
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

ANSWER_SECONDS = 5.0  # timeout for answers, which take milliseconds
POLL_SECONDS = 0.1
FAR = timedelta(days=365)
T = TypeVar("T")


class LostRankError(RuntimeError):
    """Another rank failed, was killed, hangs or cannot be reached."""


class RollCall:
    """Participant in roll calls. Every rank makes one; none of its methods is a collective.

    Args:
        rank, world_size: Rank of this process, and number of processes.
        attempt: Name of this attempt; each has its own keys in the launcher's store.
    """

    def __init__(self, rank: int, world_size: int, attempt: str) -> None:
        self.rank, self.world_size = rank, world_size
        self.address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.prefix = f"mstat/{attempt}/roll"
        self.name = f"rank {rank} (host {platform.node()}, pid {os.getpid()})"
        self._connect().set(self._key(f"name/{rank}"), self.name)
        threading.Thread(target=self._answer, daemon=True).start()

    def leave_error(self, message: str) -> None:
        """Store the error of this rank for the others; the first error counts."""
        text = f"{self.name}: {message}"
        # Torch resolves the store's host name when it connects; an unreachable resolver takes 5 s.
        within(2 * ANSWER_SECONDS, lambda: self._connect().compare_set(self._key("error"), "", text))

    def find(self) -> str:
        """Return a sentence that names the cause of a failed collective, within one to three times ANSWER_SECONDS."""
        cause = within(3 * ANSWER_SECONDS, self._find)
        host = self.address[0]
        return cause or f"rank 0's host ({host}) does not answer: its launcher has ended, or host or network are down"

    def _find(self) -> str:
        store = self._connect()
        if store.add(self._key("calls"), 1) > 1:  # another rank calls the roll already
            store.wait([self._key("verdict")], timedelta(seconds=2 * ANSWER_SECONDS))
            return store.get(self._key("verdict")).decode()
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        silent = {rank: store.get(self._key(f"name/{rank}")).decode() for rank in others}
        store.set(self._key("call"), "")
        deadline = time.monotonic() + ANSWER_SECONDS
        with contextlib.suppress(dist.DistError):  # rank 0's launcher may end, and with it the store
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
        # The launcher ends the store when the run ends.
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
    """Return whether an error was caused by another rank. gloo raises plain RuntimeErrors."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and LOST_PEER.search(str(error)) is not None


def within(seconds: float, call: Callable[[], T]) -> T | None:
    """Return the result of a call, or None if it fails or times out: an unreachable store blocks for ever."""
    results: list[T] = []

    def attempt() -> None:
        with contextlib.suppress(dist.DistError, RuntimeError):
            results.append(call())

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
