"""Re-ranking: a dense reference written from the paper, slices over ranks, bounded memory."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mstat.evaluation import neighbours, ranking
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.ranking import gallery_slices, rank_distances, rank_positives
from mstat.evaluation.reranking import Reranking, rank_reranked, rerank, rerank_distances
from mstat.metrics import cmc_map_from_distances
from tests.mstat.evaluation.test_ranking import crowd

Distances = tuple[np.ndarray, np.ndarray, np.ndarray]  # query-gallery, query-query, gallery-gallery
PARAMETERS = [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 1.0), (1, 1, 0.3), (3, 2, 0.5), (13, 20, 0.1), (200, 300, 0.5)]


def reference(distances: Distances, k1: int, k2: int, lambda_value: float) -> np.ndarray:
    """Re-rank by the equations of Zhong et al. (CVPR 2017), with sets and dense codes; ties by index."""
    of_pairs, of_queries, of_gallery = distances
    num_query, num_gallery = of_pairs.shape
    square = np.block([[of_queries, of_pairs], [of_pairs.T, of_gallery]]).astype(np.float64) ** 2
    share = (square.astype(np.float32) / square.astype(np.float32).max(axis=0)).T
    order = share.argsort(axis=1, kind="stable").tolist()
    items = range(num_query + num_gallery)

    def reciprocal(i: int, k: int) -> set[int]:  # Eq. 3
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    half = int(np.around(k1 / 2))
    codes = np.zeros(share.shape)
    for i in items:
        chosen = reciprocal(i, k1)
        sets = [reciprocal(j, half) for j in chosen]
        expanded = chosen.union(*(s for s in sets if len(chosen & s) > 2 / 3 * len(s)))  # Eq. 5
        members = sorted(expanded)
        codes[i, members] = np.exp(-share[i, members].astype(np.float64))  # Eq. 7
        codes[i] /= codes[i].sum() or 1
    if k2 > 1:
        codes = np.stack([codes[order[i][:k2]].mean(axis=0) for i in items])  # Eq. 11
    smaller = np.minimum(codes[:num_query, None], codes[None, num_query:]).sum(axis=2)
    jaccard = 1 - smaller / (2 - smaller)  # Eq. 10, because a code sums to 1
    return (1 - lambda_value) * jaccard + lambda_value * share[:num_query, num_query:]  # Eq. 12


def people(seed: int, num_query: int, num_gallery: int) -> np.ndarray:
    """Features of queries, then gallery items, of a dozen people."""
    rng = np.random.default_rng(seed)
    num_items = num_query + num_gallery
    return rng.normal(size=(12, 8))[rng.integers(0, 12, num_items)] + 0.6 * rng.normal(size=(num_items, 8))


def split(distance: np.ndarray, num_query: int) -> Distances:
    return distance[:num_query, num_query:], distance[:num_query, :num_query], distance[num_query:, num_query:]


def euclidean(features: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.sqrt(np.square(features[:, None] - features[None]).sum(axis=2))
    return result


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize(("num_query", "num_gallery"), [(1, 1), (1, 40), (9, 57), (30, 4)])
def test_distances_equal_the_dense_reference(
    num_query: int, num_gallery: int, parameters: tuple[int, int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-5, for one query, few items, lists longer than the set, no expansion, both ends of lambda; asymmetric ones
    too, and whatever the blocks."""
    for seed, strip in ((0, 2**28), (1, 2**10), (2, 2**14)):
        monkeypatch.setattr(ranking, "STRIP", strip)
        asymmetric = np.random.default_rng(seed).random((num_query + num_gallery,) * 2)
        for distance in (euclidean(people(seed, num_query, num_gallery)), asymmetric):
            distances = split(distance, num_query)
            result = rerank_distances(*distances, *parameters)
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, reference(distances, *parameters), atol=1e-5, rtol=0)


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_equal_distances_are_ordered_by_index(parameters: tuple[int, int, float]) -> None:
    """Whole numbers as distances, of which most are equal, and many copies of few items."""
    features = np.rint(people(3, 8, 60) / 2)
    distances = split(np.abs(features[:, None] - features[None]).sum(axis=2), 8)
    result = rerank_distances(*distances, *parameters)
    np.testing.assert_allclose(result, reference(distances, *parameters), atol=1e-5, rtol=0)
    alike = rerank_distances(*split(np.zeros((9, 9)), 4), *parameters)
    assert np.isfinite(alike).all()


