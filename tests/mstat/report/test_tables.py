"""A table in its three forms: the same cells in each, and nothing in them that steers a form."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mstat.report.tables import Part, Row, Table
from tests.mstat.report.test_html import Page

TABLE = Table(
    ["run", "rank-1", "mAP"],
    [
        Row("a long name of a run", ["91.8 ± 0.1", "85.3 ± 0.2"], "strong"),
        Part(),
        Row("  paper", ["90.0", "–"], "faint"),
        Part("other runs"),
        Row("linked", ["1.0", "2.0"], link="other/report.html"),
        Row("short", ["3.0"]),
    ],
    title="Scores",
    caption="In percent.",
    warnings=["Not comparable."],
)


def on_terminal(table: Table, width: int = 80, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_terminal() -> None:
    """Title, rows and caption; a part begins beneath a line, or beneath its title; a strong row is bold."""
    text = on_terminal(TABLE)
    assert cells_of(text) == [
        ["a long name of a run", "91.8 ± 0.1", "85.3 ± 0.2"],
        ["paper", "90.0", "–"],
        ["other runs", "", ""],
        ["linked", "1.0", "2.0"],
        ["short", "3.0", ""],
    ]
    assert text.count("├") == 2
    assert text.split()[0] == "Scores"
    assert text.split("┘")[1].split() == ["In", "percent.", "Not", "comparable."]
    assert "\x1b[1ma long name of a run" in on_terminal(TABLE, colour=True)


def test_a_narrow_terminal_cuts_no_number() -> None:
    """Names are folded, numbers stay whole."""
    rows = cells_of(on_terminal(TABLE, width=40))
    assert rows[0][1:] == ["91.8 ± 0.1", "85.3 ± 0.2"]
    assert "".join(row[0] for row in rows[:3]).replace(" ", "") == "alongnameofarun"


def test_markdown() -> None:
    """A part with a title is a table of its own; ours is bold, the name of what stands beside it in italics."""
    assert TABLE.markdown() == (
        "# Scores\n\nIn percent. Not comparable.\n\n"
        "| run | rank-1 | mAP |\n|---|---:|---:|\n"
        "| a long name of a run | **91.8 ± 0.1** | **85.3 ± 0.2** |\n"
        "| *paper* | 90.0 | – |\n\n"
        "| other runs | rank-1 | mAP |\n|---|---:|---:|\n"
        "| linked | 1.0 | 2.0 |\n"
        "| short | 3.0 |\n"
    )


def test_html(tmp_path: Path) -> None:
    """The warnings come first; emphasis is a class; links lead somewhere; headings of numbers do not break."""
    (tmp_path / "page.html").write_text(TABLE.html())
    page = Page(tmp_path / "page.html")
    assert page.text.startswith("Not comparable. In percent. run rank‑1 mAP a long name of a run 91.8 ± 0.1 85.3 ± 0.2")
    assert page.text.endswith("paper 90.0 – other runs linked 1.0 2.0 short 3.0")
    assert [value for tag, name, value in page.attributes if (tag, name) == ("tr", "class")] == [
        "strong",
        "faint",
        "strong",
    ]
    assert page.values("href") == ["other/report.html"]


def test_sides() -> None:
    """Names stand left and numbers right, unless `align` says otherwise."""
    table = Table(["number", "words"], [Row("1", ["one"]), Row("20", ["twenty"])], align="rl")
    assert "│      1 │ one    │\n" in on_terminal(table)
    assert "|---:|---|" in table.markdown()
    assert re.findall(r"<t[hd][^>]*>(?:1|one)<", table.html()) == ['<th scope="row">1<', '<td class="left">one<']


@pytest.mark.parametrize("form", [on_terminal, Table.markdown, Table.html])
def test_text_steers_no_form(form: Callable[[Table], str]) -> None:
    """Neither a name, a cell nor a heading: no escape code, markup, column or element comes of it."""
    bad = "[bold]|\x1b[1m<b>"
    text = form(Table([bad, bad], [Row(bad, [bad]), Part(bad)], bad, bad, [bad], framed=False))
    shown = {
        on_terminal: "[bold]|\\x1b[1m<b>",
        Table.markdown: "[bold]\\|\\x1b[1m<b>",
        Table.html: "[bold]|\\x1b[1m&lt;b&gt;",
    }
    assert text.count(shown[form]) >= 4
    assert "\x1b" not in text
