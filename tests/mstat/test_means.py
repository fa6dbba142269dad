"""The mean of several evaluations."""

from __future__ import annotations

import pytest

from mstat.means import mean_of


def test_what_has_no_mean_is_not_made_up() -> None:
    """A score that one lacks is none; a baseline or stage that one lacks is left out; cameras are of no mean."""
    one = {"protocol": "official", "mAP": 0.5, "cmc": [0.5, 1.0], "baselines": {"HSV": {"mAP": 0.1}}, "cameras": [1]}
    other = {"protocol": "official", "mAP": None, "cmc": [0.7, 0.8], "baselines": None, "cameras": [2]}
    mean = mean_of([one, other])
    assert (mean["protocol"], mean["mAP"], mean["baselines"]) == ("official", None, {})
    assert mean["cmc"] == pytest.approx([0.6, 0.9])
    assert "cameras" not in mean


def test_distances_have_a_mean() -> None:
    """Those of Table VI, with the deviation of a sample."""
    both = [{"distances": {"cosine": {"intra": value, "inter": 1.0}}} for value in (0.2, 0.4)]
    found = mean_of(both)["distances"]["cosine"]
    assert found["intra"] == pytest.approx(0.3)
    assert found["sd"] == {"intra": pytest.approx(0.02**0.5), "inter": 0.0}
