"""How the processes of one attempt find each other, in a store that may remember the attempts before.

The launcher's store outlives its workers, so that after a restart torch's own start may find the addresses of what has
died, and connect to them. Torch puts `TORCHELASTIC_RESTART_COUNT` before its keys, but with the c10d rendezvous each
machine's launcher counts for itself and the counts differ (pytorch#135712): ranks then wait for each other under
different names. Here rank 0 names the attempt, and the others learn the name from an answer to their own question.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

POLL_SECONDS = 0.05


def join(backend: str, timeout: timedelta) -> str:
    """Make the default process group from the launcher's environment, and give the attempt's name."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    is_master = rank == 0 and not launcher_keeps_store()
    # multi_tenant: where rank 0 keeps the store, its launch checks have made it already (mstat/cluster/meeting.py).
    keys = dist.TCPStore(*address, world_size, is_master=is_master, timeout=timeout, multi_tenant=True)
    store = dist.PrefixStore("mstat", keys)
    attempt = agree_on_attempt(store, rank, world_size, timeout)
    own = dist.PrefixStore(attempt, store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world_size, timeout=timeout)
    return attempt


def launcher_keeps_store() -> bool:
    """Whether the store at `MASTER_ADDR` is the launcher's, and not one that rank 0 makes and takes with it."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def agree_on_attempt(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> str:
    """A name that all ranks of this attempt, and of no other, give.

    Launchers start no rank before all ranks of the attempt before have ended, so whoever still answers is of this one.

    Raises:
        TimeoutError: On rank 0, naming the ranks that have not come.
        torch.distributed.DistStoreError: On the others, if rank 0 has not come.
    """
    mine = uuid.uuid4().hex
    if rank > 0:
        store.set(f"question/{rank}", mine)
        answer = f"answer/{mine}"
        store.wait([answer], timeout)
        attempt = store.get(answer).decode()
        store.set(f"here/{attempt}/{rank}", "")
        return attempt
    deadline = time.monotonic() + timeout.total_seconds()
    missing = set(range(1, world_size))
    while missing:
        for other in sorted(missing):
            if store.check([f"here/{mine}/{other}"]):
                missing.remove(other)
            elif store.check([f"question/{other}"]):  # perhaps one of an attempt before: nobody reads that answer
                store.set(f"answer/{store.get(f'question/{other}').decode()}", mine)
        if missing and time.monotonic() > deadline:
            ranks = ", ".join(map(str, sorted(missing)))
            raise TimeoutError(f"after {timeout.total_seconds():.0f} s these ranks have not started: {ranks}")
        time.sleep(POLL_SECONDS)
    return mine
