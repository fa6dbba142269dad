"""Figures of a run as SVG: losses, learning rate, CMC.

Drawn on nothing (transparent) in mid tones, so that one picture reads on white paper and on a dark screen; sized for
the width of a phone, so that lettering stays legible there. matplotlib is imported when a figure is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, GRID = "#7b818c", "#8a909b"
COLOURS = ("#3b82d6", "#e07b1f", "#22a06b", "#a764d8", "#d64f7f", "#8a8f2a")
SIZE_INCHES = (4.6, 2.9)
WIDE_INCHES = (9.0, 2.9)
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": GRID,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,  # a `$` in a name is a `$`
    "svg.hashsalt": "mstat",  # the same run gives the same bytes
}

Records = Sequence[Mapping[str, Any]]


def loss_terms(records: Records) -> dict[str, list[str]]:
    """Term -> the stages that have it, from the keys `loss/<stage>/<term>` of the records."""
    terms: dict[str, list[str]] = {}
    for key in {key: None for record in records for key in record}:
        match key.split("/", 2):
            case ["loss", stage, term]:
                terms.setdefault(term, []).append(stage)
    return terms


def loss_figure(records: Records, term: str | None = None) -> bytes:
    """The loss over steps, each step thin and a running mean thick: the total, or one term with a line a stage."""
    keys = {"": "loss"} if term is None else {stage: f"loss/{stage}/{term}" for stage in loss_terms(records)[term]}

    def draw(axes: Axes) -> None:
        for colour, (stage, key) in zip(COLOURS, keys.items(), strict=False):
            steps, values = _series(records, key)
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(steps, smooth(values), color=colour, linewidth=1.8, label=f"Stage {stage}")
        axes.set(xlabel="step", ylabel="loss" if term is None else term.replace("_", " "))
        axes.set_ylim(bottom=0)
        if term is not None:
            axes.legend()

    return _svg(draw)


def learning_rate_figure(records: Records) -> bytes:
    """The learning rate over steps."""

    def draw(axes: Axes) -> None:
        axes.plot(*_series(records, "lr"), color=COLOURS[0], linewidth=1.8)
        axes.set(xlabel="step", ylabel="learning rate")
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))

    return _svg(draw)


def cmc_figure(curves: Mapping[str, Sequence[float]]) -> bytes:
    """Cumulative matching characteristic: share of queries with a right match among the first k, in percent.

    Args:
        curves: Name -> its values (fractions) at ranks 1, 2, ...; the first is drawn as the main one.
    """

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(curves.items()):
            axes.plot(
                np.arange(1, len(values) + 1),
                100 * np.asarray(values, dtype=np.float64),
                color=COLOURS[index % len(COLOURS)],
                linewidth=2.2 if index == 0 else 1.3,
                linestyle="-" if index == 0 else ("--", "-.", ":")[(index - 1) % 3],
                label=name,
            )
        axes.set(xlabel="rank", ylabel="queries matched (%)", ylim=(0, 102), xticks=(1, 5, 10, 20, 30, 40, 50))
        axes.legend(loc="lower right")

    return _svg(draw)


def sweep_figure(found: Mapping[str, Any], varied: str) -> bytes:
    """Scores of an experiment (`mstat.reproduce.results`) over its rows, in percent, with their standard deviation.

    The paper's own points, of its data set, are hollow.
    """
    rows = found["rows"]

    def draw(axes: Axes) -> None:
        for colour, column in zip(COLOURS, found["columns"], strict=False):
            means = np.array([row["ours"][column]["mean"] or np.nan for row in rows])
            deviations = [row["ours"][column]["sd"] or 0.0 for row in rows]
            axes.errorbar(
                range(len(rows)), means, deviations, color=colour, marker="o", markersize=4, capsize=3, label=column
            )
            papers = [row["paper"].get(column, np.nan) for row in rows]
            axes.plot(range(len(rows)), papers, color=colour, marker="D", fillstyle="none", linestyle="none")
        axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=30, ha="right")
        axes.set(xlabel=varied, ylabel="score (%)")
        axes.plot([], [], color=TEXT, marker="D", fillstyle="none", linestyle="none", label=_paper_label(found))
        axes.legend(fontsize=8)

    return _svg(draw)


def panels_figure(panels: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]], lines: Mapping[str, str]) -> bytes:
    """Scores in percent over several settings: panels side by side, one axis of scores, values evenly spaced.

    Args:
        panels: Label of a setting -> (its value as a tick, scores as fractions).
        lines: Score -> its name; one that all points lack (a protocol without mAP) is left out.
    """

    def draw(*all_axes: Axes) -> None:
        for number, (axes, (label, points)) in enumerate(zip(all_axes, panels.items(), strict=True)):
            for index, (key, name) in enumerate(lines.items()):
                values = np.array([np.nan if scores[key] is None else 100 * scores[key] for _, scores in points])
                if np.isfinite(values).any():
                    marker = "os"[index % 2]
                    axes.plot(range(len(points)), values, label=name, color=COLOURS[index], marker=marker, markersize=4)
            axes.set_xticks(range(len(points)), [tick for tick, _ in points])
            axes.set(xlabel=label, ylim=(0, 102))
            axes.margins(x=0.08)
            if number == 0:
                axes.set_ylabel("score (%)")
                axes.legend(loc="lower right")

    return _svg(draw, len(panels), WIDE_INCHES)


def _paper_label(found: Mapping[str, Any]) -> str:
    return f"paper, {found['paper_dataset']}"


def similarity_figure(matrix: np.ndarray) -> bytes:
    """Cosine similarity of every two proxies (Fig. 10), (A, A)."""

    def draw(axes: Axes) -> None:
        largest = max(float(np.abs(matrix[~np.eye(len(matrix), dtype=bool)]).max(initial=0.0)), 0.05)
        mesh = axes.pcolormesh(matrix, cmap="PuOr", vmin=-largest, vmax=largest)  # the diagonal, 1, is off the scale
        axes.set(xlabel="proxy", ylabel="proxy", aspect="equal")
        axes.invert_yaxis()
        axes.grid(False)
        colour_bar = axes.figure.colorbar(mesh, ax=axes)
        colour_bar.set_label("cosine similarity")
        colour_bar.outline.set_visible(False)

    return _svg(draw)


def embedding_figure(points: np.ndarray, pids: np.ndarray) -> bytes:
    """Tracklets in the plane (Fig. 12), (n, 2), each identity in a colour and with its number at its middle."""

    def draw(axes: Axes) -> None:
        for order, pid in enumerate(np.unique(pids)):
            mine = points[pids == pid]
            colour = COLOURS[order % len(COLOURS)]
            marker = "osD^v"[order // len(COLOURS) % 5]
            axes.scatter(mine[:, 0], mine[:, 1], s=9, color=colour, marker=marker, linewidths=0)
            axes.annotate(str(pid), mine.mean(axis=0), fontsize=6, ha="center", va="center")
        axes.set(xticks=[], yticks=[])

    return _svg(draw)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a 25th of the series; gaps (not finite) are left out of the mean."""
    if not len(values):
        return values
    window = np.ones(2 * (len(values) // 50) + 1)
    finite = np.isfinite(values)
    total = np.convolve(np.where(finite, values, 0.0), window)
    count = np.convolve(finite.astype(np.float64), window)
    half = len(window) // 2
    inside = slice(half, half + len(values))
    return np.where(count[inside] > 0.5, total[inside] / np.maximum(count[inside], 1), np.nan)


def _series(records: Records, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records that hold the key; what is not finite becomes a gap."""
    points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, np.where(np.isfinite(values), values, np.nan)


def _svg(draw: Callable[..., None], num_panels: int = 1, size: tuple[float, float] = SIZE_INCHES) -> bytes:
    """Picture of what `draw` puts on its axes, of which it gets one for each panel."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: no backend to choose, no figure kept alive

    with matplotlib.rc_context(STYLE):
        figure: Figure = Figure(figsize=size, layout="constrained")
        draw(*figure.subplots(1, num_panels, sharey=True, squeeze=False).flat)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
