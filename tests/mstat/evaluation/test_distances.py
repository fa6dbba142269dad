"""Table VI's distances against loops over all pairs, on any number of slices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import pytest
import torch

from mstat.evaluation.distances import class_distances
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.ranking import gallery_slices, rank_positives

TILE = 4


class Labels(TypedDict):
    """Labels by the names of `make_pairs`."""

    query_pids: list[int]
    query_camids: list[int]
    gallery_pids: list[int]
    gallery_camids: list[int]


def made(seed: int) -> tuple[torch.Tensor, torch.Tensor, Labels, list[bool]]:
    """Features and labels of 9 queries and 23 gallery items; some are junk, one query has no match."""
    rng = np.random.default_rng(seed)
    labels: Labels = {
        "query_pids": [*rng.integers(1, 5, 8).tolist(), 99],
        "query_camids": rng.integers(1, 4, 9).tolist(),
        "gallery_pids": rng.integers(0, 6, 23).tolist(),
        "gallery_camids": rng.integers(1, 4, 23).tolist(),
    }
    junk = (rng.random(23) < 0.2).tolist()
    centres = rng.normal(size=(100, 6))
    noise = rng.normal(size=(32, 6))
    points = torch.from_numpy(centres[labels["query_pids"] + labels["gallery_pids"]] + noise).float()
    return points[:9], points[9:], labels, junk


def looked_up(
    query: torch.Tensor, gallery: torch.Tensor, labels: Labels, junk: list[bool]
) -> dict[str, dict[str, float]]:
    """The definitions in words, pair by pair."""
    statistics: dict[str, dict[str, float]] = {}
    for kind in ("cosine", "euclidean"):
        within: dict[int, list[float]] = {}
        correct: dict[int, list[float]] = {}
        nearest_others = []
        for q, pid in enumerate(labels["query_pids"]):
            distances = {}
            for g, other in enumerate(labels["gallery_pids"]):
                own = other == pid and labels["gallery_camids"][g] == labels["query_camids"][q]
                if not junk[g] and not own:
                    a, b = query[q].double(), gallery[g].double()
                    a, b = a / a.norm(), b / b.norm()
                    distances[g] = float(1 - a @ b) if kind == "cosine" else float((a - b).norm())
            matches = {g: d for g, d in distances.items() if labels["gallery_pids"][g] == pid}
            if not matches:
                continue
            within.setdefault(pid, []).extend(matches.values())
            nearest_others.append(min(d for g, d in distances.items() if g not in matches))
            if labels["gallery_pids"][min(distances, key=distances.__getitem__)] == pid:
                correct.setdefault(pid, []).extend(matches.values())
        statistics[kind] = {
            "intra": float(np.mean([np.mean(d) for d in within.values()])),
            "intra_correct": float(np.mean([np.mean(d) for d in correct.values()])),
            "inter": min(nearest_others),
            "inter_mean": float(np.mean(nearest_others)),
        }
    return statistics


def correct(query: torch.Tensor, gallery: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Queries whose nearest item is a true match."""
    first = rank_positives(query, gallery, 0, pairs, tile=TILE) == 1
    correct_Q = torch.zeros(pairs.num_query, dtype=torch.bool)
    correct_Q[pairs.positives_2P[0][first]] = True
    return correct_Q


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_distances_are_those_of_all_pairs(seed: int, world_size: int) -> None:
    """Any number of slices gives the figures of a loop to 1e-5, and the same bits as one slice."""
    query, gallery, labels, junk = made(seed)
    pairs = make_pairs(**labels, junk=junk)
    results = []
    for slices in (gallery_slices(23, world_size, TILE), [(0, 23)]):
        parts: list[list[torch.Tensor]] = []

        def remember(tensor: torch.Tensor, parts: list[list[torch.Tensor]] = parts) -> list[torch.Tensor]:
            parts[-1].append(tensor)
            return [tensor]

        arguments = pairs, labels["query_pids"], correct(query, gallery, pairs)
        for start, stop in slices:
            parts.append([])
            class_distances(query, gallery[start:stop], start, *arguments, gather=remember, tile=TILE)
        joined = itertools.cycle(zip(*parts, strict=True))

        def recall(_: torch.Tensor, joined: Iterator[tuple[torch.Tensor, ...]] = joined) -> list[torch.Tensor]:
            return list(next(joined))

        results.append(class_distances(query, gallery[:TILE], 0, *arguments, gather=recall, tile=TILE))
    assert results[0] == results[1]
    for kind, expected in looked_up(query, gallery, labels, junk).items():
        assert results[0][kind] == pytest.approx(expected, abs=1e-5)


def test_what_has_no_pair_has_no_figure() -> None:
    """Without a correct query there is no mean over them; without another identity no distance to it."""
    pairs = make_pairs([1], [1], [1], [2])
    points = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    statistics = class_distances(*points, 0, pairs, [1], torch.tensor([False]))
    assert statistics["cosine"] == {"intra": 1.0, "intra_correct": None, "inter": None, "inter_mean": None}
    assert statistics["euclidean"]["intra"] == pytest.approx(math.sqrt(2))
