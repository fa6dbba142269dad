"""The shell of a page."""

from __future__ import annotations

import tomllib
from pathlib import Path

from mstat.report import page

PROJECT = Path(__file__).resolve().parents[3]


def test_an_installed_package_has_its_files() -> None:
    """Whatever a package holds beside Python is declared, so that a wheel contains it: the style sheet above all."""
    declared = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for package in ("mstat", "shards", "launch"):
        root = PROJECT / package
        found = {path for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
        assert found == {path for pattern in declared.get(package, []) for path in root.glob(pattern)}
    assert (PROJECT / "mstat/report/style.css").read_text() in page.document("", "", [])


def test_a_section_without_content_is_left_out() -> None:
    """And one whose file lacks a key says so in its place."""
    assert page.Section[dict]("a", "A", lambda _: "").html({}) == ""
    assert "x.json cannot be shown: it lacks" in page.Section[dict]("a", "A", lambda of: of["b"], "x.json").html({})
