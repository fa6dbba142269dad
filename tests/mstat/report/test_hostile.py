"""A foreign run folder cannot make the report write elsewhere, leak a file, hang, or fail as a whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstat.config.plain_yaml import parse_plain_yaml
from mstat.errors import UserError
from mstat.files import read_plain, write_plain
from mstat.report import paired
from mstat.report.compare import write_comparison
from mstat.report.html import write_report
from mstat.report.images import encode_overview, encode_strip
from mstat.report.run_groups import compared, grouped
from mstat.report.run_reader import Folder
from tests.conftest import PROJECT


def _metrics(run: Path, *records: dict[str, Any]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with a configuration and two steps."""
    folder = tmp_path / "outer" / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    _metrics(folder, {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0})
    return folder


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_keys_of_metrics_name_no_file_elsewhere(run: Path) -> None:
    """A term of the loss with `../` in it is drawn under a name of ours."""
    keys = ("loss/I/../../../escaped", "loss/I//tmp/escaped", "loss/I/x\x00y", "loss/I/$\\frac", "loss/I/triplet")
    _metrics(run, *({"step": step, "loss": 1.0, **dict.fromkeys(keys, 1.0)} for step in (1, 2)))
    before = _files(run.parents[1])
    write_report(run)
    new = _files(run.parents[1]) - before
    assert {name for name in new if not name.startswith("outer/run/")} == set()
    assert "outer/run/figures/loss-triplet.svg" in new
    assert "outer/run/figures/loss-term-1.svg" in new


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    """Neither a figure, nor the folder of figures, nor the page, nor config.yaml leads to another file."""
    secret = tmp_path / "secret"
    secret.write_text("the secret text")
    for name in ("report.html", "evaluation.json"):
        (run / name).symlink_to(secret)
    (run / "config.yaml").unlink()
    (run / "config.yaml").symlink_to(secret)
    (run / "figures").mkdir()
    (run / "figures" / "loss.svg").symlink_to(secret)
    page = write_report(run)
    assert secret.read_text() == "the secret text"
    assert not page.is_symlink()
    assert "the secret text" not in page.read_text()
    assert "is a link" in page.read_text()
    assert not (run / "figures" / "loss.svg").is_symlink()


