from __future__ import annotations

from pathlib import Path

import pytest

from shards.records import NO_OUTFIT, DataError
from shards.sources.labels import numbers_of
from shards.sources.table import Row, Table


def table(column: str, *cells: str) -> Table:
    return Table(Path("t.csv"), 1, (column,), [Row(line, {column: cell}) for line, cell in enumerate(cells, start=2)])


@pytest.mark.parametrize(
    ("column", "cells", "numbers", "facts"),
    [
        ("pid", ["7", "12", "0", "-1"], [7, 12, 0, -1], {"distractors and junk": "-1 is junk, 0 is distractor"}),
        (
            "pid",
            ["7.0", "0012", "00-1", "Junk"],
            [7, 12, -1, -1],
            {"distractors and junk": "00-1 is junk, Junk is junk"},
        ),
        ("pid", ["bob", "ann", "distractor", "10", "9"], [4, 3, 0, 2, 1], {"identities": "1 9, 2 10, 3 ann, 4 bob"}),
        ("pid", ["distractor", "junk"], [0, -1], {}),
        ("camid", ["0", "3", "1"], [0, 3, 1], {}),
        ("camid", ["left", "2", "left"], [2, 1, 2], {"cameras": "1 2, 2 left"}),
        ("outfit", ["0", "", "4.0"], [0, NO_OUTFIT, 4], {}),
        ("outfit", ["red", "", "blue"], [2, NO_OUTFIT, 1], {"outfits": "1 blue, 2 red"}),
    ],
)
def test_labels_become_numbers(column: str, cells: list[str], numbers: list[int], facts: dict[str, str]) -> None:
    """Numbers stay, also with zeros before or decimals after them; names are numbered in sorted order, which is a fact;
    distractors and junk have the numbers of the format."""
    assert numbers_of(table(column, *cells), column) == (numbers, facts)


def test_a_column_that_is_not_there() -> None:
    """Without a column `outfit` no tracklet has one."""
    assert numbers_of(table("pid", "1", "2"), "outfit") == ([NO_OUTFIT, NO_OUTFIT], {})


@pytest.mark.parametrize("cell", ["NA", "<NA>", "#N/A", "unknown", "?", "-"])
def test_words_for_a_missing_value_are_no_labels(cell: str) -> None:
    """Two tracklets of unknown clothes would wear the same."""
    missing = table("outfit", "red", cell)
    assert numbers_of(missing, "outfit") == ([], {})
    with pytest.raises(DataError, match=r"t.csv:3: outfit: .* stands for a missing value; leave the cell empty"):
        missing.check()


@pytest.mark.parametrize("cell", ["1e3", "+1", "1.5", "1,0"])
def test_numbers_that_are_not_whole_are_no_names(cell: str) -> None:
    """One such cell would number all others anew, as names."""
    odd = table("pid", "1000", cell)
    assert numbers_of(odd, "pid") == ([], {})
    with pytest.raises(DataError, match=r"t.csv:3: pid: .* is not written as a whole number; write its digits"):
        odd.check()


@pytest.mark.parametrize(
    ("one", "other"), [("1", "01"), ("Ann", "ann"), ("ﬁ", "fi"), ("٣", "3"), ("c01", "c1"), ("Ann  B", "Ann B")]
)
def test_spellings_of_one_label_are_refused(one: str, other: str) -> None:
    """Both spellings are named, with their lines, once each."""
    spelled = table("pid", one, "7", other, other)
    assert numbers_of(spelled, "pid") == ([], {})
    with pytest.raises(DataError, match=f"^t.csv:4: pid: '{other}' and '{one}' .line 2. differ in .*\n1 fault"):
        spelled.check()
