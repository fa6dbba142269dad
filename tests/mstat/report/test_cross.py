"""The section `Across data sets` of a comparison: page, picture, Markdown and JSON say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mstat.report.compare import figures_folder, write_comparison
from mstat.report.cross import FILES, MOST_COLUMNS, MOST_TABLE_COLUMNS, written
from tests.mstat.report.test_cross_matrix import SUMS, make_run, write_scores
from tests.mstat.report.test_html import Page


def test_every_form_has_every_score(tmp_path: Path) -> None:
    """Table, picture, Markdown and JSON, beside the other figures; own sets are marked in each."""
    first = make_run(tmp_path / "first", "mars", 0.912, {"duke": 0.345})
    second = make_run(tmp_path / "second", "duke", 0.823, {"mars": 0.456})
    (second / "evaluations" / "mars" / "evaluation.json").unlink()
    write_scores(second / "evaluations" / "mars", "mars", 0.456, warnings=["partial: 3 of 9"])
    page = Page(write_comparison([first, second], tmp_path / "page.html"))
    assert "rank-1 mars duke first own 91.2 34.5 second 45.6 own 82.3" in page.text
    assert "mars: Not comparable with published scores: partial: 3 of 9." in page.text
    alt = next(text for text in page.values("alt") if "each data set" in text)
    assert "first mars own 91.2, duke 34.5; second mars 45.6, duke own 82.3" in alt
    folder = figures_folder(tmp_path / "page.html")
    assert [path.name for path in written(folder)] == list(FILES)
    assert 'href="page-figures/cross.json"' in page.source

    markdown = (folder / "cross.md").read_text()
    assert "| rank-1 | mars | duke |\n|---|---:|---:|\n| first | own 91.2 | 34.5 |\n| second | 45.6 | own 82.3 |" in (
        markdown.replace("| run |", "| rank-1 |")
    )
    assert f"| mars | {SUMS['mars'][:12]} | official | 0 | num_frames 32, mode sample," in markdown
    assert "- mars: Not comparable with published scores: partial: 3 of 9." in markdown

    content = json.loads((folder / "cross.json").read_text())
    assert [column["checksum"] for column in content["columns"]] == [SUMS["mars"], SUMS["duke"]]
    assert content["columns"][0]["settings"]["num_frames"] == 32
    assert content["columns"][0]["num_valid_query"] == 1840
    cells = [[(cell["own"], cell["rank1"]["mean"]) for cell in row["cells"]] for row in content["rows"]]
    assert cells == [[(True, 0.912), (False, 0.345)], [(False, 0.456), (True, 0.823)]]

    drawn = re.findall(r"<!-- ([\d.]+) -->", (folder / "cross.svg").read_text())
    assert drawn == ["81.2"] * 4 + ["91.2", "34.5", "45.6", "82.3"]


def test_some_seeds_alone_are_said(tmp_path: Path) -> None:
    """A mean of two of three runs does not look like a mean of all."""
    runs = [
        make_run(tmp_path / f"seed-{seed}", "mars", 0.9, {"duke": 0.3 + seed / 10} if seed else {}, seed)
        for seed in range(3)
    ]
    page = Page(write_comparison(runs, tmp_path / "page.html"))
    assert "own 90.0 ± 0.0 45.0 ± 7.1 (2 of 3)" in page.text
    cell = json.loads((tmp_path / "page-figures" / "cross.json").read_text())["rows"][0]["cells"][1]
    assert cell["rank1"]["values"] == [0.4, 0.5]
    assert cell["evaluations"] == [f"seed-{seed}/evaluations/duke/evaluation.json" for seed in (1, 2)]


def test_a_protocol_without_map_has_one_panel(tmp_path: Path) -> None:
    """No table and no panel of dashes."""
    runs = [make_run(tmp_path / name, "mars", 0.9, {"duke": 0.4}) for name in ("first", "second")]
    for path in tmp_path.rglob("evaluation.json"):
        path.write_text(path.read_text().replace('"mAP": 0.8123', '"mAP": null'))
    page = Page(write_comparison(runs, tmp_path / "page.html"))
    assert "rank-1 in percent of each run on each data set" in page.text
    assert (tmp_path / "page-figures" / "cross.svg").read_text().count('id="axes_') == 1
    assert "mAP across" not in (tmp_path / "page-figures" / "cross.md").read_text()


def test_no_matrix_leaves_no_files_of_an_earlier_page(tmp_path: Path) -> None:
    """Scores of other runs do not stay beside a page without a matrix; a link to another folder loses nothing."""
    runs = [make_run(tmp_path / name, "mars", 0.9, {}) for name in ("first", "second")]
    folder = tmp_path / "page-figures"
    folder.mkdir()
    for name in (*FILES, "mine.txt"):
        (folder / name).write_text("old")
    page = Page(write_comparison(runs, tmp_path / "page.html"))
    assert "Across data sets" not in page.text
    assert written(folder) == []
    assert (folder / "mine.txt").read_text() == "old"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cross.md").write_text("mine")
    (tmp_path / "linked-figures").symlink_to(tmp_path / "elsewhere")
    write_comparison(runs, tmp_path / "linked.html")
    assert (tmp_path / "elsewhere" / "cross.md").read_text() == "mine"


def test_many_data_sets(tmp_path: Path) -> None:
    """Too many for a picture, then for a table: the page says so, and cross.json has all of them."""
    run, other = (make_run(tmp_path / name, "mars", 0.9, {}) for name in ("run", "other"))
    for number in range(MOST_TABLE_COLUMNS):
        dataset = {"name": f"set-{number}", "checksum": f"{number:064d}"}
        write_scores(run / "evaluations" / f"set-{number}", "", 0.1, dataset=dataset)
        if number == MOST_COLUMNS:
            page = Page(write_comparison([run, other], tmp_path / "page.html"))
            assert f"1 row and {MOST_COLUMNS + 2} columns are too many for a picture." in page.text
            assert "set-9 " in page.text
    page = Page(write_comparison([run, other], tmp_path / "page.html"))
    assert f"{MOST_TABLE_COLUMNS + 1} columns are too many for a table; cross.json has them." in page.text
    assert len(json.loads((tmp_path / "page-figures" / "cross.json").read_text())["columns"]) == MOST_TABLE_COLUMNS + 1


def test_names_from_files_are_text(tmp_path: Path) -> None:
    """In page, picture and Markdown."""
    run, other = (make_run(tmp_path / name, "mars", 0.9, {}) for name in ("run", "other"))
    bad = "<script>|`$\\frac\n\u202e"
    write_scores(
        run / "evaluations" / "x", "", 0.1, dataset={"name": bad, "checksum": "</td>"}, protocol=bad, split=bad
    )
    page = Page(write_comparison([run, other], tmp_path / "page.html"))
    assert "script" not in page.tags
    assert "<script>" in page.text
    assert "\u202e" not in page.source
    assert "<script>" not in (tmp_path / "page-figures" / "cross.svg").read_text()
    rows = [line for line in (tmp_path / "page-figures" / "cross.md").read_text().splitlines() if "<script>" in line]
    assert all(r"<script>\|" in row and r"\n\u202e" in row for row in rows)
    assert rows
