import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from mstat.evaluation import ranking
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.ranking import gallery_slices, merge_top, rank_positives, top_ranks

Reduce = Callable[[Tensor], Tensor]


class Ranks:
    """Threads that stand for ranks: `run` calls func(rank, reduce) on each, reduce sums a tensor over all of them."""

    def __init__(self, world_size: int) -> None:
        self.world_size, self.barrier = world_size, threading.Barrier(world_size)
        self.slots: dict[int, Tensor] = {}

    def run(self, func: Callable[[int, Reduce], Tensor]) -> list[Tensor]:
        def reduce(rank: int, tensor: Tensor) -> Tensor:
            self.slots[rank] = tensor
            self.barrier.wait(timeout=120)
            total = torch.stack([self.slots[other] for other in range(self.world_size)]).sum(dim=0)
            self.barrier.wait(timeout=120)
            return total

        with ThreadPoolExecutor(self.world_size) as pool:
            return list(pool.map(lambda rank: func(rank, lambda t: reduce(rank, t)), range(self.world_size)))


def crowd(num_query: int = 23, num_gallery: int = 101, dim: int = 37) -> tuple[Tensor, Tensor, Pairs]:
    """Features so close together that rounding decides about ranks, with labels and junk."""
    rng = np.random.default_rng(0)
    features = 1 + 1e-7 * rng.standard_normal((num_query + num_gallery, dim))
    query, gallery = torch.as_tensor(features, dtype=torch.float32).split([num_query, num_gallery])
    labels = [rng.integers(0, high, num) for num in (num_query, num_gallery) for high in (6, 3)]
    return query, gallery, make_pairs(*labels, junk=rng.random(num_gallery) < 0.1, same=[(0, 0), (4, 60)])


