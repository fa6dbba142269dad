"""Jobs on several processes: results in order, the first error stops the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from shards.workers import Progress, available_cpus, run_jobs


def square(number: int, progress: Progress) -> tuple[int, int]:
    progress.advance(1, 10)
    return number**2, os.getpid()


def fail(number: int, progress: Progress) -> int:
    """The first job fails; the others work until they are told to stop, so that a test ends by that alone."""
    if number == 0:
        raise ValueError("the first")
    while True:
        progress.check()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_jobs(workers: int) -> None:
    """Of one worker, in this very process."""
    results = run_jobs(square, range(5), workers=workers, total=5)
    assert [value for value, _ in results] == [0, 1, 4, 9, 16]
    assert (os.getpid() in {pid for _, pid in results}) == (workers == 1)


@pytest.mark.parametrize(("workers", "jobs"), [(1, [0]), (2, [0, 1, 2, 3])])
def test_an_error_stops_the_others(workers: int, jobs: Sequence[int]) -> None:
    with pytest.raises(ValueError, match=r"^the first$"):
        run_jobs(fail, jobs, workers=workers, total=len(jobs))


def test_no_jobs_are_no_work() -> None:
    assert run_jobs(square, [], workers=4, total=0) == []


def test_cores_that_this_process_may_use() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