def test_a_linked_folder_of_figures(run: Path, tmp_path: Path) -> None:
    """Pictures are not written into it, nor is anything there removed; the page is made, and says so."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "attention-mine.jpg").write_text("mine")
    (run / "figures").symlink_to(elsewhere)
    text = write_report(run).read_text()
    Folder(run).forget("attention-*.jpg")
    assert _files(elsewhere) == {"attention-mine.jpg"}
    assert "is a link" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "evaluation.json", "rankings.json", "state.json"])
def test_a_pipe_holds_nobody_up(run: Path, name: str) -> None:
    """It is named in the section that wants it."""
    (run / "evaluation.json").write_text("{}")  # something of a run, where config.yaml is none
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    subprocess.run([sys.executable, str(PROJECT / "launch" / "report.py"), run], check=True, timeout=120)
    if name != "state.json":
        assert "not a regular file" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "{" + '"a":[' * 100_000,
        '{"stages": {"I": {"mAP": 1e999}}, "mAP": 1e400, "rank1": -1e400}',
        '{"cmc": [[[]]], "stages": 3, "mAP": "x"}',
        '{"cameras": [{"query": 1, "gallery": {}, "rank1": 0, "num_valid_query": 0}]}',
        '{"open_set": {"cosine": {"dir_at_1": 2, "intervals": 3}}, "by_matches": {"1": 4}, "by_length": 5, "sd": 6}',
        '{"distances": {"x": {"intra": "' + "9" * 5000 + '"}}}',
        "{}",
        "null",
    ],
    ids=lambda text: text[:20],
)
def test_odd_json_costs_a_remark(run: Path, text: str) -> None:
    """Deep, wrong and absurd values leave the rest of the page as it is."""
    names = ("evaluation", "rankings", "queries", "embedding", "robustness", "environment")
    for name in (f"{name}.json" for name in names):
        (run / name).write_text(text)
    (run / "state.json").write_text(text)
    (run / "evaluations" / "other").mkdir(parents=True)
    (run / "evaluations" / "other" / "evaluation.json").write_text(text)
    page = write_report(run).read_text()
    assert 'id="training-heading"' in page
    assert "Total loss" in page
    other = run.with_name("other")
    other.mkdir()
    (other / "config.yaml").write_text("seed: 2\noptim: {lr: 1}\n")
    for name in ("evaluation.json", "queries.json"):
        (other / name).write_text(text)
    paths = [run, other]
    page = write_comparison(paths, run.parent / "comparison.html").read_text()
    assert "means nothing" in "".join(paired.table(grouped(compared(paths))).warnings)  # what the terminal shows
    assert "evaluations/other/evaluation.json" in page
    assert "evaluations cannot be shown" not in page


def test_sixty_terms_cost_a_remark(run: Path) -> None:
    """The first dozen is drawn, and the page says how many there are."""
    terms = {f"loss/I/term_{chr(97 + i // 26)}{chr(97 + i % 26)}": 1.0 for i in range(60)}
    _metrics(run, *({"step": step, "loss": 1.0, **terms} for step in (1, 2)))
    assert "60 loss terms, of which the first 12 are drawn" in write_report(run).read_text()
    assert len(list((run / "figures").glob("loss-*.svg"))) == 12


def test_odd_lines_of_metrics(run: Path) -> None:
    """Deep lines, lists, steps beyond any run are counted and left out."""
    lines = ['{"step": 1, "loss": 2.0}', "[" * 50_000, "[3]", '"x"', '{"step": 1e300}', '{"step": -4}', '{"step": "x"}']
    (run / "metrics.jsonl").write_text("\n".join(lines))
    records, remark = Folder(run).records()
    assert records == [{"step": 1, "loss": 2.0}]
    assert "6 unreadable" in remark


def test_the_page_loads_and_runs_nothing(run: Path) -> None:
    """A Content-Security-Policy stands in it; control and bidirectional characters are shown as escapes."""
    (run / "config.yaml").write_text("run: '\u202egnp.exe' # \x1b[31m <script>alert(1)</script>\n")
    page = write_report(run).read_text()
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert r"\u202egnp.exe" in page
    assert "<script" not in page


def test_no_address_is_opened(run: Path) -> None:
    """Shards behind a URL are named in the page, not asked for; --shards opens them."""
    (run / "config.yaml").write_text("data: {shards: 'http://127.0.0.1:9/shards'}\n")
    assert "--shards" in str(Folder(run).reader)


def test_absurd_sizes_of_pictures() -> None:
    """A frame of one pixel in height and thousands in width stays small; none at all makes a picture, too."""
    wide = np.zeros((3, 1, 5000, 3), np.uint8)
    assert encode_strip(wide)[1][0] < 20_000
    assert len(encode_overview([(wide[0], [(wide[0], True), (None, False)])])) < 200_000
    assert encode_overview([])
    assert encode_overview([(np.zeros((5000, 1, 3), np.uint8), [])])


def test_plain_files(tmp_path: Path) -> None:
    """Bounds on reading; a link is replaced on writing."""
    (tmp_path / "big").write_bytes(b"x" * 11)
    assert read_plain(tmp_path / "big", 11) == b"x" * 11
    with pytest.raises(UserError, match="more than"):
        read_plain(tmp_path / "big", 10)
    with pytest.raises(UserError, match="not a regular file"):
        read_plain(Path("/dev/zero"))
    with pytest.raises(UserError, match="not a regular file"):
        read_plain(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "big")
    write_plain(tmp_path / "link", b"new")
    assert (tmp_path / "big").read_bytes() == b"x" * 11
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: [*a, *a]",
        "a: &a {x: 1}\nb: {<<: *a}",
        "a: !!python/object/apply:os.system ['true']",
        "a: !x 1",
        "[" * 5000,
        "a: 9999-99-99",
        "a: [",
        "\x00",
    ],
    ids=repr,
)
def test_yaml_of_plain_values(text: str) -> None:
    """Aliases, merges, objects, deep nesting, impossible dates and broken text are refused in one line."""
    with pytest.raises(UserError) as refusal:
        parse_plain_yaml(text, "config.yaml")
    assert "\n" not in str(refusal.value)
    assert parse_plain_yaml("a: {b: [1, x, 2020-01-01]}", "config.yaml")["a"]["b"][:2] == [1, "x"]
