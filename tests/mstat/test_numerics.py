import threading
from collections.abc import Iterator

import pytest
import torch

from mstat.numerics import IN_TURN, one_thread, spreading

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_work_is_spread_over_as_many_threads_as_torch_has(num_threads: int) -> None:
    """Results in order; each thread computes alone and without a graph; all is as before afterwards."""
    together = threading.Barrier(num_threads)

    def work(number: int) -> tuple[int, int, int, bool]:
        together.wait(timeout=120)  # no thread gets two of them
        weight = torch.ones(3, requires_grad=True)
        return number, threading.get_ident(), torch.get_num_threads(), (weight * 2).requires_grad

    with spreading(CPU) as spread:
        assert spread.num_threads == num_threads
        numbers, idents, threads, graphs = zip(*spread(work, range(num_threads)), strict=True)
    assert numbers == tuple(range(num_threads))
    assert len(set(idents)) == num_threads
    assert set(threads) == {1}
    assert not any(graphs)
    assert torch.get_num_threads() == num_threads
    assert torch.is_grad_enabled()


def test_an_error_of_a_thread_is_that_of_the_caller(num_threads: int) -> None:
    """Nothing is left out silently."""
    with pytest.raises(ZeroDivisionError), spreading(CPU) as spread:
        spread(lambda number: 1 // number, [2, 1, 0])
    assert torch.get_num_threads() == num_threads


def test_a_stream_takes_no_more_than_it_can_hold(num_threads: int) -> None:
    """Arguments with their results, in order; all threads are at work; no more is taken than is said."""
    together = threading.Barrier(num_threads)
    taken: list[int] = []
    given: list[tuple[int, int]] = []

    def arguments() -> Iterator[int]:
        for number in range(4 * num_threads):
            taken.append(number)
            yield number

    def work(number: int) -> int:
        together.wait(timeout=120)
        assert not torch.is_grad_enabled()
        return number**2

    with spreading(CPU) as spread:
        for number, square in spread.stream(work, arguments()):
            given.append((number, square))
            assert len(taken) - len(given) < spread.in_hand <= num_threads + 1
    assert given == [(number, number**2) for number in range(4 * num_threads)]


def test_an_error_in_a_stream_is_that_of_the_caller(num_threads: int) -> None:
    """Results from before the error are given."""
    given: list[int] = []
    with pytest.raises(ZeroDivisionError), spreading(CPU) as spread:
        given.extend(result for _, result in spread.stream(lambda number: 1 // number, [2, 1, 0, 3, 4]))
    assert given == [0, 1]


def test_one_thread_is_for_a_while(num_threads: int) -> None:
    """Also where an error ends it."""
    with one_thread(CPU):
        assert torch.get_num_threads() == 1
    with pytest.raises(ZeroDivisionError), one_thread(CPU):
        1 // 0  # noqa: B018
    assert torch.get_num_threads() == num_threads


def test_in_turn_is_a_loop() -> None:
    """As a spread, of this thread alone."""
    assert IN_TURN(lambda number: (number, threading.get_ident()), range(2)) == [
        (n, threading.get_ident()) for n in (0, 1)
    ]


def test_fewer_threads_may_be_asked_for(num_threads: int) -> None:
    """A limit of threads is kept, for work that needs much memory in each."""
    with spreading(CPU, most=2) as spread:
        assert spread.num_threads == min(2, num_threads)
        assert spread(lambda _: torch.get_num_threads(), range(9)) == [1] * 9
