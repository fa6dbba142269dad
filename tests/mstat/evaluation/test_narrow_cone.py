"""Features in a narrow cone: scores and distances against fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mstat.evaluation.distances import class_distances
from mstat.evaluation.matches import make_pairs
from mstat.evaluation.metrics import cmc_map, cmc_map_from_distances
from mstat.evaluation.narrow_cone import collapse, common_vector, spread
from mstat.evaluation.ranking import gallery_slices, merge_top, rank_positives, top_ranks

QUERIES, GALLERY, DIMS = 60, 700, 96


Labels = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # query pids, camids, gallery pids, camids


def cone(distance: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, Labels]:
    """Features of any length around one axis, about so far apart, half of it between identities; and their labels."""
    rng = np.random.default_rng(0)
    query_labels, gallery_labels = (
        (rng.integers(0, 60, number), rng.integers(0, 6, number)) for number in (QUERIES, GALLERY)
    )
    labels = (*query_labels, *gallery_labels)
    pids = np.concatenate([labels[0], labels[2]])
    noise = 0.6 * rng.standard_normal((60, DIMS))[pids] + rng.standard_normal((len(pids), DIMS))
    axis = rng.standard_normal(DIMS)
    points = axis / np.linalg.norm(axis) + noise * np.sqrt(distance / DIMS / 1.36)
    features = torch.tensor(points * rng.uniform(0.3, 30, (len(pids), 1)), dtype=dtype)
    return features[:QUERIES], features[QUERIES:], labels


def exact_distances(query: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Cosine distances in fp64, from differences of the unit vectors."""
    query, gallery = (part.double() / part.double().norm(dim=1, keepdim=True) for part in (query, gallery))
    return torch.stack([(one - gallery).square().sum(dim=1) / 2 for one in query])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [0.1, 1e-5, 1e-6, 1e-7])
def test_scores_are_those_of_fp64(distance: float, dtype: torch.dtype) -> None:
    """mAP and rank-1 to 1e-6 at any distance down to 1e-6, and to 1e-5 at 1e-7; chance is far below."""
    query, gallery, labels = cone(distance, dtype)
    scores = cmc_map(query, *labels[:2], gallery, *labels[2:])
    expected = cmc_map_from_distances(exact_distances(query, gallery), *labels)
    assert scores["mAP"] == pytest.approx(expected["mAP"], abs=1e-6 if distance > 5e-7 else 1e-5)
    assert scores["rank1"] == expected["rank1"] > 0.3


def test_similarities_and_distances_keep_their_digits() -> None:
    """Top lists and Table VI, from any slices of the gallery: distances of 1e-6 to a thousandth of themselves."""
    query, gallery, labels = cone(1e-6, torch.float32)
    pairs, exact = make_pairs(*labels), exact_distances(query, gallery)
    tops = [
        top_ranks(query[:5], range(5), gallery[start:stop], start, pairs, 10)
        for start, stop in gallery_slices(GALLERY, 3)
    ]
    similarity, item = merge_top(tops, 10)
    assert (1 - similarity).numpy() == pytest.approx(exact[:5].gather(1, item).numpy(), rel=1e-3)
    correct = torch.zeros(QUERIES, dtype=torch.bool)
    correct[pairs.positives_2P[0][rank_positives(query, gallery, 0, pairs) == 1]] = True
    distances = class_distances(query, gallery, 0, pairs, labels[0], correct)
    exact[pairs.ignored_2I[0], pairs.ignored_2I[1]] = torch.inf
    matches = exact[pairs.positives_2P[0], pairs.positives_2P[1]]
    pids = torch.as_tensor(labels[0])[pairs.positives_2P[0]]
    intra = np.mean([float(matches[pids == pid].mean()) for pid in pids.unique()])
    exact[pairs.positives_2P[0], pairs.positives_2P[1]] = torch.inf
    assert distances["cosine"]["intra"] == pytest.approx(intra, rel=1e-3)
    assert distances["cosine"]["inter"] == pytest.approx(float(exact.min()), rel=1e-3)
    assert distances["euclidean"]["inter"] == pytest.approx(float((2 * exact.min()).sqrt()), rel=1e-3)


def test_equal_features_stay_equal() -> None:
    """Copies of gallery items, in other tiles and of another length, are next to each other and in order."""
    query, gallery, labels = cone(1e-6, torch.float32)
    gallery = torch.cat([gallery, gallery[:40], 2 * gallery[:40]])
    camids = np.concatenate([labels[3], labels[3][:40], labels[3][:40]])
    pairs = make_pairs(labels[0], labels[1], np.full(len(gallery), -1), camids)
    _, item = top_ranks(query, range(QUERIES), gallery, 0, pairs, len(gallery))
    place = item.argsort(dim=1)
    for copy in (place[:, GALLERY : GALLERY + 40], place[:, GALLERY + 40 :]):
        assert (copy > place[:, :40]).all()
    assert torch.equal(place[:, GALLERY + 40 :], place[:, :40] + 2)


def test_wide_features_have_no_common_vector() -> None:
    """Below the limit all is as ever, so that exact ties stay ties; one query is a cone of its own."""
    assert common_vector(torch.randn(50, 20)) is None
    assert common_vector(torch.zeros(3, 4)) is None
    assert common_vector(torch.zeros(0, 4)) is None
    assert common_vector(torch.tensor([[3.0, 4.0]])).tolist() == pytest.approx([0.6, 0.8], abs=1e-3)  # type: ignore[union-attr]


def test_a_feature_of_zeros_is_far_from_a_cone() -> None:
    """Its similarity is 0, as everywhere, on either side."""
    query, gallery, labels = cone(1e-6, torch.float32)
    query[1] = gallery[1] = 0
    pairs = make_pairs(*labels)
    similarity, item = top_ranks(query, range(QUERIES), gallery, 0, pairs, GALLERY)
    assert similarity[1, :5].tolist() == pytest.approx([0] * 5, abs=1e-6)
    assert similarity[0][item[0] == 1].tolist() == pytest.approx([0], abs=1e-6)


@pytest.mark.parametrize(("distance", "message"), [(0, "same feature"), (1e-9, "rounding"), (1e-6, None)])
def test_collapsed_features_are_said(distance: float, message: str | None, recwarn: pytest.WarningsRecorder) -> None:
    """Equal features, and such as differ by rounding; a narrow cone is no fault."""
    query, gallery, labels = cone(distance, torch.float64)
    assert spread(gallery[:0], query[0]) == 0  # of a rank without tracklets
    warning_text = collapse(max(spread(query, query[0]), spread(gallery, query[0])))
    assert message in warning_text if message and warning_text else warning_text is message
    cmc_map(query, *labels[:2], gallery, *labels[2:])
    assert [str(warning.message) for warning in recwarn] == ([warning_text] if warning_text else [])


def test_equal_distances_are_said() -> None:
    """Also where they come from elsewhere."""
    with pytest.warns(UserWarning, match="all distances are equal"):
        cmc_map_from_distances(np.ones((1, 2)), [1], [0], [1, 2], [1, 1])
