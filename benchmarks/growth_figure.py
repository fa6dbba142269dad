"""The picture of growth.py: size against seconds, a small plot a series, both axes logarithmic."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mstat.report.figures import COLOURS, STYLE, TEXT

if TYPE_CHECKING:
    from growth import Series

COLUMNS = 4
PANEL_INCHES = (2.5, 2.3)
LEAST_SPAN = 8


def draw(series: Sequence[Series]) -> bytes:
    """An SVG of all series, COLUMNS in a row; what costs gives the colour."""
    titles = list(dict.fromkeys(one.title for one in series))
    rows = -(-len(series) // COLUMNS)
    with matplotlib.rc_context({**STYLE, "font.size": 8}):
        figure = Figure(figsize=(COLUMNS * PANEL_INCHES[0], rows * PANEL_INCHES[1]), layout="constrained")
        panels = figure.subplots(rows, COLUMNS, squeeze=False).flat
        for axes, one in zip(panels, series, strict=False):
            _panel(axes, one, COLOURS[titles.index(one.title) % len(COLOURS)])
        for axes in list(panels)[len(series) :]:
            axes.set_axis_off()
        figure.supylabel("seconds", color=TEXT)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _panel(axes: Axes, series: Series, colour: str) -> None:
    sizes, seconds = np.array(series.sizes, dtype=np.float64), np.array(series.seconds)
    fitted = np.zeros(len(sizes), dtype=bool)
    fitted[series.fitted] = True
    fit, ends = series.fit, sizes[fitted][[0, -1]]
    # Through the middle of the fitted line, so that only the slopes differ.
    middle = np.sqrt(ends.prod())
    expected = fit.factor * middle**fit.exponent * (ends / middle) ** series.expected
    axes.set(xscale="log", yscale="log", xlabel=series.axis)
    axes.set_title(f"{series.title}\nexponent {fit}, expected {series.expected:g}", fontsize=8, loc="left")
    axes.plot(ends, expected, color=TEXT, linestyle="--", linewidth=1.0)
    axes.plot(ends, fit.factor * ends**fit.exponent, color=colour, linewidth=1.6)
    axes.plot(sizes[fitted], seconds[fitted], color=colour, marker="o", markersize=4, linestyle="none")
    axes.plot(
        sizes[~fitted], seconds[~fitted], color=colour, marker="o", markersize=4, linestyle="none", fillstyle="none"
    )
    axes.margins(x=0.1)
    # A cost that stays must not look as if it leapt: an axis spans a factor of LEAST_SPAN at least.
    low, high = seconds.min(), seconds.max()
    room = max(1.3, (LEAST_SPAN * low / high) ** 0.5)
    axes.set_ylim(low / room, high * room)
    every = -(-len(sizes) // 4)
    axes.set_xticks(sizes[::-1][::every], [_short(size) for size in sizes[::-1][::every]])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _short(size: float) -> str:
    return f"{size / 1000:.0f}k" if size >= 1000 else f"{size:.0f}"
