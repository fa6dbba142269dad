"""The store of a launcher, for tests of a roll call."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from mstat.distributed import lost_rank


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dist.TCPStore]]:
    """The store that the environment names, in a list; it ends when a test clears the list.

    A roll call ends the threads of its ranks. They are joined: Python aborts if it ends while one of them connects.
    """
    # Each connection takes 5 s where torch's look-up of the address's name is not answered.
    monkeypatch.setattr(lost_rank, "ANSWER_SECONDS", 30.0)
    before = set(threading.enumerate())
    stores = [dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(stores[0].port))
    yield stores
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
    stores.clear()
