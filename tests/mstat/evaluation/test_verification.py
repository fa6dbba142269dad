"""Verification: counts of similarities over slices, and rates and thresholds against scikit-learn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_curve

from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.ranking import count_similarities
from mstat.evaluation.verification import BINS, CURVE, FPRS, verification

Case = tuple[torch.Tensor, torch.Tensor, Pairs]


def make_case(seed: int, common: float = 0.0) -> Case:
    """Features of 12 people, some junk and some copies; `common` adds a vector to all, which makes a narrow cone."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, 8))
    pids = [rng.integers(0, 12, size) for size in (40, 300)]
    query, gallery = (torch.from_numpy(centres[p] + rng.normal(size=(len(p), 8)) + common).float() for p in pids)
    camids = [rng.integers(0, 3, len(p)) for p in pids]
    same = np.stack([rng.integers(0, 40, 9), rng.integers(0, 300, 9)], axis=1)
    pairs = make_pairs(pids[0], camids[0], pids[1], camids[1], junk=rng.random(300) < 0.1, same=same)
    return query, gallery, pairs


def similarities(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and truth of each pair that is not ignored, in fp64."""
    query, gallery, pairs = case
    similarity = F.normalize(query.double()) @ F.normalize(gallery.double()).T
    kept = torch.ones_like(similarity, dtype=torch.bool)
    kept[:, pairs.junk_G] = False
    kept[tuple(pairs.ignored_2I)] = False
    truth = torch.zeros_like(kept)
    truth[tuple(pairs.positives_2P)] = True
    return similarity[kept].numpy(), truth[kept].numpy()


@pytest.mark.parametrize("common", [0.0, 300.0])
@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_all_pairs(seed: int, common: float) -> None:
    """Every pair that is not ignored is counted once, within a bin of its similarity, also in a narrow cone."""
    case = make_case(seed, common)
    similarity, truth = similarities(case)
    for counts_N, expected in zip(
        count_similarities(case[0], case[1], 0, case[2], BINS), (similarity[truth], similarity[~truth]), strict=True
    ):
        bins = np.repeat(np.arange(BINS), counts_N.numpy())
        assert len(bins) == len(expected) > 0
        places = np.sort((expected + 1) * BINS / 2)
        assert np.abs(bins + 0.5 - places).max() <= 1.5


@pytest.mark.parametrize("bounds", [(0, 300), (0, 0, 300), (0, 7, 256, 300), (0, 64, 65, 200, 300)])
def test_slices_add_up(bounds: tuple[int, ...]) -> None:
    """Counts of slices of the gallery, empty ones too, add up to those of the whole, exactly."""
    query, gallery, pairs = make_case(1)
    whole = torch.stack(count_similarities(query, gallery, 0, pairs, 512, tile=64))
    parts = [
        torch.stack(count_similarities(query, gallery[first:end], first, pairs, 512, tile=64))
        for first, end in pairwise(bounds)
    ]
    assert torch.equal(sum(parts[1:], parts[0]), whole)


@pytest.mark.parametrize("seed", range(4))
def test_rates_are_those_of_scikit_learn(seed: int) -> None:
    """TPR at each FPR and on the curve, and the equal error rate, from roc_curve of all similarities."""
    case = make_case(seed)
    similarity, truth = similarities(case)
    result = verification(*count_similarities(case[0], case[1], 0, case[2], BINS))
    fpr, tpr, _ = roc_curve(truth, similarity, drop_intermediate=False)
    for limit in FPRS:
        if (~truth).sum() * limit < 1:
            assert result[f"tpr_at_{limit:g}"] is result[f"threshold_at_{limit:g}"] is None
            continue
        assert result[f"tpr_at_{limit:g}"] == tpr[fpr <= limit].max()
        threshold = result[f"threshold_at_{limit:g}"]
        assert (similarity >= threshold)[~truth].mean() <= limit
        assert (similarity >= threshold - 4 / BINS)[~truth].mean() > limit  # two bins lower
    equal = np.abs(fpr - (1 - tpr)).argmin()
    assert result["eer"] == pytest.approx((fpr[equal] + 1 - tpr[equal]) / 2, abs=1e-9)
    assert result["roc_tpr"] == [tpr[fpr <= limit].max() for limit in CURVE]
    assert (result["num_genuine"], result["num_impostor"]) == (truth.sum(), (~truth).sum())


@pytest.mark.parametrize("seed", range(4))
def test_rates_of_fast_reid_are_those_of_swapped_pairs(seed: int) -> None:
    """fastreid/evaluation/roc.py calls pairs of two persons positive, and takes the point of the nearest FPR.

    Written anew from what it computes: its TPR is the share of impostor pairs at a distance at which a share of genuine
    pairs lies, too. It is ours of the swapped pairs, within one pair of the FPR.
    """
    case = make_case(seed)
    similarity, truth = similarities(case)
    fpr, tpr, _ = roc_curve(~truth, 1 - similarity)
    genuine_N, impostor_N = count_similarities(case[0], case[1], 0, case[2], BINS)
    for limit in (1e-2, 2e-2, 1e-1):
        theirs = tpr[np.abs(fpr - limit).argmin()]
        step = 1 / truth.sum()
        lower, higher = limit - step, limit + step
        ours = verification(impostor_N.flip(0), genuine_N.flip(0), [lower, higher])
        assert (ours[f"tpr_at_{lower:g}"] or 0) <= theirs <= ours[f"tpr_at_{higher:g}"]
    plain = verification(genuine_N, impostor_N)
    assert plain["tpr_at_0.1"] != verification(impostor_N.flip(0), genuine_N.flip(0))["tpr_at_0.1"]


def test_equal_similarities_have_no_threshold() -> None:
    """A collapsed model, whose pairs are all in the last bin: nothing is told apart, and only no threshold is safe."""
    result = verification(torch.tensor([0, 0, 0, 5]), torch.tensor([0, 0, 0, 10_000]))
    assert result["tpr_at_0.1"] == 0
    assert result["threshold_at_0.1"] is None
    assert result["eer"] == 0.5


def test_nothing_to_tell_apart() -> None:
    """Without pairs of two persons there is no rate, and no curve."""
    result = verification(torch.tensor([1, 0, 2, 0]), torch.zeros(4, dtype=torch.long))
    assert result["eer"] is None
    assert result["roc_fpr"] == result["roc_tpr"] == []
    assert all(result[f"tpr_at_{limit:g}"] is None for limit in FPRS)
