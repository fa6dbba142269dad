"""The store of a launch before its group exists; a HashStore stands in for the launcher's TCPStore."""

from __future__ import annotations

import socket
import time

import pytest
import torch.distributed as dist

from mstat.preflight.store import RankStore, connect


def test_a_rank_that_writes_nothing_is_left_out() -> None:
    """`collect` returns the values that arrive in time, by rank."""
    store = dist.HashStore()
    RankStore(0, 3, store).set("note", {"host": "a"})
    RankStore(2, 3, store).set("note", {"host": "c"})
    assert RankStore(0, 3, store).collect("note", range(3), 0.1) == {0: {"host": "a"}, 2: {"host": "c"}}


def test_a_store_that_does_not_answer() -> None:
    """The error comes within the timeout and names the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} does not answer"):
        connect(0.3, ("127.0.0.1", port))
    assert time.monotonic() - began < 5
