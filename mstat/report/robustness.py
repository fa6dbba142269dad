"""What `mstat.evaluation.robustness` found, to read and to look at. `found`: what a robustness.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from mstat.report import figures, page
from mstat.report.run_reader import Folder
from mstat.report.scores import COLUMNS, of_set, percent
from shards.text import markup

TITLES = {"num_frames": "test frames", "occlusion": "occluded area", "resolution": "height in pixels"}


FILE = "robustness.json"


def robustness(folder: Folder) -> str:
    """HTML of the plot; empty where launch/robustness.py was not asked."""
    if not (folder.run / FILE).is_file():
        return ""
    result = folder.json(FILE)
    if isinstance(result, str):
        return page.note(result)
    svg = robustness_figure(result)
    folder.save("robustness.svg", svg)
    ends = [
        f"mAP {percent(points[0]['mAP'])} to {percent(points[-1]['mAP'])} % over {TITLES[sweep]} "
        f"from {value_label(sweep, points[0]['value'])} to {value_label(sweep, points[-1]['value'])}"
        for sweep, points in result["sweeps"].items()
        if points
    ]
    figure = page.figure(svg, page.SVG, f"Scores under worse frames: {'; '.join(ends)}", caption(result))
    return f'<div class="scroll wide" tabindex="0">{figure}</div>'  # three panels: on a phone they scroll aside


def table(result: Mapping[str, Any]) -> Table:
    """For a terminal: a line a point, in percent."""
    title = f"Robustness, protocol {result['protocol']}{of_set(result)}"
    message = Table(title=markup(title), caption=markup(caption(result)))
    message.add_column("", no_wrap=True)
    for heading in COLUMNS.values():
        message.add_column(heading, justify="right", no_wrap=True)
    for sweep, points in result["sweeps"].items():
        message.add_section()
        message.add_row(TITLES[sweep], style="bold")
        for point in points:
            message.add_row(f"  {value_label(sweep, point['value'])}", *(percent(point[column]) for column in COLUMNS))
    return message


def caption(result: Mapping[str, Any]) -> str:
    """Return the remarks beside the numbers."""
    base = result["base"]
    owner = "queries, searched in a gallery of good frames" if base["degrade"] == "queries" else "queries and gallery"
    frames = f"{base['num_frames']} frames" + " a clip, all clips" * (base["mode"] == "clips")
    message = [
        f"In percent{of_set(result)}. Occlusion and resolution spoil the frames of {owner},",
        f"with {frames} of each tracklet;",
        "the number of frames is that of both.",
        *(f"Not comparable with published scores: {warning}." for warning in result["warnings"]),
    ]
    return " ".join(message)


def value_label(sweep: str, value: float | None) -> str:
    """A value of a sweep, short enough for an axis."""
    if value is None:
        return "stored"
    return f"{value:.0%}" if sweep == "occlusion" else f"{value:g}"


def markdown(result: Mapping[str, Any]) -> str:
    """For a file: a table a setting."""
    lines = ["# Robustness", "", caption(result), ""]
    for sweep, points in result["sweeps"].items():
        lines.append(f"| {TITLES[sweep]} |" + "".join(f" {heading} |" for heading in COLUMNS.values()))
        lines.append("|---|" + "---|" * len(COLUMNS))
        for point in points:
            cells = [value_label(sweep, point["value"]), *(percent(point[column]) for column in COLUMNS)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def robustness_figure(result: Mapping[str, Any]) -> bytes:
    """The plot of a robustness.json."""
    panels = {
        TITLES[sweep]: [(value_label(sweep, point["value"]), point) for point in points]
        for sweep, points in result["sweeps"].items()
    }
    return figures.panels_figure(panels, {key: COLUMNS[key] for key in ("mAP", "rank1")})