@pytest.mark.parametrize("behind", [0, 50])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 20])
def test_ranks_are_bitwise_the_same_over_any_number_of_ranks(
    world_size: int, behind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of any number of ranks add up to the ranks of one process, on every rank; some slices are empty, and
    some begin behind the gallery, where evaluation puts queries that are not in it."""
    monkeypatch.setattr(ranking, "BLOCK", 7)
    query, gallery, pairs = crowd()
    expected = rank_positives(query, gallery, 0, pairs, tile=8)
    slices = gallery_slices(pairs.num_gallery + behind, world_size, tile=8)

    def one_rank(rank: int, reduce: Reduce) -> Tensor:
        start, stop = slices[rank]
        return rank_positives(query, gallery[start:stop], start, pairs, reduce=reduce, tile=8)

    results = Ranks(world_size).run(one_rank)
    assert len(expected) == pairs.positives_2P.shape[1] > 100
    assert all(torch.equal(ranks, expected) for ranks in results)


def test_ranks_do_not_depend_on_the_number_of_threads() -> None:
    """The feature's full width, where BLAS splits an inner product over threads if it may."""
    query, gallery, pairs = crowd(dim=19968)
    before = torch.get_num_threads()
    try:
        results = []
        for num_threads in (1, 2, 4):
            torch.set_num_threads(num_threads)
            results.append(rank_positives(query, gallery, 0, pairs, tile=16))
            assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("num_copies", [1, 3, 8])
def test_copies_in_the_last_tile_are_equally_near(num_copies: int) -> None:
    """Items of a full tile and their copies in the last one, which is filled up: the copy is right behind, by index.

    A product of as few columns as the last tile has items rounds otherwise than one of a full tile.
    """
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(23, 512, generator=generator), torch.randn(256, 512, generator=generator)
    pids = torch.arange(256) >= num_copies
    pairs = make_pairs([0] * 23, [0] * 23, [*pids, *[0] * num_copies], [1] * (256 + num_copies))
    ranks = rank_positives(query, torch.cat([gallery, gallery[:num_copies]]), 0, pairs)
    original, copy = ranks.view(23, 2, num_copies).unbind(1)
    assert torch.equal(copy, original + 1)


@pytest.mark.parametrize("tile", [4, 32, 256])
def test_many_positives_of_one_query_are_all_ranked(tile: int) -> None:
    """Ranks of a query's positives over several chunks, blocks and tiles are a permutation where all are positive."""
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(2, 8, generator=generator), torch.randn(90, 8, generator=generator)
    pairs = make_pairs([1, 2], [0, 0], [1] * 90, [1] * 90)
    ranks = rank_positives(query, gallery, 0, pairs, tile=tile)
    nearest = torch.cosine_similarity(query[:1].double(), gallery.double()).argsort(descending=True)
    assert ranks[nearest].tolist() == list(range(1, 91))


def test_labels_without_any_positive_give_no_ranks() -> None:
    """The reductions are still made, so that no rank waits for another."""
    calls: list[Tensor] = []

    def reduce(tensor: Tensor) -> Tensor:
        calls.append(tensor)
        return tensor

    pairs = make_pairs([1], [0], [2, 3], [1, 1])
    ranks = rank_positives(torch.ones(1, 4), torch.ones(2, 4), 0, pairs, reduce=reduce)
    assert ranks.tolist() == []
    assert len(calls) == 2


@pytest.mark.parametrize(("total", "world_size"), [(0, 3), (1, 4), (100, 1), (100, 3), (1000, 7), (8, 16)])
def test_slices_lie_on_the_grid_and_cover_the_gallery(total: int, world_size: int) -> None:
    """Slices follow one another, begin on tiles, end on tiles or with the gallery, and differ by a tile at most."""
    slices = gallery_slices(total, world_size, tile=8)
    assert [item for start, stop in slices for item in range(start, stop)] == list(range(total))
    assert all(start % 8 == 0 or start == total for start, _ in slices)
    tiles = [-(-(stop - start) // 8) for start, stop in slices]
    assert len(slices) == world_size
    assert max(tiles) - min(tiles) <= 1


@pytest.mark.parametrize("bounds", [(3, 50, 101), (1, 2, 3), (7, 8, 9, 64), (100,)])
def test_slices_may_begin_anywhere(bounds: tuple[int, ...]) -> None:
    """A tile that is cut between ranks is the same matrix product on both."""
    query, gallery, pairs = crowd()
    slices = list(pairwise([0, *bounds, 101] if bounds[-1] < 101 else [0, *bounds]))

    def one_rank(rank: int, reduce: Reduce) -> Tensor:
        start, stop = slices[rank]
        return rank_positives(query, gallery[start:stop], start, pairs, reduce=reduce, tile=8)

    expected = rank_positives(query, gallery, 0, pairs, tile=8)
    assert all(torch.equal(ranks, expected) for ranks in Ranks(len(slices)).run(one_rank))


def test_features_may_lie_anywhere_in_memory() -> None:
    """Rows of a wider matrix, rows that begin off the cache line and rows in half precision give the same ranks."""
    query, gallery, pairs = crowd(dim=48)
    gallery = (gallery + torch.randn(gallery.shape, generator=torch.Generator().manual_seed(0))).half().float()
    expected = rank_positives(query, gallery, 0, pairs, tile=8)
    wide, shifted = torch.zeros(len(gallery), 99), torch.zeros(gallery.numel() + 1)[1:].view(gallery.shape)
    wide[:, 3:51] = gallery
    shifted[:] = gallery
    for other in (wide[:, 3:51], shifted, gallery.half()):
        assert torch.equal(rank_positives(query, other, 0, pairs, tile=8), expected)


@pytest.mark.parametrize(("start", "stop"), [(-1, 8), (96, 120), (101, 102)])
def test_slices_of_another_gallery_are_refused(start: int, stop: int) -> None:
    """Items that have no label are an error."""
    query, gallery, pairs = crowd(num_gallery=101)
    with pytest.raises(ValueError, match="outside a gallery of 101"):
        rank_positives(query, gallery.new_ones(stop - start, gallery.shape[1]), start, pairs, tile=8)


def test_large_galleries_take_blocks_of_few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is held than is allowed, and the ranks are the same; two sums over ranks tell of a block."""
    query, gallery = torch.randn(191, 16, generator=torch.Generator().manual_seed(0)).sign().split([90, 101])
    pairs = make_pairs(np.arange(90) % 6, [0] * 90, np.arange(101) % 6, [1] * 101)
    calls: list[int] = []

    def reduce(tensor: Tensor) -> Tensor:
        calls.append(len(tensor))
        return tensor

    expected = rank_positives(query, gallery, 0, pairs)
    monkeypatch.setattr(ranking, "STRIP", 4 * 40 * 101)  # 40 rows; a block has a multiple of 16
    ranks = rank_positives(query, gallery, 0, pairs, reduce=reduce)
    assert torch.equal(ranks, expected)
    in_block = torch.bincount(pairs.positives_2P[0] // 32).tolist()
    assert calls == [num for num in in_block for _ in range(2)]


@pytest.mark.parametrize("k", [1, 5, 200])
def test_top_ranks_are_the_head_of_the_sorted_list(k: int) -> None:
    """Merged over slices, in any order: the nearest not-ignored items, ties by index, filled up with -1."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (60, 16)).astype(np.float32)
    pids, camids = np.arange(60) % 4, np.arange(60) % 3
    pairs = make_pairs(pids[:10], camids[:10], pids, camids, junk=np.arange(60) % 7 == 0)
    rows, features = [8, 2, 8], torch.as_tensor(signs)
    tops = [
        top_ranks(features[rows], rows, features[start:stop], start, pairs, k, tile=8)
        for start, stop in gallery_slices(60, 3, tile=8)
    ]
    similarity, item = merge_top(tops[::-1], k)
    for n, q in enumerate(rows):
        kept = [g for g in range(60) if g % 7 and not (pids[g] == pids[q] and camids[g] == camids[q])]
        expected = sorted(kept, key=lambda g: (-float(signs[q] @ signs[g]), g))[:k]
        assert item[n].tolist() == expected + [-1] * (k - len(expected))
        assert similarity[n, : len(expected)].tolist() == [float(signs[q] @ signs[g]) / 16 for g in expected]
