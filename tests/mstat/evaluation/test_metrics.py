import math
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from pytorch_metric_learning.utils.inference import CustomKNN
from sklearn.metrics import average_precision_score

from mstat.evaluation.matches import make_pairs
from mstat.evaluation.metrics import cmc_map, cmc_map_from_distances, score
from mstat.evaluation.ranking import rank_positives

Side = tuple[np.ndarray, np.ndarray, np.ndarray]  # features, pids, camids


class Rules(TypedDict):
    """Keyword arguments of `cmc_map` that say what is ignored."""

    junk: np.ndarray
    same: np.ndarray


def sign_vectors(rng: np.random.Generator, num: int) -> np.ndarray:
    """Vectors of 16 signs: their cosines are multiples of 1/8, exact in fp32, so that ties are plenty and true."""
    return rng.choice([-1.0, 1.0], (num, 16)).astype(np.float32)


def random_case(seed: int) -> tuple[Side, Side, Rules]:
    """A small protocol with ties, junk, distractors, queries within the gallery, copies and hopeless queries."""
    rng = np.random.default_rng(seed)
    num_query, num_gallery = int(rng.integers(1, 9)), int(rng.integers(1, 60))
    query = sign_vectors(rng, num_query), rng.integers(0, 5, num_query), rng.integers(0, 3, num_query)
    gallery = sign_vectors(rng, num_gallery), rng.integers(-1, 5, num_gallery), rng.integers(0, 3, num_gallery)
    same = np.stack([rng.integers(0, num_query, 6), rng.integers(0, num_gallery, 6)], axis=1)
    return query, gallery, {"junk": (gallery[1] == -1) | (rng.random(num_gallery) < 0.1), "same": same}


class Expected(NamedTuple):
    """Scores of a query."""

    ap: float
    first: int
    inp: float
    trapezoidal: float


def trapezoidal(hits: list[bool]) -> float:
    """Average precision in the steps of MARS's compute_AP.m: an item at a time, from recall 0 and precision 1."""
    area, old_recall, old_precision, num_hits = 0.0, 0.0, 1.0, 0
    for seen, hit in enumerate(hits, 1):
        num_hits += hit
        recall, precision = num_hits / sum(hits), num_hits / seen
        area += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return area


def brute_force(query: Side, gallery: Side, junk: np.ndarray, same: np.ndarray) -> list[Expected | None]:
    """Scores of each query, None without a positive: one sorted list a query."""
    results: list[Expected | None] = []
    copies = {tuple(pair) for pair in np.asarray(same).tolist()}
    for q, (feature, pid, camid) in enumerate(zip(*query, strict=True)):
        nearest = sorted(range(len(gallery[1])), key=lambda g: (-float(feature @ gallery[0][g]), g))
        ignored = [junk[g] or (gallery[1][g] == pid and gallery[2][g] == camid) or (q, g) in copies for g in nearest]
        hits = [gallery[1][g] == pid for g, out in zip(nearest, ignored, strict=True) if not out]
        precisions = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
        if not precisions:
            results.append(None)
            continue
        last = len(hits) - hits[::-1].index(True)
        ap = sum(precisions) / len(precisions)
        results.append(Expected(ap, hits.index(True) + 1, len(precisions) / last, trapezoidal(hits)))
    return results


@pytest.mark.parametrize("seed", range(60))
def test_equals_sorting_every_query(seed: int) -> None:
    """Scores are those of a sorted list a query with ties by gallery index, for both rules on hopeless queries."""
    query, gallery, rules = random_case(seed)
    expected = brute_force(query, gallery, **rules)
    valid = [result for result in expected if result]
    if not valid:
        with pytest.raises(ValueError, match="nothing can be scored"):
            cmc_map(*query, *gallery, **rules)
        return
    counted: dict[Literal["skip", "zero"], int] = {"skip": len(valid), "zero": len(expected)}
    for no_positive, num_counted in counted.items():
        scores = cmc_map(*query, *gallery, **rules, no_positive=no_positive)
        for name, field in {"mAP": "ap", "mINP": "inp", "mAP_trapezoidal": "trapezoidal"}.items():
            total = sum(getattr(result, field) for result in valid)
            assert scores[name] == pytest.approx(total / num_counted, abs=1e-12)
        curve = [sum(result.first <= k for result in valid) / num_counted for k in range(1, 51)]
        assert scores["cmc"] == curve
        assert [scores[f"rank{k}"] for k in (1, 5, 10, 20)] == [curve[k - 1] for k in (1, 5, 10, 20)]
        assert (scores["num_query"], scores["num_valid_query"]) == (len(expected), len(valid))
        assert scores["num_gallery"] == (~rules["junk"]).sum()

    pairs = make_pairs(*query[1:], *gallery[1:], **rules)
    features = torch.as_tensor(query[0]), torch.as_tensor(gallery[0])
    each = score(pairs, rank_positives(*features, 0, pairs, tile=4))  # ties within a tile and across
    assert each.first_hit_Q.tolist() == [result[1] if result else 0 for result in expected]
    assert each.average_precision_Q.tolist() == pytest.approx([result[0] if result else 0 for result in expected])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64])
