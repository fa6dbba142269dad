"""ROC curve of the search page: an inline SVG in which each measured threshold is a link that chooses it.

An evaluation keeps the thresholds of a few points of the curve. A threshold between two of them lies somewhere on the
curve between these points, and that part of the curve is marked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mstat.report.page import escape
from mstat.search.threshold import Measured

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 40
LEAST_FPR = 1e-4  # left end of the logarithmic axis


def x_of(fpr: float) -> float:
    """Return the place of an FPR, in pixels."""
    decades = -math.log10(LEAST_FPR)
    share = 1 + math.log10(max(fpr, LEAST_FPR)) / decades
    return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)


def y_of(tpr: float) -> float:
    """Return the place of a TPR, in pixels."""
    return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - tpr), 1)


def svg(measured: Measured, threshold: float | None, link: Callable[[float], str]) -> str:
    """Return the curve as HTML.

    Args:
        threshold: Chosen threshold, which is marked; None marks nothing.
        link: Returns the address of the page with another threshold.
    """
    parts = [
        f'<svg class="roc" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="ROC curve">',
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" class="middle">FPR, %</text>',
        f'<text x="12" y="{(TOP + HEIGHT - BOTTOM) / 2}" class="middle up">TPR, %</text>',
    ]
    for exponent in range(-4, 1):
        place = x_of(10.0**exponent)
        parts.append(f'<path class="grid" d="M{place} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{place}" y="{HEIGHT - BOTTOM + 15}" class="middle">{100 * 10.0**exponent:g}</text>')
    for tpr in (0.0, 0.5, 1.0):
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(tpr) + 4}" class="end">{100 * tpr:g}</text>')
    parts.append(f'<polyline class="curve" points="{_points(measured.curve)}"/>')
    if threshold is not None and (part := _around(measured, threshold)):
        parts.append(f'<polyline class="chosen" points="{_points(part)}"/>')
    for point in measured.points:
        kind = ' class="chosen"' if threshold == point.threshold else ""
        title = f"threshold {point.threshold:.4f}: TPR {100 * point.tpr:.4g} %, FPR at most {100 * point.fpr:g} %"
        parts.append(
            f'<a href="{escape(link(point.threshold))}" aria-label="{escape(title)}"><title>{escape(title)}</title>'
            f'<circle{kind} cx="{x_of(point.fpr)}" cy="{y_of(point.tpr)}" r="6"/></a>'
        )
    return "".join(parts) + "</svg>"


def _around(measured: Measured, threshold: float) -> list[tuple[float, float]]:
    """Return the part of the curve on which a threshold lies, between the measured points beside it."""
    if any(point.threshold == threshold for point in measured.points):
        return []
    high = min((point.fpr for point in measured.points if point.threshold < threshold), default=1.0)
    low = max((point.fpr for point in measured.points if point.threshold > threshold), default=0.0)
    return [(fpr, tpr) for fpr, tpr in measured.curve if low * 0.999 <= fpr <= high * 1.001]


def _points(curve: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x_of(fpr)},{y_of(tpr)}" for fpr, tpr in curve)
