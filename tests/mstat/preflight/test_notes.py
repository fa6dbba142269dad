"""Notes between processes, and clocks compared by round trips; a HashStore stands where the launcher's TCPStore is."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import torch.distributed as dist

from mstat.preflight.notes import Meeting, connect


def test_who_leaves_no_note_is_known() -> None:
    """`collect` gives what is there in time, by rank."""
    store = dist.HashStore()
    Meeting(0, 3, store).leave("note", {"host": "a"})
    Meeting(2, 3, store).leave("note", {"host": "c"})
    assert Meeting(0, 3, store).collect("note", range(3), 0.1) == {0: {"host": "a"}, 2: {"host": "c"}}


def test_a_wrong_clock_is_measured_within_its_stated_error() -> None:
    """One clock 2.5 s ahead, one right, one node silent."""
    store = dist.HashStore()
    others = [Meeting(1, 4, store, lambda: time.time() + 2.5), Meeting(2, 4, store)]
    threads = [threading.Thread(target=other.answer_clock, args=(10,)) for other in others]
    for thread in threads:
        thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mstat.preflight.notes.PING_SECONDS", 3.0)
        found = Meeting(0, 4, store).compare_clocks([1, 2, 3])
    for thread in threads:
        thread.join()
    assert found[3] is None
    for rank, ahead in ((1, 2.5), (2, 0.0)):
        measured = found[rank]
        assert measured is not None
        assert measured[1] < 2
        assert abs(measured[0] - ahead) <= measured[1]


def test_a_store_that_is_not_there() -> None:
    """Said within the time, with the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{port} does not answer"):
        connect(0.3, ("127.0.0.1", port))
    assert time.monotonic() - began < 60  # not the minutes that torch's stores wait by themselves
