"""Arguments that `mstat.evaluation.metrics` accepts, and arguments that it refuses with a helpful message."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch

from mstat.errors import UserError
from mstat.evaluation.metric_inputs import flags, index_pairs, labels, numbers
from mstat.evaluation.metrics import cmc_map, cmc_map_from_distances

PLAIN = [3, 1, 3]


@pytest.mark.parametrize(
    "values",
    [
        PLAIN,
        tuple(PLAIN),
        np.array(PLAIN, np.uint64),
        np.array(PLAIN, ">i2"),
        np.array(PLAIN, object),
        np.array(PLAIN)[::-1][::-1],
        np.array(PLAIN, np.float16),
        [3.0, 1.0, 3.0],
        [np.int8(3), 1, 3.0],
        [torch.tensor(3), torch.tensor(1), torch.tensor(3)],
        torch.tensor(PLAIN),
        torch.tensor([3.0, 1.0, 3.0], requires_grad=True),
        torch.tensor([3.0, 1.0, 3.0], dtype=torch.bfloat16),
    ],
)
def test_whole_numbers_of_any_kind_are_labels(values: Any) -> None:
    """Lists, arrays and tensors of any type that holds them exactly."""
    converted = labels("pids", values)
    assert (converted.dtype, converted.tolist()) == (torch.int64, PLAIN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, math.nan, 1], "pids: nan is not a label"),
        ([1, math.inf], "pids: inf is not a label"),
        (np.array([1, np.nan], object), "pids: nan is not a label"),
        ([1.2, 1.7], r"pids: 1\.2 is not a whole number"),
        (["a", "b"], "pids are text, such as 'a'; give each name a number: numpy.unique"),
        (["1", 2], "pids: '1' is text; give each name a number"),
        ([b"a", b"b"], "text"),
        ([1, None], "pids: None is not a number"),
        ([Decimal(1)], "is not a number"),
        ([True, False], "True and False"),
        ([True, 2], "True is not a number"),
        ([[1], [2]], r"shape \(2, 1\): give one axis"),
        ([[1, 2]], r"shape \(1, 2\): give one axis"),
        ([[1], [2, 3]], "not an array of numbers"),
        (7, "a single value"),
        ({1, 2}, "are a set"),
        ((n for n in PLAIN), "are a generator"),
        (None, "are a NoneType"),
        ([2**70, 1], "beyond int64"),
        (np.array([2**63 + 5], np.uint64), "beyond int64"),
        ([2.0**60], "may be rounded"),
        (torch.tensor([2049.0]).half(), "may be rounded"),
        (torch.tensor([257.0]).bfloat16(), "may be rounded"),
        ([1 + 0j], "complex"),
        (np.array(["2020-01-01"], "datetime64[D]"), "datetime64"),
        (np.ma.array([1, 2], mask=[False, True]), "masked"),
    ],
)
def test_what_is_no_label_is_refused(values: Any, message: str) -> None:
    """By name, with a way out: nothing is rounded, cut or read as another identity."""
    with pytest.raises(UserError, match=message):
        labels("pids", values)


def test_flags_are_true_or_false() -> None:
    """Also 1 and 0; places of items, NaN and text are not read as flags."""
    for good in ([True, False], [1, 0], np.array([1.0, 0.0]), torch.tensor([True, False])):
        assert flags("junk", good).tolist() == [True, False]
    for bad in ([2, 0], [math.nan, 0], ["a", "b"], [[True], [False]], [None, True]):
        with pytest.raises(UserError, match="junk"):
            flags("junk", bad)


def test_pairs_are_pairs() -> None:
    """None is no pair of two rows, of a flat list or of parts of a number."""
    assert index_pairs("same", [(0, 1), (2, 3)]).tolist() == [[0, 1], [2, 3]]
    assert index_pairs("same", []).shape == (0, 2)
    for bad in ([0, 1], np.zeros((2, 3), int), [(0, 1.5)], [(0, None)], {(0, 1)}):
        with pytest.raises(UserError, match="same"):
            index_pairs("same", bad)


@pytest.mark.parametrize("ranks", [5, (0,), (-1,), (1.5,), ("a",), (True,), None])
def test_ranks_are_whole_numbers_from_one(ranks: Any) -> None:
    """Rank 0 would be a score of 0."""
    with pytest.raises(UserError, match="rank"):
        cmc_map_from_distances([[0.1, 0.2]], [1], [0], [1, 2], [1, 1], ranks=ranks)


def test_features_of_any_numbers() -> None:
    """Integers that fp32 does not tell apart, other byte orders and memory, lists, graphs; never complex or text."""
    base = np.array([[3.0, 4.0], [1.0, 0.0]], np.float32)
    graph = torch.tensor(base, requires_grad=True)
    for good in (base, base.astype(">f8"), base.tolist(), list(torch.tensor(base)), graph, base.astype(np.uint16)):
        converted = numbers("features", good)
        assert not converted.requires_grad
        assert converted.double().tolist() == base.tolist()
    large = numbers("distances", np.array([[2**24, 2**24 + 1]]))
    assert large[0, 0] != large[0, 1]
    for bad in (base + 0j, [["a", "b"]], base[0], base[None], None):
        with pytest.raises(UserError, match="features"):
            numbers("features", bad)


def test_nan_is_nobodys_identity() -> None:
    """Two tracklets without an identity do not match each other."""
    with pytest.raises(UserError, match="gallery pids: nan"):
        cmc_map(np.eye(2), [1, 2], [0, 0], np.eye(2), [math.nan, math.nan], [1, 1])  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"gallery camids: 1\.2"):
        cmc_map(np.eye(2), [1, 2], [0, 0], np.eye(2), [1, 2], [1.2, 1.7])  # type: ignore[list-item]
    with pytest.raises(UserError, match="equal dimensions"):
        cmc_map(np.zeros((2, 0)), [1, 2], [0, 0], np.zeros((2, 0)), [1, 2], [1, 1])
