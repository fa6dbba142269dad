"""The rendezvous of the processes of one attempt, in a store that may remember earlier attempts.

The launcher's store outlives its workers, so after a restart, torch may find and use the addresses of dead processes.
Torch prefixes its keys with `TORCHELASTIC_RESTART_COUNT`, but with the c10d rendezvous each machine's launcher has its
own count (pytorch#135712), so ranks may wait for each other under different keys. Here rank 0 names the attempt, and
answers the question of each other rank with the name.

The ranks also compare the facts that must be equal (mstat/distributed/agreement.py) before they form a group: processes
with different settings would train, and processes with different world sizes would wait for ever.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mstat.console import print_line
from mstat.distributed.differences import complaint
from mstat.errors import UserError

POLL_SECONDS = 0.05
NOTICE_SECONDS = 20.0  # delay of the message about missing ranks
SEEN_SECONDS = 5.0  # time for all ranks to read the differences before rank 0 ends, possibly with the store
NUM_PROCESSES = "number of processes"


def join(backend: str, timeout: timedelta, facts: Mapping[str, Any]) -> str:
    """Make the default process group from the launcher's environment; return the attempt's name.

    Raises:
        UserError: On every rank, if `facts` (JSON values by name) differ between ranks.
    """
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    is_master = rank == 0 and not launcher_keeps_store()
    with call_after(NOTICE_SECONDS, lambda: print_line(_notice(rank, world_size, address), file=sys.stderr)):
        # multi_tenant: if rank 0 hosts the store, its preflight checks have made it (mstat/preflight/store.py).
        keys = dist.TCPStore(*address, world_size, is_master=is_master, timeout=timeout, multi_tenant=True)
        store = dist.PrefixStore("mstat", keys)
        attempt = agree_on_attempt(store, rank, world_size, timeout, facts)
    own = dist.PrefixStore(attempt, store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size, timeout=timeout)
    return attempt


def _notice(rank: int, world_size: int, address: tuple[str, int]) -> str:
    """Return a message on the ranks that this process waits for; the variables may remain from another launch."""
    others = "rank 0" if rank else f"the other {world_size - 1}"
    return (
        f"rank {rank} of {world_size} processes waits for {others} at {address[0]}:{address[1]} "
        "(RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment; `unset` them to start one process)"
    )


@contextmanager
def call_after(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Context that calls a function, in another thread, if it takes longer than `seconds`."""
    timer = threading.Timer(seconds, function)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def launcher_keeps_store() -> bool:
    """Return whether the launcher hosts the store at `MASTER_ADDR`; otherwise the store dies with rank 0."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def agree_on_attempt(
    store: dist.Store, rank: int, world_size: int, timeout: timedelta, facts: Mapping[str, Any]
) -> str:
    """Agree on a unique name of this attempt, and compare the facts of all ranks.

    Launchers start a new attempt only after all ranks of the last one have ended, so every rank that answers belongs to
    this attempt.

    Raises:
        UserError: On every rank, if the facts differ.
        TimeoutError: On rank 0, with the ranks that have not started.
        torch.distributed.DistStoreError: On the others, if rank 0 has not started.
    """
    mine = uuid.uuid4().hex
    note: dict[str, Any] = {"host": platform.node(), "facts": {NUM_PROCESSES: world_size, **facts}}
    if rank > 0:
        store.set(f"question/{rank}", mine)
        answer = f"answer/{mine}"
        store.wait([answer], timeout)
        attempt = store.get(answer).decode()
        store.set(f"here/{attempt}/{rank}", json.dumps(note))
        store.wait([f"verdict/{attempt}"], timeout)
        if verdict := store.get(f"verdict/{attempt}").decode():
            with suppress(dist.DistError):
                store.set(f"seen/{attempt}/{rank}", "")
            raise UserError(verdict)
        return attempt
    deadline = time.monotonic() + timeout.total_seconds()
    missing = set(range(1, world_size))
    notes = {0: note}
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{mine}/{other}"]):
                missing.remove(other)
                notes[other] = json.loads(store.get(f"here/{mine}/{other}"))
            elif store.check([f"question/{other}"]):  # a question of an earlier attempt does no harm
                store.set(f"answer/{store.get(f'question/{other}').decode()}", mine)
        if any(came["facts"][NUM_PROCESSES] != world_size for came in notes.values()):
            break  # the missing ranks may not exist
        if missing and time.monotonic() > deadline:
            ranks = ", ".join(map(str, sorted(missing)))
            raise TimeoutError(f"after {timeout.total_seconds():.0f} s these ranks have not started: {ranks}")
        if missing:
            time.sleep(POLL_SECONDS)
    hosts, all_facts = ({rank: came[part] for rank, came in notes.items()} for part in ("host", "facts"))
    differences = complaint(hosts, all_facts)
    store.set(f"verdict/{mine}", differences or "")
    if differences:
        _wait_until_seen(store, mine, [rank for rank in notes if rank > 0])
        raise UserError(differences)
    return mine


def _wait_until_seen(store: dist.Store, attempt: str, ranks: list[int]) -> None:
    with suppress(dist.DistError):
        store.wait([f"seen/{attempt}/{rank}" for rank in ranks], timedelta(seconds=SEEN_SECONDS))
