"""Sets and codes on lists that can be checked by hand; test_reranking.py compares with a dense reference."""

from __future__ import annotations

import numpy as np
import pytest

from mstat.evaluation import k_reciprocal
from mstat.evaluation.k_reciprocal import encode, expanded_sets, jaccard_distances, num_neighbours


def test_sets_are_reciprocal() -> None:
    """Two pairs of mutual neighbours and a fifth item that nobody lists: its set holds itself alone."""
    item_NK = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [4, 0]])
    assert expanded_sets(item_NK, 1).toarray().astype(bool).tolist() == [
        [True, True, False, False, False],
        [True, True, False, False, False],
        [False, False, True, True, False],
        [False, False, True, True, False],
        [False, False, False, False, True],
    ]


def test_sets_do_not_depend_on_the_rows_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    item_NK = np.abs(rng.random((50, 1)) - rng.random(50)).argsort(axis=1)[:, :9]
    whole = expanded_sets(item_NK, 8)
    monkeypatch.setattr(k_reciprocal, "ROWS", 7)
    parts = expanded_sets(item_NK, 8)
    assert np.array_equal(whole.indices, parts.indices)
    assert np.array_equal(whole.indptr, parts.indptr)


def test_codes_are_weights_that_sum_to_one() -> None:
    """exp(-distance) over the set; k2 averages the codes of neighbours."""
    item_NK = np.array([[0, 1], [1, 0], [2, 0]])
    sets = expanded_sets(item_NK, 1)
    codes = encode(sets, np.array([0, 0.5, 0.5, 0, 0]), item_NK, 1).toarray()
    far = np.exp(-0.5) / (1 + np.exp(-0.5))
    np.testing.assert_allclose(codes, [[1 - far, far, 0], [far, 1 - far, 0], [0, 0, 1]], atol=1e-7)
    averaged = encode(sets, np.array([0, 0.5, 0.5, 0, 0]), item_NK, 2)
    np.testing.assert_allclose(averaged.toarray()[2], [(1 - far) / 2, far / 2, 0.5], atol=1e-7)
    distance = jaccard_distances(averaged[:1], averaged.T.tocsr())
    np.testing.assert_allclose(distance, [[0, 0, 1 - 0.5 / 1.5]], atol=1e-6)


@pytest.mark.parametrize(("k1", "k2", "expected"), [(20, 6, 21), (3, 9, 9), (1, 1, 2)])
def test_lists_are_long_enough(k1: int, k2: int, expected: int) -> None:
    """For k1 neighbours beside the item itself, and for k2."""
    assert num_neighbours(k1, k2) == expected
