"""Ranks of one attempt find each other in a store that remembers the attempts before."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta

import pytest
import torch.distributed as dist

from mstat.distributed.rendezvous import agree_on_attempt

WAIT = timedelta(seconds=120)


def attempt(store: dist.Store, order: Sequence[int]) -> dict[int, str]:
    """Return the attempt of each rank, started one after another."""
    names: dict[int, str] = {}

    def one(rank: int) -> None:
        names[rank] = agree_on_attempt(store, rank, len(order), WAIT, {})

    threads = [threading.Thread(target=one, args=[rank]) for rank in order]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return names


def test_every_attempt_has_one_name_of_its_own() -> None:
    store = dist.HashStore()
    seen = set()
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0], [1, 0]):  # with fewer ranks too, and more again
        names = attempt(store, order)
        assert sorted(names) == sorted(order)
        assert len(set(names.values())) == 1
        seen |= set(names.values())
    assert len(seen) == 5


def test_what_an_attempt_that_never_met_left_behind_is_not_taken_for_an_answer() -> None:
    """Ranks 1 and 2 asked and were killed; later rank 0 of their attempt, or of the next one, came alone."""
    store = dist.HashStore()
    for rank in (1, 2):
        with pytest.raises(dist.DistError):
            agree_on_attempt(store, rank, 3, timedelta(seconds=0.2), {})
    with pytest.raises(TimeoutError, match=r"^after 1 s these ranks have not started: 1, 2$"):
        agree_on_attempt(store, 0, 3, timedelta(seconds=1), {})
    names = attempt(store, [0, 1, 2])
    assert len(names) == 3
    assert len(set(names.values())) == 1
