"""Jobs on several processes: results in order, the first error stops the rest."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shards.workers import Progress, available_cpus, run_jobs


def square(number: int, progress: Progress) -> tuple[int, int]:
    progress.advance(1, 10)
    return number**2, os.getpid()


def fail(job: tuple[int, Path], progress: Progress) -> None:
    """The first job fails; the others work until they are told to stop, or leave a file after 20 s."""
    number, unstopped = job
    if number == 0:
        raise ValueError("the first")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        progress.check()
        time.sleep(0.01)
    unstopped.touch()


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_jobs(workers: int) -> None:
    """Of one worker, in this very process."""
    results = run_jobs(square, range(5), workers=workers, total=5)
    assert [value for value, _ in results] == [0, 1, 4, 9, 16]
    assert (os.getpid() in {pid for _, pid in results}) == (workers == 1)


@pytest.mark.parametrize(("workers", "num_jobs"), [(1, 1), (2, 4)])
def test_an_error_stops_the_others(workers: int, num_jobs: int, tmp_path: Path) -> None:
    jobs = [(number, tmp_path / "unstopped") for number in range(num_jobs)]
    with pytest.raises(ValueError, match=r"^the first$"):
        run_jobs(fail, jobs, workers=workers, total=num_jobs)
    assert not (tmp_path / "unstopped").exists()


def test_no_jobs_are_no_work() -> None:
    assert run_jobs(square, [], workers=4, total=0) == []


def test_cores_that_this_process_may_use() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)
