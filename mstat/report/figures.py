"""Figures of one or several runs as SVG: curves over steps, CMC, matrices, t-SNE.

Mid tones on a transparent background are readable on white paper and on a dark screen; the size fits the width of a
phone. matplotlib is imported only when a figure is drawn.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT, GRID = "#7b818c", "#8a909b"
COLOURS = ("#3b82d6", "#e07b1f", "#22a06b", "#a764d8", "#d64f7f", "#8a8f2a")
DASHES = ("-", "--", "-.", ":")
SIZE_INCHES = (4.6, 2.9)
WIDE_INCHES = (9.0, 2.9)
WIDEST_INCHES = 5.5  # of a figure that is readable at half the width of a page
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
    "text.parse_math": False,  # show a `$` in a name as it is
    "svg.hashsalt": "mstat",  # equal data must give equal bytes
}

Records = Sequence[Mapping[str, Any]]


def loss_terms(records: Records) -> dict[str, list[str]]:
    """Return term -> stages that have it, from the keys `loss/<stage>/<term>` of the records."""
    terms: dict[str, list[str]] = {}
    for key in {key: None for record in records for key in record}:
        match key.split("/", 2):
            case ["loss", stage, term]:
                terms.setdefault(term, []).append(stage)
    return terms


def loss_figure(records: Records, term: str | None = None) -> bytes:
    """Draw the loss over steps (thin) and its running mean (thick): the total, or one term with a line per stage."""
    keys = {"": "loss"} if term is None else {stage: f"loss/{stage}/{term}" for stage in loss_terms(records)[term]}

    def draw(axes: Axes) -> None:
        for colour, (stage, key) in zip(COLOURS, keys.items(), strict=False):
            steps, values = _series(records, key)
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.35)
            axes.plot(steps, smooth(values), color=colour, linewidth=1.8, label=f"Stage {stage}")
        axes.set(xlabel="step", ylabel="loss" if term is None else term.replace("_", " "), ylim=(0, None))
        if term is not None:
            axes.legend()

    return _svg(draw)


def learning_rate_figure(records: Records) -> bytes:
    """Draw the learning rate over steps."""

    def draw(axes: Axes) -> None:
        axes.plot(*_series(records, "lr"), color=COLOURS[0], linewidth=1.8)
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))

    return _svg(draw)


def scores_figure(records: Records) -> bytes:
    """Draw mAP (if the protocol has it) and rank-1 in percent, at the steps evaluated during training."""

    def draw(axes: Axes) -> None:
        for colour, (key, label) in zip(COLOURS, (("mAP", "mAP"), ("rank1", "rank-1")), strict=False):
            steps, values = _series(records, key)
            if len(steps):
                axes.plot(steps, 100 * values, color=colour, linewidth=1.8, marker="o", markersize=3, label=label)
        axes.set(xlabel="step", ylabel="score (%)")
        axes.legend()

    return _svg(draw)


def compared_figure(groups: Mapping[str, Sequence[Records]], key: str, quantity: str, scale: float = 1) -> bytes:
    """Draw running means of one quantity of several runs over steps; runs of a group share line style and label."""

    def draw(axes: Axes) -> None:
        for index, (name, runs) in enumerate(groups.items()):
            for records in runs:
                steps, values = _series(records, key)
                look = _look(index) | {"label": name if records is runs[0] else None}
                marker = "o" if len(steps) < 25 else ""  # a line through a single point is invisible
                axes.plot(steps, scale * smooth(values), linewidth=1.4, marker=marker, markersize=3, **look)
        axes.set(xlabel="step", ylabel=quantity, ylim=(0, None))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axes.legend(fontsize=8)

    return _svg(draw)


def cmc_figure(curves: Mapping[str, Sequence[float]], equals: bool = False) -> bytes:
    """Draw the cumulative matching characteristic: queries with a true match among the first k, in percent.

    Args:
        curves: Name -> values (fractions) at ranks 1, 2, ...; an empty curve is not drawn.
        equals: Draw all curves alike; otherwise the first is emphasised.
    """
    lowest = min(min(values) for values in curves.values() if values)

    def draw(axes: Axes) -> None:
        for index, (name, values) in enumerate(curves.items()):
            if not values:
                continue
            axes.plot(
                np.arange(1, len(values) + 1),
                100 * np.asarray(values, dtype=np.float64),
                linewidth=1.6 if equals else 1.3 if index else 2.2,
                label=name,
                **(_look(index) if equals or not index else _look(index) | {"linestyle": DASHES[1 + (index - 1) % 3]}),
            )
        # High curves would overlap on an axis from 0.
        bottom = max(0, 10 * int(10 * lowest - 0.5)) if lowest > 0.5 else 0
        axes.set(xlabel="rank", ylabel="queries matched (%)", xticks=(1, 5, 10, 20, 30, 40, 50))
        axes.set_ylim(bottom, 100 + (100 - bottom) / 50)
        axes.legend(fontsize=8 if equals else 10)

    return _svg(draw)


def roc_figure(fpr: Sequence[float], tpr: Sequence[float]) -> bytes:
    """Draw TPR over FPR, a logarithmic axis, in percent."""

    def draw(axes: Axes) -> None:
        axes.plot(100 * np.asarray(fpr, float), 100 * np.asarray(tpr, float), color=COLOURS[0], linewidth=1.8)
        axes.set(xlabel="pairs of two persons accepted (FPR, %)", ylabel="of one person (TPR, %)", xscale="log")
        axes.set_ylim(0, 101)
        axes.xaxis.set_major_formatter("{x:g}")  # the usual powers of ten need parsed math

    return _svg(draw)


def camera_figure(matrix: np.ndarray, requested: Sequence[int], searched: Sequence[int]) -> bytes:
    """Draw rank-1 (fractions, NaN for none) of each camera's queries in each gallery camera.

    Args:
        matrix: Rank-1, (requested, searched).
    """

    def draw(axes: Axes) -> None:
        texts = [["" if np.isnan(share) else f"{100 * share:.0f}" for share in row] for row in matrix]
        mesh = _score_fields(axes, matrix, texts, 9 if len(requested) < 9 else 6)
        axes.set_xticks(range(len(searched)), map(str, searched))
        axes.set_yticks(range(len(requested)), map(str, requested))
        axes.set(xlabel="camera searched", ylabel="camera of the query")
        _as_matrix(axes, mesh, "rank-1 (%)")

    return _svg(draw)


class Field(NamedTuple):
    """Field of `cross_figure`: a score and its standard deviation (fractions), and whether it is of the own set."""

    score: float | None = None
    sd: float | None = None
    is_own: bool = False


def cross_figure(
    panels: Mapping[str, Sequence[Sequence[Field]]], rows: Sequence[str], columns: Sequence[str]
) -> tuple[bytes, bool]:
    """Draw scores of runs (rows) on data sets (columns), a panel for each kind of score; own sets are outlined.

    Returns:
        The SVG, and whether it is wider than half a page.
    """
    names = [shorten(name, 30) for name in rows]
    labels = ["\n".join(textwrap.wrap(shorten(label, 44), 12)) for label in columns]
    is_beside = len(columns) <= 3  # panels beside each other; otherwise one above the other
    width = 0.4 + 0.085 * max(map(len, names)) + 0.95 * len(columns) * (len(panels) if is_beside else 1)
    height = 0.5 + 0.17 * max(label.count("\n") + 1 for label in labels) + 0.5 * len(rows)
    heights = height * (1 if is_beside else len(panels))

    def draw(*all_axes: Axes) -> None:
        for axes, (title, fields) in zip(all_axes, panels.items(), strict=True):
            matrix = np.array([[np.nan if field.score is None else field.score for field in row] for row in fields])
            _score_fields(axes, matrix, [[_field_text(field) for field in row] for row in fields], 9)
            for row, column in np.ndindex(matrix.shape):
                if fields[row][column].is_own:
                    _outline(axes, row, column)
            axes.set_title(title, fontsize=10, loc="left")
            axes.set_xticks(range(len(columns)), labels, fontsize=8)
            axes.set_yticks(range(len(rows)), names, fontsize=9)
            _as_matrix(axes)

    is_wide = width > WIDEST_INCHES
    size = max(width, WIDE_INCHES[0] if is_wide else 3.0), heights
    return _svg(draw, len(panels), size, stacked=not is_beside), is_wide


def _field_text(field: Field) -> str:
    if field.score is None:
        return "–"
    return f"{100 * field.score:.1f}" + (f"\n± {100 * field.sd:.1f}" if field.sd is not None else "")


def _outline(axes: Axes, row: int, column: int) -> None:
    """Outline a field: orange between dark lines, which stands out from all colours of the fields."""
    from matplotlib.patches import Rectangle

    for colour, width in (("#10131a", 5), (COLOURS[1], 2.5)):
        place = column - 0.46, row - 0.45
        axes.add_patch(Rectangle(place, 0.92, 0.9, fill=False, edgecolor=colour, linewidth=width, joinstyle="miter"))


def _score_fields(axes: Axes, matrix: np.ndarray, texts: Sequence[Sequence[str]], size: int) -> Any:
    """Draw scores (fractions) as coloured fields with texts; a field without a score has no colour."""
    places = range(matrix.shape[1]), range(matrix.shape[0])
    mesh = axes.pcolormesh(*places, 100 * matrix, cmap="viridis", vmin=0, vmax=100)
    for row, column in np.ndindex(matrix.shape):
        score = float(matrix[row, column])
        tone = TEXT if np.isnan(score) else "#ffffff" if score < 0.6 else "#10131a"
        axes.text(column, row, texts[row][column], ha="center", va="center", color=tone, fontsize=size)
    return mesh


def shorten(text: str, most: int) -> str:
    """Return a text of at most `most` characters; the middle is left out, since names differ at both ends."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


