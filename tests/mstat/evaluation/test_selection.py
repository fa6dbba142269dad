from __future__ import annotations

import pytest
import torch

from mstat.evaluation import rank_counts
from mstat.evaluation.selection import greatest


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("span", [1, 50, 2**20])
def test_the_greatest_are_the_head_of_a_sorted_list(k: int, span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal values by column; -inf does not count; padded with -inf and -1."""
    monkeypatch.setattr(rank_counts, "SPAN", span)
    matrix = torch.randint(-2, 3, (9, 30), generator=torch.Generator().manual_seed(0)).float()
    matrix[matrix == 2] = -torch.inf
    matrix[4] = -torch.inf
    value, place = greatest(matrix, k)
    for row, values, places in zip(matrix.tolist(), value.tolist(), place.tolist(), strict=True):
        chosen = sorted((x for x in range(30) if row[x] > -torch.inf), key=lambda x: (-row[x], x))[:k]
        missing = k - len(chosen)
        assert places == chosen + [-1] * missing
        assert values == [row[x] for x in chosen] + [-torch.inf] * missing


def test_no_columns_give_padding() -> None:
    value, place = greatest(torch.zeros(2, 0), 3)
    assert (value == -torch.inf).all()
    assert (place == -1).all()
