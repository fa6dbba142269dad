"""Table and plot of robustness.json, which `mstat.evaluation.robustness` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mstat.config import EvalConfig
from mstat.report import figures, page
from mstat.report.run_reader import Folder
from mstat.report.scores import HEADINGS, cells, of_set, percent, warnings
from mstat.report.tables import Part, Row, Table
from mstat.runs.scored_set import DECIDING, DEGRADATIONS

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
    svg = figures.panels_figure(panels, {key: HEADINGS[key] for key in ("mAP", "rank1")})
    figure = folder.figure("robustness.svg", svg, alt, remarks)
    return f'<div class="scroll wide" tabindex="0">{figure}</div>'  # three panels: on a phone they scroll sideways


def table(result: Mapping[str, Any]) -> Table:
    """Return a table with a part for each sweep and a row for each point, in percent."""
    rows: list[Row | Part] = []
    for sweep, points in result["sweeps"].items():
        rows.append(Part(TITLES[sweep]))
        rows += [Row(f"  {value_label(sweep, point['value'])}", cells(point)) for point in points]
    title = f"Robustness, protocol {result['protocol']}{of_set(result)}"
    return Table(["", *HEADINGS.values()], rows, title, caption(result), warnings(result))


def caption(result: Mapping[str, Any]) -> str:
    """Return sentences on how the frames were degraded, and on the settings that all rows share."""
    base = result["base"]
    degradations = " and ".join(TITLES[name] for name in result["sweeps"] if name in DEGRADATIONS)
    side = "queries only" if base["degrade"] == "queries" else "queries and gallery"
    frames = f"{base['num_frames']} frames" + " per clip, all clips" * (base["mode"] in ("clips", "stride"))
    shared = {name: base.get(name) for name in DECIDING if name not in (*TITLES, "mode", "degrade")}
    unusual = [
        f"eval.{name} {value}" for name, value in shared.items() if value not in (None, getattr(EvalConfig(), name))
    ]
    remark = f" In all rows: {', '.join(unusual)}." if unusual else ""
    return (
        f"In percent{of_set(result)}. The rows of {degradations} degrade the frames of {side}, with {frames} of each "
        f"tracklet. The rows of {TITLES['num_frames']} take that many intact frames of each query and gallery tracklet."
        f"{remark}"
    )


def value_label(sweep: str, value: float | None) -> str:
    """Return a value of a sweep as text that fits on an axis."""
    if value is None:
        return "stored"
    return f"{value:.0%}" if sweep == "occlusion" else f"{value:g}"