def sweep_figure(result: Mapping[str, Any], varied: str) -> bytes:
    """Draw the scores of an experiment (`mstat.paper.reproduce.results`) over its rows, with standard deviations.

    Hollow points are the paper's, on its data set.
    """
    rows = result["rows"]

    def draw(axes: Axes) -> None:
        for colour, column in zip(COLOURS, result["columns"], strict=False):
            means = np.array([row["ours"][column]["mean"] or np.nan for row in rows])
            deviations = [row["ours"][column]["sd"] or 0.0 for row in rows]
            axes.errorbar(
                range(len(rows)), means, deviations, color=colour, marker="o", markersize=4, capsize=3, label=column
            )
            papers = [row["paper"].get(column, np.nan) for row in rows]
            axes.plot(range(len(rows)), papers, color=colour, marker="D", fillstyle="none", linestyle="none")
        axes.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=30, ha="right")
        axes.set(xlabel=varied, ylabel="score (%)")
        label = f"paper, {result['paper_dataset']}"
        axes.plot([], [], color=TEXT, marker="D", fillstyle="none", linestyle="none", label=label)
        axes.legend(fontsize=8)

    return _svg(draw)


def panels_figure(panels: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]], lines: Mapping[str, str]) -> bytes:
    """Draw scores in percent over several settings, in panels that share the score axis; values are evenly spaced.

    Args:
        panels: Label of a setting -> (value as a tick, scores as fractions).
        lines: Score -> label; a score that no point has (mAP in some protocols) is left out.
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


def similarity_figure(matrix: np.ndarray) -> bytes:
    """Draw the cosine similarity of all pairs of proxies (Fig. 10), (A, A)."""

    def draw(axes: Axes) -> None:
        largest = max(float(np.abs(matrix[~np.eye(len(matrix), dtype=bool)]).max(initial=0.0)), 0.05)
        places = range(len(matrix))
        # The diagonal (1) exceeds the scale.
        mesh = axes.pcolormesh(places, places, matrix, cmap="PuOr", vmin=-largest, vmax=largest)
        ticks = places[:: 1 + len(places) // 13]
        axes.set(xlabel="proxy", ylabel="proxy", aspect="equal", xticks=ticks, yticks=ticks)
        _as_matrix(axes, mesh, "cosine similarity")

    return _svg(draw)


def embedding_figure(points: np.ndarray, pids: np.ndarray) -> bytes:
    """Draw the t-SNE of tracklets (Fig. 12), (n, 2), with a colour and a label for each identity."""

    def draw(axes: Axes) -> None:
        for order, pid in enumerate(np.unique(pids)):
            mine = points[pids == pid]
            colour = COLOURS[order % len(COLOURS)]
            marker = "osD^v"[order // len(COLOURS) % 5]
            axes.scatter(mine[:, 0], mine[:, 1], s=11, color=colour, marker=marker, linewidths=0, alpha=0.8)
            # An outlier does not move the median, so the label stays at the other tracklets.
            place = np.median(mine, axis=0)
            axes.annotate(str(pid), place, (0, 4), textcoords="offset points", fontsize=7, ha="center")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)

    return _svg(draw)


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the centred running mean over 1/25 of the series, without values that are not finite."""
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
    """Return steps and values of the records that have the key; values that are not finite become NaN."""
    points = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return steps, np.where(np.isfinite(values), values, np.nan)


def _look(index: int) -> dict[str, Any]:
    """Return colour and dashes of the curve with this index; colours repeat with other dashes."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index // len(COLOURS) % len(DASHES)]}


def _as_matrix(axes: Axes, mesh: Any = None, label: str = "") -> None:
    """Format axes as a matrix: first row on top, no grid; with a mesh, a colour bar."""
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if mesh is None:
        return
    bar = axes.figure.colorbar(mesh, ax=axes)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _svg(
    draw: Callable[..., None],
    num_panels: int = 1,
    size: tuple[float, float] = SIZE_INCHES,
    stacked: bool = False,
) -> bytes:
    """Return an SVG figure; `draw` receives the axes of each panel. Panels lie beside each other, or are stacked."""
    import matplotlib
    from matplotlib.figure import Figure  # pyplot would choose a backend and keep figures alive

    with matplotlib.rc_context(STYLE):
        figure: Figure = Figure(figsize=size, layout="constrained")
        grid = (num_panels, 1) if stacked else (1, num_panels)
        draw(*figure.subplots(*grid, sharex=stacked, sharey=not stacked, squeeze=False).flat)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
