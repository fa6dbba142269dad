"""The rendezvous of the processes of one attempt, in a store that may remember earlier attempts.

The launcher's store outlives its workers, so that after a restart torch's own start may find the addresses of dead
processes, and connect to them. Torch puts `TORCHELASTIC_RESTART_COUNT` before its keys, but with the c10d rendezvous
each machine's launcher counts for itself and the counts differ (pytorch#135712): ranks then wait for each other under
different names. Here rank 0 names the attempt, and the others learn the name from an answer to their own question.

They also compare what all of them must have in common (mstat/distributed/agreement.py), while the store is all that
joins them: a group of processes with other settings would train, and one with another number of processes would wait
for ever.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mstat.distributed.differences import complaint
from mstat.errors import UserError

POLL_SECONDS = 0.05
NOTICE_SECONDS = 20.0  # of waiting, after which a message names the missing ranks
SEEN_SECONDS = 5.0  # for all ranks to read a bad verdict, before rank 0 ends, perhaps with the store
NUM_PROCESSES = "number of processes"


def join(backend: str, timeout: timedelta, facts: Mapping[str, Any]) -> str:
    """Make the default process group from the launcher's environment; return the attempt's name.

    Raises:
        UserError: On every rank, if `facts` (JSON values by name) are not the same on all of them.
    """
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    is_master = rank == 0 and not launcher_keeps_store()
    with _notice(rank, world_size, address):
        # multi_tenant: where rank 0 keeps the store, its launch checks have made it already (mstat/preflight/store.py).
        keys = dist.TCPStore(*address, world_size, is_master=is_master, timeout=timeout, multi_tenant=True)
        store = dist.PrefixStore("mstat", keys)
        attempt = agree_on_attempt(store, rank, world_size, timeout, facts)
    own = dist.PrefixStore(attempt, store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size, timeout=timeout)
    return attempt


@contextmanager
def _notice(rank: int, world_size: int, address: tuple[str, int]) -> Iterator[None]:
    """Print which ranks this process waits for, if it takes long: variables may be left over from another launch."""
    others = "rank 0" if rank else f"the other {world_size - 1}"
    text = (
        f"rank {rank} of {world_size} processes waits for {others} at {address[0]}:{address[1]} "
        "(RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment; `unset` them to start one process)\n"
    )
    timer = threading.Timer(NOTICE_SECONDS, lambda: sys.stderr.write(text))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def launcher_keeps_store() -> bool:
    """Return whether the launcher hosts the store at `MASTER_ADDR`. Otherwise rank 0 does, and takes it along."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def agree_on_attempt(
    store: dist.Store, rank: int, world_size: int, timeout: timedelta, facts: Mapping[str, Any]
) -> str:
    """Agree on a name that all ranks of this attempt share, and no other attempt; compare the facts of all ranks.

    Launchers start no rank before all ranks of the attempt before have ended, so whoever still answers is of this one.

    Raises:
        UserError: On every rank, if the facts differ.
        TimeoutError: On rank 0, naming the ranks that have not come.
        torch.distributed.DistStoreError: On the others, if rank 0 has not come.
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
            elif store.check([f"question/{other}"]):  # perhaps one of an attempt before: nobody reads that answer
                store.set(f"answer/{store.get(f'question/{other}').decode()}", mine)
        if any(came["facts"][NUM_PROCESSES] != world_size for came in notes.values()):
            break  # those who are missing may never come
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
