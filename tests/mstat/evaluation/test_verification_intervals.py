"""Intervals of verification: counts by identity over slices, and a bootstrap that tries every threshold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from mstat.bootstrap import PERCENTILES, RESAMPLES
from mstat.evaluation.matches import make_pairs
from mstat.evaluation.ranking import count_similarities
from mstat.evaluation.verification import BINS, FPRS, accepted, verification
from mstat.evaluation.verification_intervals import TPR_STEPS, candidates, count_accepted, verification_intervals
from tests.mstat.evaluation.test_verification import Case, make_case, similarities

IDENTITIES = np.random.default_rng(0).integers(0, 9, 40)  # of the queries; 0 to 8 are all there


def all_counts(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds, and the accepted pairs of each identity."""
    thresholds = candidates(*count_similarities(case[0], case[1], 0, case[2], BINS))
    return thresholds, count_accepted(case[0], case[1], 0, case[2], torch.from_numpy(IDENTITIES), thresholds, BINS)


@pytest.mark.parametrize("common", [0.0, 300.0])
@pytest.mark.parametrize("seed", range(2))
def test_identities_add_up_to_all_pairs(seed: int, common: float) -> None:
    """At each candidate, the sum over identities is the count of the fine bins, exactly, also in a narrow cone."""
    case = make_case(seed, common)
    thresholds, counts = all_counts(case)
    assert counts.shape == (2, 9, len(thresholds))
    for of_kind, fine in zip(counts, count_similarities(case[0], case[1], 0, case[2], BINS), strict=True):
        assert torch.equal(of_kind.sum(0), accepted(fine)[thresholds])


def test_rounding_below_minus_one_is_no_ignored_pair() -> None:
    """Opposite features, whose similarity may round to less than -1, are accepted by the lowest threshold."""
    query = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 33))).float()
    pairs = make_pairs(np.arange(40), np.zeros(40, int), np.arange(40), np.ones(40, int))
    counts = count_accepted(query, -query, 0, pairs, torch.arange(40), torch.tensor([0, BINS // 2]), BINS)
    assert counts[0, :, 0].tolist() == [1] * 40
    assert counts[1, :, 0].tolist() == [39] * 40


def test_identities_are_those_of_the_queries() -> None:
    """The pairs of one identity's queries, by a loop in fp64; a pair may fall to either side of a bin's edge."""
    case = make_case(1)
    query, gallery, pairs = case
    thresholds, counts = all_counts(case)
    for identity in range(9):
        kept = torch.from_numpy(np.flatnonzero(identity == IDENTITIES))
        of_pairs = [pair_2N[:, torch.isin(pair_2N[0], kept)] for pair_2N in (pairs.positives_2P, pairs.ignored_2I)]
        renumbered = [torch.stack([torch.searchsorted(kept, pair_2N[0]), pair_2N[1]]) for pair_2N in of_pairs]
        alone = type(pairs)(len(kept), pairs.num_gallery, pairs.junk_G, *renumbered)
        similarity, truth = similarities((query[kept], gallery, alone))
        for of_kind, is_kind in zip(counts, (truth, ~truth), strict=True):
            expected = [(similarity[is_kind] >= 2 * place / BINS - 1).sum() for place in thresholds.tolist()]
            assert of_kind[identity, 0] == is_kind.sum()
            assert np.abs(of_kind[identity].numpy() - expected).max() <= 1


@pytest.mark.parametrize("bounds", [(0, 300), (0, 0, 300), (0, 7, 256, 300), (0, 64, 65, 200, 300)])
def test_slices_add_up(bounds: tuple[int, ...]) -> None:
    """Counts of slices of the gallery, empty ones too, add up to those of the whole, exactly."""
    query, gallery, pairs = make_case(1)
    thresholds, whole = all_counts((query, gallery, pairs))
    parts = [
        count_accepted(query, gallery[first:end], first, pairs, torch.from_numpy(IDENTITIES), thresholds, BINS, tile=64)
        for first, end in pairwise(bounds)
    ]
    assert torch.equal(sum(parts[1:], parts[0]), whole)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_bootstrap_that_tries_every_threshold(seed: int) -> None:
    """Identities drawn one by one, rates at each similarity: the intervals agree within a step of the candidates."""
    case = make_case(seed)
    similarity, truth = similarities(case)
    kept = torch.ones(case[2].num_query, case[2].num_gallery, dtype=torch.bool)
    kept[:, case[2].junk_G] = False
    kept[tuple(case[2].ignored_2I)] = False
    identity = np.broadcast_to(IDENTITIES[:, None], kept.shape)[kept.numpy()]
    order = np.argsort(-similarity)
    truth, identity = truth[order], identity[order]
    draws, samples = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        times = np.bincount(draws.integers(9, size=9), minlength=9)[identity]
        tpr, fpr = (np.concatenate([[0], (times * kind).cumsum()]) / (times * kind).sum() for kind in (truth, ~truth))
        equal = np.abs(fpr - (1 - tpr)).argmin()
        rates = [tpr[fpr <= limit].max() for limit in FPRS]
        samples.append([*rates, (fpr[equal] + 1 - tpr[equal]) / 2])
    expected = dict(
        zip(
            [f"tpr_at_{limit:g}" for limit in FPRS] + ["eer"],
            np.percentile(samples, PERCENTILES, axis=0).T,
            strict=True,
        )
    )
    result = verification_intervals(all_counts(case)[1], seed)
    scores = verification(*count_similarities(case[0], case[1], 0, case[2], BINS))
    assert list(result) == [name for name in expected if scores[name] is not None]
    for name, interval in result.items():
        assert interval == pytest.approx(expected[name].tolist(), abs=2 / TPR_STEPS)
        assert interval[0] <= scores[name] <= interval[1]


def test_candidates_hold_the_thresholds_of_the_scores() -> None:
    """All pairs are accepted by the first, and none of two persons by some; steps of TPR and FPR are small."""
    rng = np.random.default_rng(0)
    genuine, impostor = (
        torch.from_numpy(np.bincount((BINS * rng.beta(a, b, n)).astype(int), minlength=BINS))
        for a, b, n in ((8, 2, 50_000), (5, 5, 3_000_000))
    )
    scores, thresholds = verification(genuine, impostor), candidates(genuine, impostor)
    assert len(thresholds) < 1_500
    assert thresholds[0] == 0
    edges = {2 * place / BINS - 1 for place in thresholds.tolist()}
    assert {scores[f"threshold_at_{limit:g}"] for limit in FPRS} | {scores["eer_threshold"]} <= edges
    tpr, fpr = (accepted(counts)[thresholds].double() / counts.sum() for counts in (genuine, impostor))
    assert -tpr.diff().min() <= 1.05 / TPR_STEPS
    seen = fpr >= 1e-4
    assert (fpr[:-1] / fpr[1:])[seen[1:]].max() < 1.05
    assert fpr[-1] == 0


def test_without_two_identities_or_pairs_there_is_no_interval() -> None:
    """One identity could only draw itself; without true matches there is no TPR."""
    assert verification_intervals(torch.ones(2, 1, 5, dtype=torch.long)) == {}
    assert verification_intervals(torch.stack([torch.zeros(3, 5), torch.ones(3, 5)]).long()) == {}
    few = verification_intervals(torch.tensor([[[3, 1], [2, 0]], [[9, 0], [9, 0]]]))
    assert list(few) == ["tpr_at_0.1", "eer"]