def test_arguments_may_be_tensors_of_any_type() -> None:
    """Lists, tensors and whole numbers give what arrays do, and stay as they were."""
    whole = np.abs(np.arange(12)[:, None] - np.arange(12)) % 5
    expected = rerank_distances(*split(whole.astype(np.float64), 3), 4, 2)
    first, second, third = (torch.from_numpy(matrix).float() for matrix in split(whole, 3))
    copies = [tensor.clone() for tensor in (first, second, third)]
    assert np.array_equal(rerank_distances(first, second, third, 4, 2), expected)
    assert all(torch.equal(*pair) for pair in zip((first, second, third), copies, strict=True))
    as_lists = rerank_distances(first.tolist(), second.tolist(), third.tolist(), 4, 2)
    assert np.array_equal(as_lists, expected)


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("cone", [False, True])
def test_features_give_what_their_distances_do(
    parameters: tuple[int, int, float], cone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Euclidean distances of unit-length features, in a narrow cone too, over several blocks."""
    monkeypatch.setattr(neighbours, "BLOCK", 64)
    features = people(5, 20, 300) * (1e-3 if cone else 1) + 5 * cone
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = rerank_distances(*split(euclidean(unit), 20), *parameters)
    result = rerank(features[:20], features[20:], *parameters)
    np.testing.assert_allclose(result, expected, atol=1e-5, rtol=0)


def test_with_lambda_1_the_ranks_are_the_plain_ones() -> None:
    """Exactly, where rounding decides about ranks, where many items are copies, and where similarities are so many and
    so small that their distances would be equal in fp32."""
    close, close_gallery, pairs = crowd()
    signs = torch.randn(124, 16, generator=torch.Generator().manual_seed(0)).sign().split([23, 101])
    many = torch.randn(3020, 64, generator=torch.Generator().manual_seed(0)).split([20, 3000])
    all_match = make_pairs([0] * 20, [0] * 20, [0] * 3000, [1] * 3000)
    for query, gallery, compared in ((close, close_gallery, pairs), (*signs, pairs), (*many, all_match)):
        ranks = rank_reranked(query, gallery, 0, compared, Reranking(5, 2, 1.0), (0, len(query)))
        assert torch.equal(ranks, rank_positives(query, gallery, 0, compared))


def test_junk_is_no_item_and_ignored_ones_do_not_count() -> None:
    """The ranks are those of distances that are re-ranked without junk."""
    rng = np.random.default_rng(0)
    features = people(7, 15, 120)
    junk = rng.random(120) < 0.2
    pids, camids = rng.integers(0, 6, 135), rng.integers(0, 3, 135)
    pairs = make_pairs(pids[:15], camids[:15], pids[15:], camids[15:], junk=junk, same=[(0, 3), (2, 50)])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kept = np.concatenate([np.ones(15, bool), ~junk])
    distance = np.ones((15, 120))
    distance[:, ~junk] = reference(split(euclidean(unit[kept]), 15), 10, 4, 0.3)
    query, gallery = torch.from_numpy(features).float().split([15, 120])
    ranks = rank_reranked(query, gallery, 0, pairs, Reranking(10, 4, 0.3), (0, 15))
    assert torch.equal(ranks, rank_distances(torch.from_numpy(distance), pairs))


class Ranks:
    """Threads that stand for ranks and exchange values."""

    def __init__(self, world_size: int) -> None:
        self.world_size, self.barrier = world_size, threading.Barrier(world_size)
        self.slots: dict[int, Any] = {}

    def gather(self, rank: int, value: Any) -> list[Any]:
        self.slots[rank] = value
        self.barrier.wait(timeout=60)
        values = [self.slots[other] for other in range(self.world_size)]
        self.barrier.wait(timeout=60)
        return values

    def run(self, function: Callable[[int, Callable[[Any], list[Any]]], Tensor]) -> list[Tensor]:
        with ThreadPoolExecutor(self.world_size) as pool:
            ranks = range(self.world_size)
            return list(pool.map(lambda rank: function(rank, lambda value: self.gather(rank, value)), ranks))


def crowds() -> list[tuple[Tensor, Tensor, Pairs]]:
    """Features in a narrow cone, and wide ones."""
    query, gallery, pairs = crowd()
    wide = torch.from_numpy(people(1, 23, 101)).float().split([23, 101])
    return [(query, gallery, pairs), (*wide, pairs)]


@pytest.mark.parametrize("behind", [0, 50])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 20])
def test_ranks_are_bitwise_the_same_over_any_number_of_ranks(
    world_size: int, behind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of gallery and queries, empty ones and ones behind the gallery too, give the ranks of one process."""
    monkeypatch.setattr(neighbours, "TILE", 8)
    monkeypatch.setattr(neighbours, "BLOCK", 48)
    slices = gallery_slices(101 + behind, world_size, tile=8)
    shares = gallery_slices(23, world_size, tile=8)
    settings = Reranking(6, 3, 0.3)
    for query, gallery, pairs in crowds():
        alone = rank_reranked(query, gallery, 0, pairs, settings, (0, 23))

        def one_rank(
            rank: int,
            gather: Callable[[Any], list[Any]],
            query: Tensor = query,
            gallery: Tensor = gallery,
            pairs: Pairs = pairs,
        ) -> Tensor:
            start, stop = slices[rank]

            def reduce(tensor: Tensor) -> Tensor:
                return torch.stack(gather(tensor)).sum(dim=0)

            side = gallery[start:stop], start
            return rank_reranked(query, *side, pairs, settings, shares[rank], reduce=reduce, gather=gather)

        assert all(torch.equal(ranks, alone) for ranks in Ranks(world_size).run(one_rank))


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 32 items, on one thread, since `Largest` does not see others."""
    monkeypatch.setattr(ranking, "STRIP", 4 * 32 * 2000)
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("small_blocks")
def test_memory_is_a_block_and_sparse_lists() -> None:
    """No tensor is larger than a block of STRIP bytes, and all arrays are a small part of the matrix of distances."""
    features = torch.from_numpy(people(0, 20, 1980)).float()
    with Largest() as largest:
        rerank(features[:20], features[20:], k1=4, k2=2)
    assert 32 * 1980 <= largest.numel <= 32 * 2000
    tracemalloc.start()
    try:
        rerank(features[:20], features[20:], k1=4, k2=2)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2000**2 / 5
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ((0, 6, 0.3), "k1=0"),
        ((20, 0, 0.3), "k2=0"),
        ((20.5, 6, 0.3), "k1=20.5"),
        ((True, 6, 0.3), "k1=True"),
        ((20, 6, 1.1), "lambda_value=1.1"),
        ((20, 6, float("nan")), "lambda_value=nan"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters: tuple[Any, Any, Any], message: str) -> None:
    for call in (
        lambda: rerank_distances(*split(np.ones((5, 5)), 2), *parameters),
        lambda: rerank(np.ones((2, 3)), np.ones((3, 3)), *parameters),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_distances_that_do_not_fit_are_refused() -> None:
    """By shape, and if they are not finite."""
    good = split(np.ones((5, 5)), 2)
    with pytest.raises(ValueError, match="query-query distances have shape"):
        rerank_distances(good[0], good[2], good[2])
    with pytest.raises(ValueError, match="gallery-gallery distances are not finite"):
        rerank_distances(good[0], good[1], good[2] * np.nan)
    with pytest.raises(ValueError, match="equal dimensions"):
        rerank(np.ones((2, 3)), np.ones((3, 4)))


def test_nothing_to_rerank() -> None:
    """No query or no gallery gives an empty matrix."""
    assert rerank_distances(np.ones((0, 3)), np.ones((0, 0)), np.ones((3, 3))).shape == (0, 3)
    assert rerank(np.ones((2, 3)), np.ones((0, 3))).shape == (2, 0)


def test_reranking_raises_map_of_noisy_features() -> None:
    """Of people with ten tracklets each, whose neighbours say more than one distance."""
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(20), 10)
    features = rng.normal(size=(20, 16))[pids] + 0.8 * rng.normal(size=(200, 16))
    query = np.arange(0, 200, 10)
    gallery = np.setdiff1d(np.arange(200), query)
    labels = pids[query], np.zeros(20, int), pids[gallery], np.ones(180, int)
    plain, reranked = (
        cmc_map_from_distances(rerank(features[query], features[gallery], lambda_value=value, k1=8, k2=3), *labels)
        for value in (1.0, 0.3)
    )
    assert reranked["mAP"] > plain["mAP"] + 0.02
