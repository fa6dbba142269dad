"""The HTML report: whole, closed to the network, safe against what its sources hold, frank about what is missing."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import shards
from mstat.report import images
from mstat.report.html import write_report
from shards.read import Reader
from tests.mstat.report.conftest import make_rankings, make_record

VOID = {"meta", "img", "br"}
SECTIONS = ("scores", "cmc", "training", "failures", "settings")


class Page(HTMLParser):
    """Reads a page strictly: every element closed, in order; keeps identifiers, attributes and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


def test_whole_report(run: Path, reader: Reader) -> None:
    """A whole run folder: every section once, the numbers of its files, a picture a curve and a strip a tracklet."""
    page = Page(write_report(run, reader))
    assert [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")] == list(SECTIONS)
    assert page.tags.count("h1") == 1
    for part in (
        "some-run", "done", "at step 60", "81.2", "87.7", "Started 2026-11-22", "43.2", "Stage I+II+III", "76.1",
        "1,840 valid of 1,980 queries", "60 steps logged", "median 130 clips/s", "seed: 7", "torch 2.11.0",
        "average precision 12.5 %", "first true match at rank 2", "✗ 1 wrong", "✓ 2 right", "0.700", "no identity",
    ):  # fmt: skip
        assert part in page.text, part
    assert "not in the run folder" not in page.text
    kinds = [value.split(";")[0] for value in page.values("src")]
    assert kinds.count("data:image/svg+xml") == 5
    assert kinds.count("data:image/jpeg") == 4
    assert not list(run.glob("*.tmp"))


def test_closed_to_the_network(run: Path, reader: Reader) -> None:
    """Nothing is fetched and nothing runs: images are data URIs, no link, script, import or external address."""
    page = Page(write_report(run, reader))
    assert all(value.startswith("data:image/") for value in page.values("src"))
    assert not {"script", "link", "iframe", "object", "a"} & set(page.tags)
    source = re.sub(r"base64,[\w+/=]+", "", page.source)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:", source, re.IGNORECASE)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("href", "srcset", "style")]


def test_accessible(run: Path, reader: Reader) -> None:
    """Every image says what it shows, in words of its own; headings go down one level at a time; language is set."""
    page = Page(write_report(run, reader))
    alts = page.values("alt")
    assert len(alts) == page.tags.count("img")
    assert len(set(alts)) == len(alts)
    assert all(len(alt) > 15 for alt in alts)
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert ("html", "lang", "en") in page.attributes


def test_strips_of_the_right_length(lean: Path, reader: Reader) -> None:
    """A query shows up to 8 frames, a gallery entry up to 4, from the tracklet's first to its last."""
    page = Page(write_report(lean, reader))
    jpegs = [value.split(",")[1] for value in page.values("src") if value.startswith("data:image/jpeg")]
    numbers = []
    for jpeg in jpegs:
        with Image.open(io.BytesIO(base64.b64decode(jpeg))) as picture:
            greys = np.asarray(picture.convert("L")).astype(int)[64, 32 :: 64 + images.GAP]
        numbers.append([round((grey - 20) / 25) for grey in greys])
    assert numbers == [[0, 1, 2, 3, 4, 5], [0, 2, 5, 7], [0, 2, 4, 6], [0, 3, 5, 8]]


def test_hostile_names(run: Path, reader: Reader) -> None:
    """Text from any file of the run is shown as text, in the page and in its attributes."""
    bad = "$\\frac$\"><script>alert('x')</script><img src=http://evil.example/>&amp;"
    rankings = make_rankings()
    rankings["queries"][0]["key"] = rankings["queries"][0]["gallery"][0]["key"] = bad
    rankings["queries"][0]["gallery"][1]["camid"] = bad
    (run / "rankings.json").write_text(json.dumps(rankings))
    (run / "config.yaml").write_text(f"run: {bad}")
    (run / "state.json").write_text(json.dumps({"state": f"failed{bad}", "step": bad, "reason": bad}))
    environment = {"started": bad, "versions": {bad: bad}, bad: bad, "hardware": [bad]}
    (run / "environment.json").write_text(json.dumps(environment))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation.update(protocol=bad, split=bad, baselines={bad: evaluation["stages"]["I"]})
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    record = dict(make_record(61), **{f"loss/{bad[:12]}/{bad[:12]}": 1.0})
    (run / "metrics.jsonl").write_text(json.dumps(record))
    page = Page(write_report(run, reader))
    assert "script" not in page.tags
    assert all(value.startswith("data:image/") for value in page.values("src"))
    assert page.text.count("<script>alert('x')</script>") >= 8
    assert any("<script>" in alt for alt in page.values("alt"))


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "metrics.jsonl", "state.json", "evaluation.json", "rankings.json"]
)
def test_missing_file_is_said(lean: Path, reader: Reader, name: str) -> None:
    """Any file may be missing: the report is made, keeps its sections and names the file."""
    (lean / name).unlink()
    page = Page(write_report(lean, reader))
    assert f"{name} is not in the run folder" in page.text
    assert page.tags.count("section") == len(SECTIONS)


@pytest.mark.parametrize("name", ["environment.json", "state.json", "evaluation.json", "rankings.json"])
@pytest.mark.parametrize("content", [b"", b'{"half": ', b"[1]", b"\xff\xfe"])
def test_broken_file_is_said(lean: Path, reader: Reader, name: str, content: bytes) -> None:
    """A file cut short or of another kind is named like a missing one."""
    (lean / name).write_bytes(content)
    assert f"{name} cannot be read" in Page(write_report(lean, reader)).text


