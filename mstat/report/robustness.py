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
    found = folder.json(FILE)
    if isinstance(found, str):
        return page.note(found)
    svg = robustness_figure(found)
    folder.save("robustness.svg", svg)
    ends = [
        f"mAP {percent(points[0]['mAP'])} to {percent(points[-1]['mAP'])} % over {TITLES[sweep]} "
        f"from {value_label(sweep, points[0]['value'])} to {value_label(sweep, points[-1]['value'])}"
        for sweep, points in found["sweeps"].items()
        if points
    ]
    figure = page.figure(svg, page.SVG, f"Scores under worse frames: {'; '.join(ends)}", caption(found))
    return f'<div class="scroll wide" tabindex="0">{figure}</div>'  # three panels: on a phone they scroll aside


def table(found: Mapping[str, Any]) -> Table:
    """For a terminal: a line a point, in percent."""
    title = f"Robustness, protocol {found['protocol']}{of_set(found)}"
    told = Table(title=markup(title), caption=markup(caption(found)))
    told.add_column("", no_wrap=True)
    for heading in COLUMNS.values():
        told.add_column(heading, justify="right", no_wrap=True)
    for sweep, points in found["sweeps"].items():
        told.add_section()
        told.add_row(TITLES[sweep], style="bold")
        for point in points:
            told.add_row(f"  {value_label(sweep, point['value'])}", *(percent(point[column]) for column in COLUMNS))
    return told


def caption(found: Mapping[str, Any]) -> str:
    """What a reader must know beside the numbers."""
    base = found["base"]
    whose = "queries, searched in a gallery of good frames" if base["degrade"] == "queries" else "queries and gallery"
    frames = f"{base['num_frames']} frames" + " a clip, all clips" * (base["mode"] == "clips")
    told = [
        f"In percent{of_set(found)}. Occlusion and resolution spoil the frames of {whose},",
        f"with {frames} of each tracklet;",
        "the number of frames is that of both.",
        *(f"Not comparable with published scores: {warning}." for warning in found["warnings"]),
    ]
    return " ".join(told)


def value_label(sweep: str, value: float | None) -> str:
    """A value of a sweep, short enough for an axis."""
    if value is None:
        return "stored"
    return f"{value:.0%}" if sweep == "occlusion" else f"{value:g}"


def markdown(found: Mapping[str, Any]) -> str:
    """For a file: a table a setting."""
    lines = ["# Robustness", "", caption(found), ""]
    for sweep, points in found["sweeps"].items():
        lines.append(f"| {TITLES[sweep]} |" + "".join(f" {heading} |" for heading in COLUMNS.values()))
        lines.append("|---|" + "---|" * len(COLUMNS))
        for point in points:
            cells = [value_label(sweep, point["value"]), *(percent(point[column]) for column in COLUMNS)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def robustness_figure(found: Mapping[str, Any]) -> bytes:
    """The plot of a robustness.json."""
    panels = {
        TITLES[sweep]: [(value_label(sweep, point["value"]), point) for point in points]
        for sweep, points in found["sweeps"].items()
    }
    return figures.panels_figure(panels, {key: COLUMNS[key] for key in ("mAP", "rank1")})
