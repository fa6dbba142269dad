from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mstat.evaluation import query_expansion
from mstat.evaluation.matches import make_pairs
from mstat.evaluation.query_expansion import expand_queries, expanded
from tests.mstat.evaluation.test_ranking import crowd
from tests.mstat.evaluation.test_reranking import Ranks, people


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("num_nearest", [1, 4, 200])
def test_queries_are_weighted_means(num_nearest: int, alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the query and its nearest by the definition, without ignored items; all of them if there are too few."""
    monkeypatch.setattr(query_expansion, "BYTES", 8 * 8 * num_nearest * 3)  # blocks of 3 queries
    query, gallery = people(0, 10, 60)[:10], people(0, 10, 60)[10:]
    junk = np.arange(60) % 7 == 0
    ignored = [(q, g) for q in range(10) for g in range(60) if (q + g) % 5 == 0]
    result = expand_queries(query, gallery, num_nearest, alpha, junk=junk, ignored=ignored)
    unit_q, unit_g = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (query, gallery))
    for q in range(10):
        allowed = [g for g in range(60) if not junk[g] and (q, g) not in ignored]
        nearest = sorted(allowed, key=lambda g: -float(unit_q[q] @ unit_g[g]))[:num_nearest]
        weights = [max(float(unit_q[q] @ unit_g[g]), 0) ** alpha for g in nearest]
        total = unit_q[q] + np.asarray(weights) @ unit_g[nearest]
        np.testing.assert_allclose(result[q], total / np.linalg.norm(total), atol=1e-5)


@pytest.mark.parametrize("bounds", [(0, 101), (0, 40, 101), (0, 0, 64, 65, 101), (0, 8, 50, 101, 101, 101)])
def test_slices_give_the_same_bits(bounds: tuple[int, ...]) -> None:
    """Over any number of ranks, in a narrow cone too."""
    query, gallery, pairs = crowd()
    alone = expanded(query, gallery, 0, pairs, 4, 3.0)
    slices = list(pairwise(bounds))

    def one_rank(rank: int, gather: Any) -> torch.Tensor:
        start, stop = slices[rank]

        def reduce(tensor: torch.Tensor) -> torch.Tensor:
            return torch.stack(gather(tensor)).sum(dim=0)

        return expanded(query, gallery[start:stop], start, pairs, 4, 3.0, reduce=reduce, gather=gather)

    assert all(torch.equal(result, alone) for result in Ranks(len(slices)).run(one_rank))


def test_a_query_whose_gallery_is_ignored_stays() -> None:
    query, gallery = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5)
    pairs = make_pairs([1, 2], [0, 0], [1, 1, 1], [0, 0, 0])
    result = expanded(query, gallery, 0, pairs, 2, 0.0)
    torch.testing.assert_close(result[0], F.normalize(query, dim=1)[0])
    torch.testing.assert_close(result[1], F.normalize(F.normalize(query, dim=1)[1] + 2 / 5**0.5, dim=0))


@pytest.mark.parametrize(
    ("arguments", "message"), [((0,), "num_nearest=0"), ((2.5,), "num_nearest=2.5"), ((2, -1), "alpha=-1")]
)
def test_parameters_out_of_range_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_queries(np.ones((2, 3)), np.ones((4, 3)), *arguments)
