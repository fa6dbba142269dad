"""The elements of a report: text is escaped, HTML is kept, and what cannot be shown is said."""

from __future__ import annotations

import base64
import os
import tomllib
from pathlib import Path

import pytest

from mstat.report import page

PROJECT = Path(__file__).resolve().parents[3]


def test_text_is_escaped() -> None:
    """Control characters and those that turn the direction of text are shown as what they are; lines stay."""
    assert page.escape('<b title="x">&\'') == "&lt;b title=&quot;x&quot;&gt;&amp;&#x27;"
    assert page.escape("a\x1b[2J\u202eb") == "a\\x1b[2J\\u202eb"
    assert page.escape("two\n\tlines") == "two\n\tlines"
    assert page.escape(7) == "7"


@pytest.mark.parametrize(
    "made",
    [
        page.document("<i>", "", []),
        page.Section("name", "<i>", str).html("body"),
        page.note("<i>"),
        page.warning("<i>"),
        page.picture(b"", page.SVG, "<i>"),
        page.figure(b"", "", "<i>"),
        page.facts([("<i>", "<i>")]),
        page.details("<i>", ""),
    ],
)
def test_no_element_takes_text_for_html(made: str) -> None:
    """Names of runs, data sets and files come from elsewhere."""
    assert "&lt;i&gt;" in made
    assert "<i>" not in made


def test_a_document_loads_nothing() -> None:
    """Its sections stand in their order, as HTML."""
    made = page.document("title", "<h1>a run</h1>", [page.Section("a", "A", str).html("<p>1</p>"), "<p>2</p>"])
    assert made.startswith("<!DOCTYPE html>")
    assert "Content-Security-Policy\" content=\"default-src 'none'; img-src data:" in made
    assert made.index("<h1>a run</h1>") < made.index("<p>1</p>") < made.index("<p>2</p>")
    assert '<section id="a" aria-labelledby="a-heading">\n<h2 id="a-heading">A</h2>' in made
    for word in ("<script", "http://", "https://", "@import", "url("):
        assert word not in made


def test_a_picture_is_its_bytes() -> None:
    """At the size at which it is to be shown, so that the page does not jump."""
    made = page.picture(b"\xff\xd8jpeg", page.JPEG, "a frame", (64, 128))
    assert base64.b64decode(made.partition("base64,")[2].partition('"')[0]) == b"\xff\xd8jpeg"
    assert 'src="data:image/jpeg;base64,' in made
    assert made.endswith('alt="a frame" width="64" height="128">')


def test_an_installed_package_has_its_files() -> None:
    """Each file of a package beside Python is declared, so that a wheel contains it: the style sheet above all."""
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("mstat", "shards", "launch"):
        root = PROJECT / package
        walked = [Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names]
        files = {path for path in walked if path.suffix not in (".py", ".pyc")}
        assert files == {path for pattern in declared.get(package, []) for path in root.glob(pattern)}
    assert (PROJECT / "mstat/report/style.css").read_text() in page.document("", "", [])


def test_a_section_without_content_is_left_out() -> None:
    """And one whose file lacks a key says so in its place."""
    nothing: dict[str, str] = {}
    assert page.Section[dict[str, str]]("a", "A", lambda _: "").html(nothing) == ""
    section = page.Section[dict[str, str]]("a", "A", lambda of: of["b"], "x.json")
    assert "x.json cannot be shown: it lacks" in section.html(nothing)


def test_a_file_that_does_not_hold_what_it_should_costs_a_note() -> None:
    """The key that is missing, or the error in short; an error of ours is none of the file's and is raised."""
    assert page.shown("a.json", lambda content: f"<p>{content['x']}</p>", {"x": 1}) == "<p>1</p>"
    assert "a.json cannot be shown: it lacks &#x27;x&#x27;." in page.shown("a.json", lambda content: content["x"], {})
    long = page.shown("a.json", lambda: f"{int('9' * 500 + 'x')}")
    assert "a.json cannot be shown: invalid literal for int()" in long
    assert len(long) < page.MOST_CHARACTERS + 100

    def empty() -> str:
        raise ArithmeticError

    assert "a.json cannot be shown: ArithmeticError." in page.shown("a.json", empty)

    def broken() -> str:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        page.shown("a.json", broken)
