"""Differences between the processes of a launch, as one sentence."""

from __future__ import annotations

import pytest

from mstat.distributed.differences import SHOWN, complaint, differing, spans


@pytest.mark.parametrize(
    ("ranks", "text"), [([], ""), ([3], "3"), ([0, 1, 2, 5], "0-2, 5"), ([9, 4, 5, 0], "0, 4-5, 9")]
)
def test_spans_of_ranks(ranks: list[int], text: str) -> None:
    assert spans(ranks) == text


def test_equal_facts_are_no_complaint() -> None:
    assert complaint({0: "a", 1: "b"}, {0: {"seed": 1}, 1: {"seed": 1}}) is None


def test_ranks_of_one_host_are_put_together() -> None:
    facts = {rank: {"seed": 1 if rank < 4 else None} for rank in range(8)}
    message = complaint({rank: "node-a" if rank < 4 else "node-b" for rank in range(8)}, facts)
    assert message is not None
    assert "seed is 1 on node-a (ranks 0-3), null on node-b (ranks 4-7)" in message


def test_many_differences_are_counted() -> None:
    """Not all of them are shown: the first ones are enough to find the wrong machine."""
    facts = {rank: {f"key{number:02d}": rank for number in range(SHOWN + 5)} for rank in range(2)}
    message = complaint({0: "a", 1: "b"}, facts)
    assert message is not None
    assert f"key{SHOWN - 1:02d} is" in message
    assert f"key{SHOWN:02d}" not in message
    assert "; and 5 more: start every machine" in message


def test_long_checksums_and_commits_are_cut_but_stay_apart() -> None:
    """A dirty tree is another code than the commit's own."""
    commit = "0123456789abcdef"
    facts = {0: {"commit": commit}, 1: {"commit": f"{commit}-dirty"}, 2: {"commit": commit}}
    assert differing(facts) == {"commit": [("0123456789ab", [0, 2]), ("0123456789ab-dirty", [1])]}
