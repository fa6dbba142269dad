"""Notes that the processes of a launch leave in the launcher's store before they form a group.

A process group is made by all or by none, and does not say who is missing. Notes can be read one by one, so that rank 0
can name those who have left none. Nothing here is a collective.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mstat.distributed.rendezvous import launcher_keeps_store

POLL_SECONDS = 0.02
PINGS = 8  # the quickest of them counts
PING_SECONDS = 5.0


class Meeting:
    """One process's view of the notes.

    Args:
        rank, world_size: Of this process.
        store: What all processes of the launch reach.
        clock: Seconds of this machine's clock, since 1970.
    """

    def __init__(self, rank: int, world_size: int, store: dist.Store, clock: Callable[[], float] = time.time) -> None:
        self.rank, self.world_size, self.store, self.clock = rank, world_size, store, clock

    def leave(self, name: str, value: Any) -> None:
        """A note of this rank; JSON values."""
        self.store.set(f"{name}/{self.rank}", json.dumps(value))

    def collect(self, name: str, ranks: Sequence[int], seconds: float) -> dict[int, Any]:
        """The notes of that name by rank, of those who leave one within `seconds`."""
        deadline = time.monotonic() + seconds
        missing, result = set(ranks), dict[int, Any]()
        while missing:
            for rank in sorted(missing):
                if self.store.check([f"{name}/{rank}"]):
                    result[rank] = json.loads(self.store.get(f"{name}/{rank}"))
                    missing.remove(rank)
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return result

    def wait(self, name: str, rank: int, seconds: float) -> Any:
        """That rank's note.

        Raises:
            torch.distributed.DistError: If it leaves none in time, or the store is gone.
        """
        self.store.wait([f"{name}/{rank}"], timedelta(seconds=seconds))
        return json.loads(self.store.get(f"{name}/{rank}"))

    # --- clocks: as NTP does it, by the time at rank 0 in the middle of a round trip ------------------------------

    def compare_clocks(self, ranks: Sequence[int]) -> dict[int, tuple[float, float] | None]:
        """On rank 0: by how many seconds the clock of each rank is ahead of ours, and how far that may be wrong.

        None for a rank that does not answer.
        """
        result: dict[int, tuple[float, float] | None] = {}
        for rank in ranks:
            try:
                self.store.set(f"clock/begin/{rank}", "")
                for number in range(PINGS):
                    self.store.wait([f"clock/ping/{rank}/{number}"], timedelta(seconds=PING_SECONDS))
                    self.store.set(f"clock/pong/{rank}/{number}", json.dumps(self.clock()))
                result[rank] = tuple(self.wait("clock/result", rank, PING_SECONDS))
            except dist.DistError:
                result[rank] = None
        return result

    def answer_clock(self, seconds: float) -> None:
        """On another rank: its side of `compare_clocks`, which begins within `seconds`."""
        self.store.wait([f"clock/begin/{self.rank}"], timedelta(seconds=seconds))
        best = (0.0, float("inf"))
        for number in range(PINGS):
            sent, began = self.clock(), time.monotonic()
            self.store.set(f"clock/ping/{self.rank}/{number}", "")
            self.store.wait([f"clock/pong/{self.rank}/{number}"], timedelta(seconds=PING_SECONDS))
            theirs = json.loads(self.store.get(f"clock/pong/{self.rank}/{number}"))
            trip = time.monotonic() - began
            best = min(best, (sent + trip / 2 - theirs, trip / 2), key=lambda measured: measured[1])
        self.leave("clock/result", best)


def meet(timeout: float) -> Meeting:
    """The meeting of the processes of this launch, of which there may be one.

    Raises:
        ConnectionError: If the store does not answer within `timeout` seconds.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Meeting(0, 1, dist.HashStore())
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(
        f"preflight/{attempt}", connect(timeout, is_master=rank == 0 and not launcher_keeps_store())
    )
    return Meeting(rank, world_size, store)


def connect(timeout: float, address: tuple[str, int] | None = None, *, is_master: bool = False) -> dist.TCPStore:
    """The store at an address, the launch's own by default.

    Raises:
        ConnectionError: If nothing answers there.
    """
    host, port = address or (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    deadline = time.monotonic() + timeout
    while not is_master:  # torch's own tries print a page each
        try:
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic())).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConnectionError(f"{host}:{port} does not answer ({error})") from None
            time.sleep(POLL_SECONDS)
    seconds = timedelta(seconds=timeout)
    try:
        return dist.TCPStore(
            host, port, is_master=is_master, wait_for_workers=False, timeout=seconds, multi_tenant=True
        )
    except dist.DistError as error:
        raise ConnectionError(f"{host}:{port} does not answer ({str(error).splitlines()[0]})") from None
