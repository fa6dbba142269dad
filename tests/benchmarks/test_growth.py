"""The fit of growth: exponents, their intervals, and the table of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import growth


@pytest.mark.parametrize("exponent", [-1.0, 0.1, 1.0, 2.0])
def test_a_power_law_is_found(exponent: float) -> None:
    """The exponent of points on the law, with no width; two points have no interval."""
    sizes = [4, 8, 16, 32]
    fit = growth.power_law(sizes, [0.3 * size**exponent for size in sizes])
    assert fit == pytest.approx((exponent, 0), abs=1e-6)
    assert math.isnan(growth.power_law(sizes[:2], [1.0, 2.0]).error)


def test_the_interval_holds_the_exponent() -> None:
    """Of noisy points, in 95 % of the draws."""
    rng = np.random.default_rng(0)
    sizes = [4, 8, 16, 32, 64]
    fits = [growth.power_law(sizes, np.array(sizes) * np.exp(rng.normal(0, 0.1, 5))) for _ in range(1000)]
    assert 0.93 < np.mean([abs(fit.exponent - 1) < fit.error for fit in fits]) < 0.97


def test_the_table_shows_what_is_fitted() -> None:
    """Points before `fitted` change no exponent; the table names series, fitted sizes and points."""
    series = growth.Series("step", "rows", (1, 10, 100, 1000), (5.0, 5.0, 10.0, 100.0), 1, slice(2, None))
    assert series.fit.exponent == pytest.approx(1)
    points = "1: 5, 10: 5, 100: 10, 1,000: 100"
    assert f"| step, rows | 100 to 1,000 | 1 | **1.00** | {points} |" in growth.growth_table([series])
