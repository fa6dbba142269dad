"""The figures of a run: SVG that says what the records say."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mstat.report import figures
from tests.mstat.report.conftest import make_record

RECORDS = [make_record(step) for step in range(1, 61)]


def lines_of(svg: bytes) -> list[str]:
    """The path data of every curve (matplotlib's line2d without a marker or tick) in an SVG."""
    root = ElementTree.fromstring(svg)
    return [
        path.attrib["d"]
        for path in root.iter("{http://www.w3.org/2000/svg}path")
        if "clip-path" in path.attrib and any(c in path.attrib.get("style", "") for c in figures.COLOURS)
    ]


def test_terms_come_from_the_keys() -> None:
    """Every `loss/<stage>/<term>` that any record holds is found, whatever its name."""
    records = [{"step": 1, "loss": 1.0}, {"step": 2, "loss/I/oim": 1.0}, *RECORDS]
    assert figures.loss_terms(records) == {
        "oim": ["I"],
        "cross_entropy": ["I", "II", "III"],
        "triplet": ["I", "II", "III"],
    }


def test_each_curve_is_drawn() -> None:
    """A raw and a smoothed curve for the total, the same for each stage of a term; one for lr and each CMC."""
    assert len(lines_of(figures.loss_figure(RECORDS))) == 2
    assert len(lines_of(figures.loss_figure(RECORDS, "triplet"))) == 6
    assert len(lines_of(figures.learning_rate_figure(RECORDS))) == 1
    assert len(lines_of(figures.cmc_figure({"MSTAT": [0.5, 0.9], "untrained": [0.1, 0.2]}))) == 2


def test_panels_share_one_axis_of_scores() -> None:
    """A curve for each score in each panel; a score that a protocol lacks is no curve; the same bytes twice."""
    points = [(str(value), {"mAP": value / 4, "rank1": value / 3}) for value in range(3)]
    lines = {"mAP": "mAP", "rank1": "rank-1"}
    svg = figures.panels_figure({"frames": points, "area": points[:2]}, lines)
    assert svg.count(b'id="axes_') == 2
    assert len(lines_of(svg)) >= 4
    without = [(tick, {**scores, "mAP": None}) for tick, scores in points]
    fewer = figures.panels_figure({"frames": without, "area": without[:2]}, lines)
    assert len(lines_of(fewer)) == len(lines_of(svg)) / 2
    assert figures.panels_figure({"frames": points, "area": points[:2]}, lines) == svg


def test_same_records_same_bytes() -> None:
    """A figure depends on the records alone, not on the time or on chance."""
    assert figures.loss_figure(RECORDS, "triplet") == figures.loss_figure(RECORDS, "triplet")


def test_background_is_transparent() -> None:
    """No patch is filled with white: the page's own colour shows, light or dark."""
    assert b"#ffffff" not in figures.loss_figure(RECORDS)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_gaps(bad: float | None) -> None:
    """A loss that is not finite, or was not read, is a gap and no error; so is a curve of gaps alone."""
    records = [dict(record, loss=bad) if record["step"] % 7 == 0 else record for record in RECORDS]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(lines_of(figures.loss_figure(records))) == 2
        figures.loss_figure([dict(record, loss=bad) for record in RECORDS])
        figures.loss_figure(RECORDS[:1])


def test_smooth_is_a_mean_of_neighbours() -> None:
    """The running mean keeps a line straight away from its ends, and keeps length and level around a gap."""
    line = np.arange(200.0)
    np.testing.assert_allclose(figures.smooth(line)[4:-4], line[4:-4])
    level = np.full(200, 3.0)
    level[50] = np.nan
    np.testing.assert_allclose(figures.smooth(level), 3.0)


def test_runs_of_a_group_look_alike() -> None:
    """A line a run and a name a group; a group without records keeps its colour, so that the next one has its own in
    every figure."""
    svg = figures.compared_figure({"one": [RECORDS, list(RECORDS)], "none": [], "two": [RECORDS]}, "loss", "loss")
    drawn = "".join(lines_of(svg))
    assert drawn.count("M") == 3
    assert [colour.encode() in svg for colour in figures.COLOURS[:3]] == [True, False, True]
    assert len(lines_of(figures.cmc_figure({"one": [], "two": [0.5, 0.9]}, equals=True))) == 1


def test_matrices() -> None:
    """Cameras: a number in each field that is known; proxies: the diagonal does not hide how alike the others are."""
    known = figures.camera_figure(np.array([[0.5, 0.25], [1.0, 0.5]]), [1, 2], [1, 2])
    partly = figures.camera_figure(np.array([[np.nan, 0.25], [1.0, np.nan]]), [1, 2], [1, 2])
    numbers = [svg.count(b"<!-- 50 -->") for svg in (known, partly)]
    assert numbers == [2, 0]
    weak, strong = (figures.similarity_figure(np.array([[1, alike], [alike, 1]])) for alike in (0.02, 0.2))
    assert weak != strong


def test_scores_across_data_sets() -> None:
    """A number in each known field, a dash in the others; own sets are outlined; the same bytes twice; wide if many."""
    field = figures.Field
    rows = [[field(0.912, 0.013, True), field(0.345)], [field(), field(0.5, None, True)]]
    svg, is_wide = figures.cross_figure({"mAP": rows, "rank-1": rows}, ["run", "other"], ["mars", "b " * 60])
    for text, number in ((b"91.2", 2), (b"34.5", 2), ("–".encode(), 2), (figures.COLOURS[1].encode(), 4)):
        assert svg.count(text) == number, text
    assert not is_wide
    assert figures.cross_figure({"mAP": rows, "rank-1": rows}, ["run", "other"], ["mars", "b " * 60])[0] == svg
    many = [field(0.1)] * 12
    assert figures.cross_figure({"mAP": [many]}, ["run"], ["mars"] * 12)[1]
    assert figures.shorten("abcdefghij", 5) == "ab…ij"
