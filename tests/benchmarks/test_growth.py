"""The fit of growth: what is drawn and told beside the points."""

from __future__ import annotations

import math
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.conftest import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import growth
from growth_figure import draw


@pytest.mark.parametrize("exponent", [-1.0, 0.1, 1.0, 2.0])
def test_a_power_law_is_found(exponent: float) -> None:
    """Exponent and factor of points on the law, with no width; two points have no interval."""
    sizes = [4, 8, 16, 32]
    fit = growth.power_law(sizes, [0.3 * size**exponent for size in sizes])
    assert fit == pytest.approx((exponent, 0, 0.3), abs=1e-6)
    assert math.isnan(growth.power_law(sizes[:2], [1.0, 2.0]).error)


def test_the_interval_holds_the_exponent() -> None:
    """Of noisy points, in 95 % of the draws."""
    rng = np.random.default_rng(0)
    sizes = [4, 8, 16, 32, 64]
    fits = [growth.power_law(sizes, np.array(sizes) * np.exp(rng.normal(0, 0.1, 5))) for _ in range(1000)]
    assert 0.93 < np.mean([abs(fit.exponent - 1) < fit.error for fit in fits]) < 0.97


def test_what_is_fitted_is_told() -> None:
    """Points before `fitted` change no exponent; picture and record name every series and its exponent."""
    series = growth.Series("step", "rows", (1, 10, 100, 1000), (5.0, 5.0, 10.0, 100.0), 1, "why not", slice(2, None))
    assert series.fit.exponent == pytest.approx(1)
    picture = draw([series]).decode()
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert "| step, rows | 100 to 1,000 | 1 | **1.00** | why not |" in growth.report([series])
