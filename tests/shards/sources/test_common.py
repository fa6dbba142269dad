"""Functions that several sources share: counts, pictures of a folder, names as numbers, gaps."""

from __future__ import annotations

from pathlib import Path

import pytest

from shards.records import DataError
from shards.sources.common import check_counts, check_gaps, files_of, numbered, pictures_of, some


def test_counts_that_differ_from_the_official_ones() -> None:
    """Refused with each difference; with --partial they are a fact of the set."""
    official = {"tracklets": 8298, "identities": 625}
    assert not check_counts(Path("m"), "MARS", official, official, partial=False)
    counts = {"tracklets": 1298, "identities": 625}
    with pytest.raises(DataError, match=r"^m: not the whole of MARS: tracklets 1,298, not 8,298; .*--partial$"):
        check_counts(Path("m"), "MARS", counts, official, partial=False)
    fact = check_counts(Path("m"), "MARS", counts, official, partial=True)
    assert fact == "not the whole of MARS, figures are not comparable: tracklets 1,298, not 8,298"


def test_pictures_come_by_their_numbers(tmp_path: Path) -> None:
    """2 before 10; what is no picture, or hidden, is left out."""
    for name in ("f10.jpg", "f2.JPG", "f1.png", "notes.txt", "._f3.jpg"):
        (tmp_path / name).touch()
    assert pictures_of(tmp_path) == ["f1.png", "f2.JPG", "f10.jpg"]


def test_pictures_that_are_not_there_or_doubtful(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none: missing; unpack the data set again"):
        pictures_of(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"contains no picture .*but notes\.txt; unpack it again"):
        pictures_of(tmp_path)
    for name in ("f1.jpg", "f01.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"f01\.jpg and f1\.jpg have the same frame number"):
        pictures_of(tmp_path)


def test_a_picture_that_is_none_is_a_bad_frame(tmp_path: Path) -> None:
    """A ValueError without its path, which the writer puts before it."""
    (tmp_path / "a.jpg").write_bytes(b"data")
    (tmp_path / "folder.jpg").mkdir()
    frame, folder = files_of(tmp_path, ["a.jpg", "folder.jpg"])
    assert (frame.name, frame.read()) == (f"{tmp_path}/a.jpg", b"data")
    with pytest.raises((ValueError, OSError)) as caught:
        folder.read()
    assert not isinstance(caught.value, DataError)


def test_names_become_numbers() -> None:
    """Their own where all have one; else their place, which is a fact of the set."""
    assert numbered(Path(), ["7", "12"], "person") == ({"7": 7, "12": 12}, {})
    assert numbered(Path(), ["7", "anna"], "person") == ({"7": 1, "anna": 2}, {"person": "1 7, 2 anna"})
    assert numbered(Path(), ["0", "1"], "person")[0] == {"0": 1, "1": 2}, "0 is the distractors'"
    for names in (["7", "007"], ["anna", "Anna "], ["ﬁ", "fi"]):
        with pytest.raises(DataError, match="differ in zeros, spaces or letter case alone"):
            numbered(Path(), names, "person")


def test_gaps_are_counted() -> None:
    """From the first frame of the tracklet, or from a number that all should start at."""
    assert check_gaps({"a": [3, 4, 5]}) == {}
    assert check_gaps({"a": [3, 5, 9], "b": [1]}) == {"gaps": "frames missing by their numbers: 4 (a 4)"}
    assert check_gaps({"a": [3, 4]}, start=1) == {"gaps": "frames missing by their numbers: 2 (a 2)"}


def test_a_long_list_is_cut() -> None:
    assert some([1, 2]) == "1, 2"
    assert some(range(1200)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1,190 more"