@pytest.mark.parametrize("seed", range(20))
def test_distances_give_what_features_give(seed: int, dtype: type[np.number]) -> None:
    """With ties, junk and copies, for distances of any type; they stay as they were."""
    query, gallery, rules = random_case(seed)
    distance = (7 - query[0] @ gallery[0].T).astype(dtype)  # whole numbers, exact in all of these
    before = distance.copy()
    try:
        expected = cmc_map(*query, *gallery, **rules)
    except ValueError:
        with pytest.raises(ValueError, match="nothing can be scored"):
            cmc_map_from_distances(distance, *query[1:], *gallery[1:], **rules)
    else:
        assert cmc_map_from_distances(distance, *query[1:], *gallery[1:], **rules) == expected
    assert np.array_equal(distance, before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_distances_that_are_not_finite_are_refused(value: float) -> None:
    """Neither NaN nor infinity turns into a score, not even where the item is no true match."""
    with pytest.raises(ValueError, match="not finite"):
        cmc_map_from_distances([[0.5, value]], [1], [0], [1, 2], [1, 1])


def test_distances_of_another_shape_are_refused() -> None:
    """A matrix that lies on its side, for instance."""
    with pytest.raises(ValueError, match=r"\(3, 1\), but there are 1 queries and 3"):
        cmc_map_from_distances(np.ones((3, 1)), [1], [0], [1, 2, 3], [1, 1, 1])


def without_ties(seed: int) -> tuple[Side, Side]:
    """Queries and gallery of 12 people in other cameras, with distractors, without equal similarities."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(13, 8))
    pids = rng.integers(1, 13, 40), rng.integers(0, 13, 200)
    query, gallery = ((centres[p] + rng.normal(size=(len(p), 8))).astype(np.float32) for p in pids)
    camids = rng.integers(0, 3, 40), rng.integers(0, 3, 200)
    return (query, pids[0], camids[0]), (gallery, pids[1], camids[1])


def cosines(query: Side, gallery: Side) -> np.ndarray:
    units = [side[0] / np.linalg.norm(side[0], axis=1, keepdims=True) for side in (query, gallery)]
    return units[0] @ units[1].T


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_scikit_learn(seed: int) -> None:
    """Query by query, over the items that it does not ignore."""
    query, gallery = without_ties(seed)
    pairs = make_pairs(*query[1:], *gallery[1:])
    scores = score(pairs, rank_positives(torch.from_numpy(query[0]), torch.from_numpy(gallery[0]), 0, pairs))
    for q, similarity in enumerate(cosines(query, gallery)):
        same = gallery[1] == query[1][q]
        kept = ~(same & (gallery[2] == query[2][q]))
        expected = average_precision_score(same[kept], similarity[kept])
        assert float(scores.average_precision_Q[q]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_pytorch_metric_learning(seed: int) -> None:
    """Its AccuracyCalculator knows no cameras, so queries and gallery have none in common."""
    query, gallery = without_ties(seed)
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision"),
        k=len(gallery[0]),
        knn_func=CustomKNN(CosineSimilarity()),
        device=torch.device("cpu"),
    )
    features_and_pids = [torch.from_numpy(values) for side in (query, gallery) for values in side[:2]]
    expected = calculator.get_accuracy(*features_and_pids)
    scores = cmc_map(query[0], query[1], query[2], gallery[0], gallery[1], gallery[2] + 3)
    assert scores["rank1"] == pytest.approx(expected["precision_at_1"], abs=1e-6)  # it averages in fp32
    assert scores["mAP"] == pytest.approx(expected["mean_average_precision"], abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_that_fast_reid_defines(seed: int) -> None:
    """CMC, mAP and mINP of fastreid/evaluation/rank.py, written anew from what it computes of a sorted list."""
    query, gallery = without_ties(seed)
    curves, precisions, penalties = [], [], []
    for q, similarity in enumerate(cosines(query, gallery)):
        same = gallery[1] == query[1][q]
        kept = np.flatnonzero(~(same & (gallery[2] == query[2][q])))
        hits = same[kept][np.argsort(-similarity[kept])]
        if not hits.any():
            continue  # fast-reid leaves such a query out, too
        number = hits.cumsum()
        curves.append(number[:50] > 0)
        precisions.append((number / np.arange(1, len(hits) + 1))[hits].mean())
        penalties.append(hits.sum() / (np.flatnonzero(hits)[-1] + 1))
    scores = cmc_map(*query, *gallery)
    assert scores["num_valid_query"] == len(curves)
    assert scores["cmc"] == pytest.approx(np.mean(curves, axis=0).tolist(), abs=1e-12)
    assert (scores["mAP"], scores["mINP"]) == pytest.approx((np.mean(precisions), np.mean(penalties)), abs=1e-12)


def on_circle(*degrees: float) -> np.ndarray:
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=np.float32)


def test_hand_computed() -> None:
    """Hits at ranks 1 and 3 give AP (1/1 + 2/3) / 2; a hit at rank 2 gives 1/2. Lengths of features do not matter."""
    scores = cmc_map(
        on_circle(0, 100) * 7, [1, 2], [0, 0], on_circle(10, 20, 30, 110) * [[9], [1], [2], [3]],
        [1, 2, 1, 9], [1, 1, 1, 1], ranks=(1, 2),
    )  # fmt: skip
    assert scores["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)
    assert (scores["rank1"], scores["rank2"], scores["cmc"][2]) == (0.5, 0.5, 1)


def test_rule_of_mars() -> None:
    """The query stands in the gallery and drops out with its camera; junk drops out; distractors stay."""
    pids, camids = [1, -1, 1, 0, 1], [1, 2, 1, 3, 2]  # the query, junk, same camera, distractor, the true match
    scores = cmc_map(
        on_circle(0), [1], [1], on_circle(0, 1, 2, 3, 4), pids, camids, junk=np.array(pids) == -1, ranks=(1, 2)
    )
    assert (scores["rank1"], scores["rank2"], scores["mAP"]) == (0, 1, 0.5)
    assert (scores["num_gallery"], scores["num_valid_query"]) == (4, 1)


def test_copies_are_ignored() -> None:
    """A copy of the query under another camera number is not a match, where `same` names it."""
    sides = on_circle(0), [1], [1], on_circle(0, 5, 9), [1, 2, 1], [2, 2, 3]
    assert cmc_map(*sides)["rank1"] == 1
    assert cmc_map(*sides, same=[(0, 0)])["rank1"] == 0


def test_of_equal_items_the_lower_index_is_nearer() -> None:
    """A true match ties with others on either side of it in the gallery."""
    for position in range(4):
        pids = [2] * 4
        pids[position] = 1
        assert cmc_map(on_circle(0), [1], [0], on_circle(9, 9, 9, 9), pids, [1] * 4)["mAP"] == 1 / (position + 1)


def test_arrays_and_tensors_give_the_same() -> None:
    """numpy arrays, half or full, and torch tensors are all taken."""
    query, gallery, rules = random_case(3)
    tensors = [torch.as_tensor(value) for value in (*query, *gallery)]
    half = [tensors[0].half(), *tensors[1:]]
    junk, same = torch.as_tensor(rules["junk"]), torch.as_tensor(rules["same"])
    expected = cmc_map(*query, *gallery, **rules)
    assert cmc_map(*tensors, junk=junk, same=same) == cmc_map(*half, **rules) == expected


@pytest.mark.parametrize("position", range(6))
def test_lengths_that_must_match_are_asserted(position: int) -> None:
    """One entry too few in any of the six sequences, or in junk, is refused with both numbers."""
    sides: list[Any] = [on_circle(0, 1), [1, 2], [0, 0], on_circle(0, 1, 2), [1, 2, 1], [1, 1, 1]]
    sides[position] = sides[position][:-1]
    with pytest.raises(ValueError, match=r"\d+ .*\d+"):
        cmc_map(*sides)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"junk": [True]}, "junk flags"),
        ({"same": [(0, 3)]}, "outside"),
        ({"same": [(-1, 0)]}, "outside"),
        ({"no_positive": "drop"}, "choose"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """Junk of another length, copies out of range and unknown words are named."""
    with pytest.raises(ValueError, match=message):
        cmc_map(on_circle(0, 1), [1, 2], [0, 0], on_circle(0, 1, 2), [1, 2, 1], [1, 1, 1], **options)


@pytest.mark.parametrize("side", [0, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(side: int, value: float) -> None:
    """NaN and infinity never turn into a score."""
    sides: list[Any] = [on_circle(0, 1), [1, 2], [0, 0], on_circle(0, 1, 2), [1, 2, 1], [1, 1, 1]]
    sides[side][1, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        cmc_map(*sides)


def test_no_queries_are_refused() -> None:
    """A protocol without queries is an error, not a score of 0 or NaN."""
    with pytest.raises(ValueError, match="none of 0 queries"):
        cmc_map(np.ones((0, 2)), [], [], on_circle(0), [1], [1])


def test_features_of_other_widths_are_refused() -> None:
    """Queries and gallery of two models are not compared."""
    with pytest.raises(ValueError, match="equal dimensions"):
        cmc_map(np.ones((1, 3)), [1], [0], np.ones((1, 4)), [1], [1])
