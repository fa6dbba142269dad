"""The mean of several evaluations."""

from __future__ import annotations

from typing import Any

import pytest

from mstat.errors import UserError
from mstat.report.averages import mean_of


def test_what_has_no_mean_is_not_made_up() -> None:
    """A score that one lacks is none; a baseline or stage that one lacks is left out; cameras are of no mean."""
    one = {"protocol": "official", "mAP": 0.5, "cmc": [0.5, 1.0], "baselines": {"HSV": {"mAP": 0.1}}, "cameras": [1]}
    other = {"protocol": "official", "mAP": None, "cmc": [0.7, 0.8], "baselines": None, "cameras": [2]}
    mean = mean_of([one, other])
    assert (mean["protocol"], mean["mAP"], mean["baselines"]) == ("official", None, {})
    assert mean["cmc"] == pytest.approx([0.6, 0.9])
    assert "cameras" not in mean


def test_a_new_score_has_a_mean() -> None:
    """Any number counts but settings and flags; lists of other things do not."""
    one = {
        "mINP": 0.25,
        "tpr": [0.5, 1.0],
        "num_frames": 4,
        "is_new": True,
        "warnings": ["a"],
        "cameras": [{"mAP": 1.0}],
    }
    mean = mean_of([one, one | {"mINP": 0.75}])
    assert (mean["mINP"], mean["tpr"], mean["num_frames"], mean["is_new"]) == (0.5, [0.5, 1.0], 4, True)
    assert mean["sd"] == {"mINP": pytest.approx(0.125**0.5)}


def test_distances_have_a_mean() -> None:
    """Those of Table VI, with the deviation of a sample."""
    both = [{"distances": {"cosine": {"intra": value, "inter": 1.0}}} for value in (0.2, 0.4)]
    distances = mean_of(both)["distances"]["cosine"]
    assert distances["intra"] == pytest.approx(0.3)
    assert distances["sd"] == {"intra": pytest.approx(0.02**0.5), "inter": 0.0}


def test_rates_and_groups_have_a_mean() -> None:
    """Those that all have; a rate that one cannot show is none, and intervals are of no mean."""
    one: dict[str, Any] = {
        "open_set": {"cosine": {"dir_at_0.1": 0.5, "dir_at_0.01": 0.4, "num_mated": 10, "intervals": {"x": [0, 1]}}}
    }
    one["by_matches"] = {"1": {"mAP": 0.5, "num_valid_query": 4, "intervals": {}}, "2": {"mAP": 0.1, "intervals": {}}}
    other: dict[str, Any] = {
        "open_set": {"cosine": {"dir_at_0.1": 0.7, "dir_at_0.01": None, "num_mated": 20, "intervals": {}}}
    }
    other["by_matches"] = {"1": {"mAP": 0.7, "num_valid_query": 4, "intervals": {}}}
    mean = mean_of([one, other])
    rates = mean["open_set"]["cosine"]
    assert rates["dir_at_0.1"] == pytest.approx(0.6)
    assert (rates["dir_at_0.01"], rates["num_mated"], list(rates["sd"])) == (None, 15, ["dir_at_0.1"])
    assert list(mean["by_matches"]) == ["1"]
    assert mean["by_matches"]["1"]["mAP"] == pytest.approx(0.6)
    assert "intervals" not in rates
    assert mean_of([one, {"mAP": 0.5}])["open_set"] == {}  # of an earlier version


def test_scores_after_reranking_have_a_mean_of_their_own() -> None:
    """If all have them with equal settings; otherwise none, and the other scores are averaged as ever."""
    settings = {"rerank": "k-reciprocal", "rerank_k1": 20}
    both = [{"mAP": 0.1, "reranked": {"settings": settings, "mAP": value, "intervals": {}}} for value in (0.2, 0.4)]
    mean = mean_of(both)
    assert mean["mAP"] == 0.1
    assert mean["reranked"] == {
        "settings": settings,
        "mAP": pytest.approx(0.3),
        "sd": {"mAP": pytest.approx(0.02**0.5)},
    }
    for other in ({"mAP": 0.3}, {"mAP": 0.3, "reranked": {"settings": {"expansion": 2}, "mAP": 0.9}}):
        mean = mean_of([both[0], other])
        assert mean["mAP"] == pytest.approx(0.2)
        assert "reranked" not in mean


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"dataset": {"name": "b", "checksum": "2"}}, "data set"),
        ({"protocol": "other"}, "protocol"),
        ({"eval": {"occlusion": 0.5}}, "occlusion"),
        ({"num_frames": 8}, "frames of a tracklet"),
    ],
)
def test_what_is_not_comparable_has_no_mean(other: dict[str, Any], words: str) -> None:
    """Two data sets, protocols or settings are never one number; two splits are."""
    one = {"dataset": {"name": "a", "checksum": "1"}, "protocol": "p", "split": "0", "rank1": 0.5}
    one |= {"num_frames": 4, "eval": {"occlusion": 0.0}}
    assert mean_of([one, one | {"split": "1", "rank1": 0.7}])["rank1"] == pytest.approx(0.6)
    with pytest.raises(UserError, match=f"scores of different {words} cannot be averaged"):
        mean_of([one, one | other])
