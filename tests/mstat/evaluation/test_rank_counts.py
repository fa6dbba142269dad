import numpy as np
import pytest
import torch

from mstat.evaluation import rank_counts
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.rank_counts import Block, groups
from mstat.numerics import spreading


def case(num_query: int = 13, num_gallery: int = 70, seed: int = 0) -> tuple[torch.Tensor, Pairs]:
    """Similarities of which many are equal, in both zeros, with labels, junk and copies."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, high, num) for num in (num_query, num_gallery) for high in (4, 3)]
    similarity = torch.as_tensor(rng.integers(-3, 4, (num_query, num_gallery)) / 8, dtype=torch.float32)
    similarity[similarity == 0] *= torch.as_tensor(rng.choice([-1.0, 1.0], int((similarity == 0).sum()))).float()
    return similarity, make_pairs(*labels, junk=rng.random(num_gallery) < 0.1, same=[(0, 0), (0, 0), (4, 60)])


def plain(similarity_QG: torch.Tensor, pairs: Pairs, first: int, end: int) -> list[int]:
    """(true matches) Items [first, end) that come before each in a list sorted by similarity, then by index."""
    ignored = {tuple(pair) for pair in pairs.ignored_2I.T.tolist()}
    counts = []
    for query, match in pairs.positives_2P.T.tolist():
        row = similarity_QG[query].tolist()
        items = [g for g in range(first, end) if not pairs.junk_G[g] and (query, g) not in ignored]
        counts.append(sum((-row[g], g) < (-row[match], match) for g in items))
    return counts


@pytest.mark.parametrize(("first", "end"), [(0, 70), (0, 33), (33, 70), (20, 21), (40, 40)])
@pytest.mark.parametrize("span", [1, 100, 2**20])
def test_counts_are_those_of_a_sorted_list(first: int, end: int, span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any part of the gallery, for true matches inside and outside, however many rows are sorted at a time."""
    monkeypatch.setattr(rank_counts, "SPAN", span)
    similarity, pairs = case()
    nearness = Block.of(pairs, 0, similarity.clone(), 0).look_up()
    assert torch.equal(nearness, similarity[tuple(pairs.positives_2P)])
    block = Block.of(pairs, 0, similarity[:, first:end].clone(), first)
    assert block.count_nearer(nearness).tolist() == plain(similarity, pairs, first, end)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with spreading(torch.device("cpu")) as spread:
            assert torch.equal(block.count_nearer(nearness, spread), block.count_nearer(nearness))
    finally:
        torch.set_num_threads(before)


def test_blocks_of_queries_add_up() -> None:
    """Queries of a block are counted from its first one."""
    similarity, pairs = case()
    counts = []
    for query in range(0, 13, 5):
        block = Block.of(pairs, query, similarity[query : query + 5].clone(), 0)
        counts += block.count_nearer(block.look_up()).tolist()
    assert counts == plain(similarity, pairs, 0, 70)


def test_true_matches_elsewhere_are_absent() -> None:
    """Nothing is known of them here, and what to say instead can be chosen."""
    similarity, pairs = case()
    block = Block.of(pairs, 0, similarity[:, 10:20].clone(), 10)
    here = (pairs.positives_2P[1] >= 10) & (pairs.positives_2P[1] < 20)
    assert torch.equal(block.here_P(), here)
    assert 0 < here.sum() < len(here)
    assert (block.look_up(-7)[~here] == -7).all()


@pytest.mark.parametrize(("rows", "items"), [(0, 5), (5, 0), (7, 3), (2000, 1000), (3, 2**30)])
def test_groups_cover_all_rows(rows: int, items: int) -> None:
    """One after the other, none empty, none of more than a span unless it is one row."""
    bounds = groups(rows, items)
    assert [row for low, high in bounds for row in range(low, high)] == list(range(rows))
    assert all(high > low and (high - low == 1 or (high - low) * items <= rank_counts.SPAN) for low, high in bounds)
