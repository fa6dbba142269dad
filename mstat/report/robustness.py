"""Table and plot of robustness.json, which `mstat.evaluation.robustness` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mstat.report import figures, page
from mstat.report.run_reader import Folder
from mstat.report.scores import COLUMNS, cells, of_set, percent, warnings
from mstat.report.tables import Part, Row, Table

TITLES = {"num_frames": "test frames", "occlusion": "occluded area", "resolution": "height in pixels"}
FILE = "robustness.json"


def robustness(folder: Folder) -> str:
    """Return HTML with the plot; empty without a robustness.json."""
    if not (folder.run / FILE).is_file():
        return ""
    result = folder.json(FILE)
    if isinstance(result, str):
        return page.note(result)
    ends = [
        f"mAP {percent(points[0]['mAP'])} to {percent(points[-1]['mAP'])} % over {TITLES[sweep]} "
        f"from {value_label(sweep, points[0]['value'])} to {value_label(sweep, points[-1]['value'])}"
        for sweep, points in result["sweeps"].items()
        if points
    ]
    alt = f"Scores on degraded frames: {'; '.join(ends)}"
    remarks = " ".join([caption(result), *warnings(result)])
    panels = {
        TITLES[sweep]: [(value_label(sweep, point["value"]), point) for point in points]
        for sweep, points in result["sweeps"].items()
    }
    svg = figures.panels_figure(panels, {key: COLUMNS[key] for key in ("mAP", "rank1")})
    figure = folder.figure("robustness.svg", svg, alt, remarks)
    return f'<div class="scroll wide" tabindex="0">{figure}</div>'  # three panels: on a phone they scroll sideways


def table(result: Mapping[str, Any]) -> Table:
    """Return a table with a part for each sweep and a row for each point, in percent."""
    rows: list[Row | Part] = []
    for sweep, points in result["sweeps"].items():
        rows.append(Part(TITLES[sweep]))
        rows += [Row(f"  {value_label(sweep, point['value'])}", cells(point)) for point in points]
    title = f"Robustness, protocol {result['protocol']}{of_set(result)}"
    return Table(["", *COLUMNS.values()], rows, title, caption(result), warnings(result))


def caption(result: Mapping[str, Any]) -> str:
    """Return a sentence on how the frames were degraded."""
    base = result["base"]
    side = "queries only" if base["degrade"] == "queries" else "queries and gallery"
    frames = f"{base['num_frames']} frames" + " per clip, all clips" * (base["mode"] in ("clips", "stride"))
    return (
        f"In percent{of_set(result)}. Occlusion and resolution degrade the frames of {side}, with {frames} of each "
        "tracklet. The number of frames applies to queries and gallery."
    )


def value_label(sweep: str, value: float | None) -> str:
    """Return a value of a sweep as text that fits on an axis."""
    if value is None:
        return "stored"
    return f"{value:.0%}" if sweep == "occlusion" else f"{value:g}"