@pytest.mark.parametrize("name", ["state.json", "evaluation.json", "rankings.json"])
@pytest.mark.parametrize("content", [{}, {"queries": [{}], "state": 1, "protocol": [], "cmc": 3, "mAP": "x"}])
def test_missing_keys_are_said(run: Path, reader: Reader, name: str, content: dict[str, object]) -> None:
    """A file without the keys it promises, or with other things in them, is told of; the rest is shown."""
    (run / "metrics.jsonl").write_text("")
    (run / name).write_text(json.dumps(content))
    page = Page(write_report(run, reader))
    assert f"{name} cannot be shown: it lacks '" in page.text
    assert page.tags.count("section") == len(SECTIONS)


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1e999}',
        '{"step": "x"}',
        '{"step": 61, "loss": "high"}',
        '{"step": 61, "lr": [1]}',
        '{"step": 61, "loss": 1' + 400 * "0" + "}",
        "{}",
        "7",
    ],
)
def test_odd_metrics_are_said(run: Path, reader: Reader, line: str) -> None:
    """A line of metrics whose values are no numbers is left out, and counted."""
    (run / "metrics.jsonl").write_text(f"{json.dumps(make_record(1))}\n{line}\n")
    page = Page(write_report(run, reader))
    assert "metrics.jsonl: 1 unreadable line(s) left out" in page.text
    assert "1 steps logged" in page.text


def test_metrics_that_are_not_finite_are_drawn_as_gaps(run: Path, reader: Reader) -> None:
    """The infinite loss that ended a run does not end its report."""
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1e999}\n')
    page = Page(write_report(run, reader))
    assert "2 steps logged" in page.text
    assert "Total loss: from 2 to 2" in page.values("alt")


def test_empty_run_folder(tmp_path: Path) -> None:
    """A run that died at once still has a report; a folder that is not there has none."""
    page = Page(write_report(tmp_path))
    assert page.tags.count("section") == len(SECTIONS)
    assert page.tags.count("img") == 0
    with pytest.raises(ValueError, match="no such run folder"):
        write_report(tmp_path / "nowhere")


def test_repeated_and_cut_metrics(run: Path, reader: Reader) -> None:
    """A step that stands there twice counts once, by its later line; a line cut by a kill is told, not fatal."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(dict(make_record(60), loss=123.4)) + '\n{"step": 61, "lo')
    page = Page(write_report(run, reader))
    assert "60 steps logged" in page.text
    assert "1 unreadable line(s) left out" in page.text
    assert any(alt.startswith("Total loss") and alt.endswith("to 123") for alt in page.values("alt"))


def test_cmc_only_protocol(lean: Path, reader: Reader) -> None:
    """If a protocol has no mAP, the head shows rank-1 alone."""
    evaluation = json.loads((lean / "evaluation.json").read_text())
    evaluation["mAP"] = None
    (lean / "evaluation.json").write_text(json.dumps(evaluation))
    page = Page(write_report(lean, reader))
    head = page.source.split("</header>")[0]
    assert "rank-1" in head
    assert "mAP" not in head


def test_frames_of_other_shards_are_not_shown(lean: Path, reader: Reader) -> None:
    """Shards that are not those of the run (checksum, or key at its place) give a remark and never a wrong picture."""
    environment = json.loads((lean / "environment.json").read_text())
    (lean / "environment.json").write_text(json.dumps(dict(environment, shards_checksum="4567")))
    page = Page(write_report(lean, reader))
    assert "another checksum" in page.text
    assert not any(value.startswith("data:image/jpeg") for value in page.values("src"))

    (lean / "environment.json").write_text(json.dumps(dict(environment, shards_checksum=reader.checksum)))
    rankings = make_rankings()
    rankings["queries"][0]["index"] = 2
    rankings["queries"][0]["gallery"][0]["index"] = 99
    (lean / "rankings.json").write_text(json.dumps(rankings))
    page = Page(write_report(lean, reader))
    assert "No frames of 0001C1T0001: the shards have 0002C1T0001 at its index 2" in page.text
    assert "No frames of 0002C1T0001" in page.text
    assert sum(value.startswith("data:image/jpeg") for value in page.values("src")) == 2


def test_damaged_shard(lean: Path, shard_folder: Path, tmp_path: Path) -> None:
    """A tracklet that cannot be read is named in its place; the others are shown."""
    copy = tmp_path / "damaged"
    shutil.copytree(shard_folder, copy)
    tar = copy / "shard-000000.tar"
    with tarfile.open(tar) as archive:
        at = archive.getmember("0002C1T0001.00000.jpg").offset_data + 100
    content = bytearray(tar.read_bytes())
    content[at] ^= 1
    tar.write_bytes(content)
    page = Page(write_report(lean, shards.open(copy)))
    assert "No frames of 0002C1T0001" in page.text
    assert "its bytes have changed" in page.text
    assert sum(value.startswith("data:image/jpeg") for value in page.values("src")) == 3


def test_shards_of_the_configuration(lean: Path, shard_folder: Path) -> None:
    """Without a reader the shards that config.yaml names are opened; a folder that is none is told."""
    (lean / "config.yaml").write_text(f"data:\n  shards: {shard_folder}\n")
    page = Page(write_report(lean))
    assert sum(value.startswith("data:image/jpeg") for value in page.values("src")) == 4
    (lean / "config.yaml").write_text(f"data:\n  shards: {shard_folder.parent}\n")
    page = Page(write_report(lean))
    assert "No frames:" in page.text
    assert str(shard_folder.parent) in page.text


def test_shards_not_there(lean: Path) -> None:
    """Without the shards, the rankings are shown in words and the folder that was looked for is named."""
    page = Page(write_report(lean))
    assert "nowhere/shards (data.shards) does not exist" in page.text
    assert "✓ 2 right" in page.text
    (lean / "config.yaml").write_text("seed: [")
    assert "config.yaml does not name the shards" in Page(write_report(lean)).text
