"""Neighbour lists and pair distances against fp64; test_reranking.py cuts them over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mstat.evaluation import neighbours
from mstat.evaluation.neighbours import Items


def case(common: float) -> tuple[Items, np.ndarray]:
    """Items, two of them zero features, and the squared distances of all pairs: 2 - 2 cosine."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(130, 12)) * (1e-2 if common else 1) + common
    features[[3, 77]] = 0
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    query, gallery = torch.from_numpy(features).split([30, 100])
    return Items(query, gallery, 0, 100, (0, 30)), 2 - 2 * unit @ unit.T


@pytest.mark.parametrize("common", [0.0, 5.0])
@pytest.mark.parametrize("k", [1, 7, 130, 500])
def test_lists_are_the_nearest_items(k: int, common: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries first, then the gallery, with their squared distances and that of the farthest."""
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    items, square = case(common)
    lists = items.nearest(k)
    assert lists.item_NK.shape == (130, min(k, 130))
    np.testing.assert_allclose(lists.largest_N, square.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(lists.square_NK, np.sort(square, axis=1)[:, :k], atol=1e-6, rtol=1e-4)
    np.testing.assert_allclose(lists.square_NK, np.take_along_axis(square, lists.item_NK, 1), atol=1e-6, rtol=1e-4)
    assert all(len(set(row)) == len(row) for row in lists.item_NK.tolist())


@pytest.mark.parametrize("common", [0.0, 5.0])
def test_pairs_have_the_distances_of_the_lists(common: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of queries and gallery items, zero features too, in any number."""
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    items, square = case(common)
    row, column = np.nonzero(np.random.default_rng(1).random((130, 130)) < 0.2)
    assert len(row) > 3000
    np.testing.assert_allclose(items.squares(row, column), square[row, column], atol=1e-6, rtol=1e-4)
    assert len(items.squares(row[:0], column[:0])) == 0
