"""launch/report.py as a user starts it, and its pages in a real browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from launch import report
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.training.data_sets import evaluate_on_sets
from tests.conftest import PROJECT
from tests.helpers.browser import Browser, chromium, why_not

WIDTHS = {"phone": 390, "desk": 1440}
PAPER_WIDTH = 718  # A4 without Chromium's margins


def copy_of(run: Path, folder: Path, old: str = "", new: str = "") -> Path:
    """A run folder again, with another word in its config.yaml."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "report.html", "figures"))
    config = (folder / "config.yaml").read_text()
    assert old in config
    (folder / "config.yaml").write_text(config.replace(old, new, 1))
    return folder


def start(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "launch" / "report.py"), *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=variables)


@pytest.fixture(scope="module")
def run(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with all that its report can show."""
    folder = copy_of(reference, tmp_path_factory.mktemp("report") / "one", "pictures: false", "pictures: true")
    config = load_config(folder / "config.yaml", ["--run", str(folder), "--data.num_workers", "0"])
    evaluate_on_sets([config], Engine(config))
    return folder


@pytest.fixture(scope="module")
def comparison(run: Path) -> Path:
    """The page of that run, one with another seed, and one of other settings that was evaluated on the way."""
    seed = copy_of(run, run.with_name("two"), "seed: 0", "seed: 1")
    other = copy_of(run, run.with_name("three-with-a-name-that-is-rather-long"), "name: adamw", "name: sgd")
    (other / "evaluations.jsonl").write_text('{"step": 10, "mAP": 0.2, "rank1": 0.25}\n')
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["dataset"] = {"name": "another-set", "checksum": "ab" * 32}
    for folder in (seed, other):
        (folder / "evaluations" / "another-set").mkdir(parents=True)
        (folder / "evaluations" / "another-set" / "evaluation.json").write_text(json.dumps(evaluation))
    done = start(run.parent, run, seed, other)
    files = ["comparison.html", *(f"comparison-figures/cross.{kind}" for kind in ("svg", "json", "md"))]
    assert (done.returncode, done.stdout.splitlines()[-4:], done.stderr) == (0, files, "")
    assert "│ mAP │ +0.0 │ +0.0 to +0.0 │ – │ not shown to differ │" in " ".join(done.stdout.split())  # one model
    return run.parent / "comparison.html"


def test_the_report_of_a_run_made_again(run: Path) -> None:
    """The same page as training left; each picture of it as a file, those of Fig. 11 by choice."""
    written = (run / "report.html").read_bytes()

    def again(*choice: str) -> str:
        assert report.main([str(run), *choice]) == 0
        return (run / "report.html").read_text()

    key = json.loads((run / "rankings.json").read_text())["queries"][0]["key"]
    chosen = again("--proxies", "2", "0", "--tracklets", key)
    assert "orange: proxy 2, " in chosen
    assert "blue: proxy 0, " in chosen
    assert {path.name for path in (run / "figures").iterdir()} == {
        "cmc.svg", "roc.svg", "loss.svg", "loss-cross_entropy.svg", "loss-triplet.svg", "learning-rate.svg",
        "cameras.svg", "embedding.svg", "proxies.svg", f"attention-{key}.jpg", "galleries.jpg", "failures.jpg",
    }  # fmt: skip
    assert again().encode() == written


def test_runs_compared(comparison: Path) -> None:
    """Beside the page its pictures and the scores across data sets; two seeds are one line, and what differs is
    named."""
    figures = comparison.with_name("comparison-figures")
    names = {path.name for path in figures.iterdir()}
    pictures = {"cmc.svg", "loss.svg", "learning-rate.svg", "scores.svg"}
    assert names == {*pictures, "cross.svg", "cross.json", "cross.md"}
    page = comparison.read_text()
    assert ">one, two<" in page
    assert ">optim.name<" in page
    assert "Not comparable:" not in page


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nowhere"], 1, "error: nowhere: no such run folder\n"),
        (["empty"], 1, "error: empty: not a run folder: it has neither config.yaml nor evaluation.json\n"),
        (["run", "empty"], 1, "error: empty: not a run folder"),
        (["run", "run"], 1, "error: run: given twice"),
        (["run", "--proxies", "0"], 1, "error: run: evaluation.json is not in the run folder."),
        (["run", "other", "--out", "."], 1, "error: .: is a folder"),
        (["run", "--out", "page.html"], 2, "--out needs several runs"),
        (["run", "other", "--proxies", "0"], 2, "--proxies and --tracklets need exactly one run"),
        (["run", "--proxies", "first"], 2, "invalid int value: 'first'"),
        ([], 2, "required: RUN"),
    ],
)
def test_bad_input_is_told_in_one_line(
    arguments: Sequence[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit status 1, or 2 for bad usage, with what is wrong and nothing written."""
    for name in ("empty", "run", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "empty" / "config.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    try:
        exit_status = report.main(arguments)
    except SystemExit as ended:
        exit_status = int(str(ended.code))
    assert exit_status == status
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".html"]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if reason := why_not():
        pytest.skip(reason)
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["run", "comparison"])
def test_pages_in_a_browser(page: str, scheme: str, browser: Browser, run: Path, comparison: Path) -> None:
    """On a phone, on a desk and on paper, in light and dark: not a word on the console, nothing asked of the network,
    no wider than the window, every image loaded and described, the colours of the scheme (paper is white)."""
    path = {"run": run / "report.html", "comparison": comparison}[page]
    for width, media in ((WIDTHS["phone"], "screen"), (WIDTHS["desk"], "screen"), (PAPER_WIDTH, "print")):
        look = browser.look(path, width, scheme, media)
        assert (look.console, look.requests) == ([], [])
        assert (look.width, look.wide) == (width, [])
        assert look.images >= {"run": 20, "comparison": 5}[page]
        assert (look.broken, look.silent) == ([], 0)
        assert look.dark == (scheme == "dark")
        assert (look.back == "rgb(255, 255, 255)") == (scheme == "light" or media == "print")


def test_the_browser_sees_what_is_broken(browser: Browser, tmp_path: Path) -> None:
    """A wide element, an error of a script, a picture that is not there or says nothing, a page from elsewhere: each is
    seen, so a clean look means something."""
    page = tmp_path / "page.html"
    page.write_text(
        '<!DOCTYPE html><title>broken</title><body><div class="wide" style="width: 500px">too wide</div>'
        '<div class="scroll" style="overflow-x: auto; width: 100px"><p style="width: 900px">scrolls</p></div>'
        '<img src="data:image/png;base64,AAAA" alt="no picture"><img src="http://127.0.0.1:9/x.png" alt=" ">'
        "<script>console.warn('a warning')</script>"
    )
    look = browser.look(page, WIDTHS["phone"])
    assert look.width > WIDTHS["phone"]
    assert [text.split(":")[0] for text in look.wide] == ["DIV wide"]
    assert look.broken == ["no picture", " "]
    assert look.silent == 1
    assert look.requests == ["http://127.0.0.1:9/x.png"]
    assert any("a warning" in line for line in look.console)
    assert not browser.look(page, WIDTHS["desk"]).wide
