"""Ranked galleries: typical queries beside the hardest, and one picture of all."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from mstat.report.html import write_report
from shards.read import Reader
from tests.mstat.report.conftest import make_rankings
from tests.mstat.report.test_html import Page


def test_typical_and_hardest(lean: Path, reader: Reader) -> None:
    """Both sections, each with its pictures in the page and one file; how many fail is said."""
    rankings = make_rankings()
    right = json.loads(json.dumps(rankings["queries"][0])) | {
        "first_hit": 1,
        "ap": 1.0,
        "key": "0001C2T0001",
        "index": 1,
    }
    rankings["queries"].append(right)
    (lean / "rankings.json").write_text(json.dumps(rankings | {"typical": [right]}))
    page = Page(write_report(lean, reader))
    ids = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert ids[-3:] == ["galleries", "failures", "settings"]
    assert "1 queries evenly spaced from the highest average precision to the lowest." in page.text
    assert "The 2 queries of lowest average precision; rank 1 is wrong for 1 of them." in page.text
    assert sum(value.startswith("data:image/jpeg") for value in page.values("src")) == 12
    sizes = [Image.open(lean / "figures" / f"{name}.jpg").size for name in ("galleries", "failures")]
    assert sizes[0][0] == sizes[1][0]
    assert 1.5 < sizes[1][1] / sizes[0][1] < 2


def test_without_shards_there_is_no_picture(lean: Path) -> None:
    """The rankings in words, and no file."""
    page = Page(write_report(lean))
    assert "✓ 2 right" in page.text
    assert "Overview" not in page.text
    assert not (lean / "figures" / "failures.jpg").exists()
