"""Open-set identification: DIR and FPIR as NISTIR 8271 defines them, from a loop over probes and thresholds."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mstat.bootstrap import PERCENTILES, RESAMPLES
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.open_set import FPIRS, SHARE, identification, nearest_items, open_set, removed_pids
from mstat.evaluation.ranking import merge_top


class Case(NamedTuple):
    """Features of a protocol, its pairs, and the identities."""

    query: torch.Tensor
    gallery: torch.Tensor
    pairs: Pairs
    query_pids: np.ndarray
    gallery_pids: np.ndarray


def make_case(seed: int, common: float = 0.0, num_query: int = 240) -> Case:
    """Sign vectors, whose cosines tie often; junk, distractors (0), copies, queries without a true match."""
    rng = np.random.default_rng(seed)
    centres = rng.choice([-1.0, 1.0], (31, 16))
    query_pids, gallery_pids = rng.integers(1, 31, num_query), rng.integers(0, 26, 300)
    flips = (rng.choice([1.0, -1.0], (len(pids), 16), p=[0.85, 0.15]) for pids in (query_pids, gallery_pids))
    query, gallery = (
        torch.from_numpy(centres[pids] * flip + common).float()
        for pids, flip in zip((query_pids, gallery_pids), flips, strict=True)
    )
    camids = [rng.integers(0, 3, len(pids)) for pids in (query_pids, gallery_pids)]
    same = np.stack([rng.integers(0, num_query, 9), rng.integers(0, 300, 9)], axis=1)
    pairs = make_pairs(query_pids, camids[0], gallery_pids, camids[1], junk=rng.random(300) < 0.1, same=same)
    return Case(query, gallery, pairs, query_pids, gallery_pids)


class Probe(NamedTuple):
    """The answer to a probe without a threshold."""

    pid: int
    mated: bool
    nonmated: bool
    similarity: float
    correct: bool


def brute_force(case: Case, seed: int) -> list[Probe]:
    """Answers from a sorted list a query, in which items of removed identities are missing."""
    removed = set(removed_pids(case.query_pids, seed).tolist())
    ignored = set(map(tuple, case.pairs.ignored_2I.T.tolist()))
    matches = set(map(tuple, case.pairs.positives_2P.T.tolist()))
    cosines_QG = F.normalize(case.query.double()) @ F.normalize(case.gallery.double()).T
    probes = []
    for q, pid in enumerate(case.query_pids.tolist()):
        left = [
            g
            for g, other in enumerate(case.gallery_pids.tolist())
            if other not in removed and not case.pairs.junk_G[g] and (q, g) not in ignored
        ]
        cosines = [round(cosine, 6) for cosine in cosines_QG[q].tolist()]  # multiples of 1/8, exact in fp32
        nearest = max(left, key=lambda g: (cosines[g], -g))
        mated = any((q, g) in matches for g in left)
        probes.append(Probe(pid, mated, pid in removed, cosines[nearest], (q, nearest) in matches))
    return probes


def dir_at(probes: list[Probe], limit: float) -> float:
    """Return the largest DIR of all thresholds whose FPIR is within the limit; each similarity is tried as one."""
    _, mated, nonmated, similarity, correct = map(np.array, zip(*probes, strict=True))
    shares = [0.0]
    for threshold in np.unique(similarity):
        answered = similarity >= threshold
        if answered[nonmated].mean() <= limit:
            shares.append((answered & correct)[mated].mean())
    return max(shares)


def identify(probes: list[Probe], seed: int = 0) -> dict[str, Any]:
    pids, mated, nonmated, similarity, correct = map(np.array, zip(*probes, strict=True))
    return identification(similarity, mated, correct, nonmated, pids, seed)


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_loop_over_probes_and_thresholds(seed: int) -> None:
    """With ties, junk, copies, distractors: how many probes there are, DIR, and what a threshold does."""
    case = make_case(seed)
    result = open_set(case.query, case.gallery, 0, case.pairs, case.query_pids, case.gallery_pids, seed, tile=64)
    probes = brute_force(case, seed)
    mated, nonmated = [p for p in probes if p.mated], [p for p in probes if p.nonmated]
    assert (result["num_mated"], result["num_nonmated"]) == (len(mated), len(nonmated))
    assert result["num_removed"] == int(SHARE * 30)
    assert len(mated) + len(nonmated) < len(probes)  # some have no true match
    for limit in FPIRS:
        assert result[f"dir_at_{limit:g}"] == dir_at(probes, limit)
        threshold = result[f"threshold_at_{limit:g}"]
        answered = [p.similarity > threshold + 1e-6 for p in nonmated]
        assert np.mean(answered) <= limit < np.mean([p.similarity > threshold - 1e-6 for p in nonmated])
        right = [p.correct and p.similarity > threshold + 1e-6 for p in mated]
        assert np.mean(right) == result[f"dir_at_{limit:g}"]


@pytest.mark.parametrize(
    "bounds", [(0, 300), (0, 0, 300), (0, 128, 300), (0, 64, 128, 300), (0, 64, 128, 128, 256, 300)]
)
@pytest.mark.parametrize("common", [0.0, 3000.0])
def test_any_slices_have_the_same_nearest_items(bounds: tuple[int, ...], common: float) -> None:
    """Bit for bit, ties across slices too, also in a narrow cone; an empty slice has nothing."""
    case = make_case(1, common)
    whole = nearest_items(case.query, case.gallery, 0, case.pairs, tile=64)
    parts: list[Any] = []

    def keep(top: Any) -> list[Any]:
        parts.append(top)
        return [top]

    slices = [(case.gallery[first:end], first) for first, end in pairwise(bounds)]
    for part, first in slices:
        nearest_items(case.query, part, first, case.pairs, tile=64, gather=keep)
    gathered = nearest_items(case.query, *slices[0], case.pairs, tile=64, gather=lambda _: parts)
    assert all(torch.equal(*pair) for pair in zip(gathered, whole, strict=True))
    assert torch.equal(merge_top(parts, 1)[1][:, 0], whole[1])


def test_a_query_that_ignores_the_whole_gallery_is_rejected() -> None:
    """It has no nearest item, and no threshold answers it."""
    pairs = make_pairs([1, 2], [0, 0], [1, 1], [0, 0])
    similarity, item = nearest_items(torch.ones(2, 3), torch.ones(2, 3), 0, pairs)
    assert (similarity.tolist(), item.tolist()) == ([-math.inf, pytest.approx(1)], [-1, 0])


def test_intervals_are_those_of_drawing_identities() -> None:
    """Mated and nonmated identities are drawn apart, each with all its probes; each resample has its own threshold."""
    probes = brute_force(make_case(2), 5)
    result = identify(probes, seed=5)
    by_kind = []
    for kind in ("mated", "nonmated"):
        chosen = [p for p in probes if getattr(p, kind)]
        by_kind.append([[p for p in chosen if p.pid == pid] for pid in sorted({p.pid for p in chosen})])
    generators = [np.random.default_rng((5, number)) for number in (1, 2)]
    samples = []
    for _ in range(RESAMPLES):
        drawn = [rng.integers(len(kind), size=len(kind)) for rng, kind in zip(generators, by_kind, strict=True)]
        resample = [p for kind, places in zip(by_kind, drawn, strict=True) for i in places for p in kind[i]]
        samples.append([dir_at(resample, limit) for limit in FPIRS])
    expected = np.percentile(samples, PERCENTILES, axis=0).T
    for limit, interval in zip(FPIRS, expected, strict=True):
        low, high = result["intervals"][f"dir_at_{limit:g}"]
        assert low < result[f"dir_at_{limit:g}"] < high
        assert [low, high] == pytest.approx(interval.tolist(), abs=1e-12)


def test_equal_similarities_are_answered_alike() -> None:
    """A collapsed model: only a threshold that rejects everybody keeps FPIR low."""
    probes = [Probe(n % 7, n < 50, n >= 50, 1.0, n < 50) for n in range(100)]
    result = identify(probes)
    assert (result["dir_at_0.1"], result["threshold_at_0.1"]) == (0, np.nextafter(1, 2))


def test_too_few_probes_have_no_rate() -> None:
    """99 nonmated probes show no FPIR of 1 %; without mated ones there is nothing to identify."""
    probes = [Probe(n % 7, n < 50, n >= 50, n / 149, n < 50) for n in range(149)]
    assert identify(probes)["dir_at_0.01"] is identify(probes)["threshold_at_0.01"] is None
    assert list(identify(probes)["intervals"]) == ["dir_at_0.1"]
    assert identify([*probes, probes[-1]])["dir_at_0.01"] == 0
    for kind in ("mated", "nonmated"):
        result = identify([p for p in probes if getattr(p, kind)])
        assert result["dir_at_0.1"] is None
        assert result["intervals"] == {}


def test_one_identity_has_no_interval() -> None:
    """Of mated or of nonmated probes: nothing could be drawn but itself."""
    probes = [Probe(1 if n < 50 else n, n < 50, n >= 50, 1 - n / 149, n < 50) for n in range(149)]
    assert identify(probes)["dir_at_0.1"] == 1
    assert identify(probes)["intervals"] == {}
