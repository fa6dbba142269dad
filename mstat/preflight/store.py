"""Key-value store of a launch, which the processes use before they form a group.

A collective needs every rank, and does not say which rank is missing. Rank 0 reads the store one key at a time, and so
can name the ranks that have written nothing. Nothing in this module is a collective.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mstat.distributed.rendezvous import launcher_keeps_store

POLL_SECONDS = 0.02


class RankStore:
    """The store as one rank uses it. Each rank writes under its own number; values are JSON values.

    Args:
        rank, world_size: This process.
        store: The store that all processes of the launch reach.
    """

    def __init__(self, rank: int, world_size: int, store: dist.Store) -> None:
        self.rank, self.world_size, self.store = rank, world_size, store

    def set(self, name: str, value: Any) -> None:
        """Write this rank's value of `name`."""
        self.store.set(f"{name}/{self.rank}", json.dumps(value))

    def collect(self, name: str, ranks: Sequence[int], seconds: float) -> dict[int, Any]:
        """Return the values of `name` by rank, without the ranks that write none within `seconds`."""
        deadline = time.monotonic() + seconds
        missing, values = set(ranks), dict[int, Any]()
        while missing:
            for rank in sorted(missing):
                if self.store.check([f"{name}/{rank}"]):
                    values[rank] = json.loads(self.store.get(f"{name}/{rank}"))
                    missing.remove(rank)
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return values

    def wait(self, name: str, rank: int, seconds: float) -> Any:
        """Return that rank's value of `name`.

        Raises:
            torch.distributed.DistError: If the rank writes none within `seconds`, or the store is gone.
        """
        self.store.wait([f"{name}/{rank}"], timedelta(seconds=seconds))
        return json.loads(self.store.get(f"{name}/{rank}"))


def open_store(timeout: float) -> RankStore:
    """Open the store of this launch. A launch of one process needs no server.

    Raises:
        ConnectionError: If the store does not answer within `timeout` seconds.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return RankStore(0, 1, dist.HashStore())
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    server = connect(timeout, is_master=rank == 0 and not launcher_keeps_store())
    return RankStore(rank, world_size, dist.PrefixStore(f"preflight/{attempt}", server))


def connect(timeout: float, address: tuple[str, int] | None = None, *, is_master: bool = False) -> dist.TCPStore:
    """Connect to the store at an address, by default the one of this launch.

    Raises:
        ConnectionError: If the address does not answer within `timeout` seconds.
    """
    host, port = address or (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    deadline = time.monotonic() + timeout
    while not is_master:  # wait for the port here: each failed attempt of TCPStore prints a page of warnings
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
