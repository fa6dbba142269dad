"""The progress of a run, on a terminal and in a log, and the table of its scores."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import threading
from typing import Any

import pytest
from rich.console import Console

from mstat.report.progress import Count, Progress
from mstat.report.scores import score_table, short
from tests.mstat.report.conftest import STAGES, make_evaluation, make_record


def show(evaluation: dict[str, Any]) -> str:
    output = io.StringIO()
    Console(file=output, width=80).print(score_table(evaluation))
    return output.getvalue()


def on_terminal(total: int, steps: range, **settings: bool) -> str:
    """Return the output that a pseudo-terminal of 80 columns receives."""
    leader, follower = os.openpty()
    received = bytearray()

    def drain() -> None:
        try:
            while part := os.read(leader, 65536):
                received.extend(part)
        except OSError:  # Linux's end of file, once the other side is closed
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    with open(follower, "w") as terminal:
        console = Console(file=terminal, width=80, legacy_windows=False)
        with Progress(total, 0, console=console, **settings) as progress:
            for step in steps:
                progress.update(step, make_record(step))
            progress.say("saved [step-3]")
    reader.join()
    os.close(leader)
    return received.decode()


def test_log_gets_plain_lines() -> None:
    """Output that is no terminal gets one whole line every N updates, the first and the last included, no codes."""
    console = Console(file=io.StringIO(), width=80)
    with Progress(50, 0, every=20, console=console) as progress:
        for step in range(1, 51):
            progress.update(step, make_record(step))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [int(re.match(r"step (\d+)/50 ", line).group(1)) for line in lines] == [1, 21, 41, 50]  # type: ignore[union-attr]
    record = make_record(21)
    sums = {s: record[f"loss/{s}/cross_entropy"] + record[f"loss/{s}/triplet"] for s in ("I", "II", "III")}
    assert " ".join(f"{stage} {value:.2f}" for stage, value in sums.items()) in lines[1]
    for part in ("epoch 2", f"loss {record['loss']:.2f}", "lr 0.001", "grad_norm 2.5", "130 clips/s"):
        assert part in lines[1]
    assert "0:00 left" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_forced_colour_does_not_animate_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """FORCE_COLOR, as CI sets it, makes no file a terminal: the lines stay lines."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(file=io.StringIO())
    with Progress(3, 0, every=1, console=console) as progress:
        for step in range(1, 4):
            progress.update(step, make_record(step))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("\n") == 3
    assert "\r" not in text


def test_terminal_gets_one_live_line() -> None:
    """On a terminal of 80 columns the line shows it all, uncut, and is redrawn in place; `say` writes above it."""
    text = on_terminal(3, range(1, 4))
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split("\r")
    last = next(line for line in reversed(drawn) if "3/3" in line)
    sums = " ".join(f"{stage} {4.5 * math.exp(-3 / 20):.2f}" for stage in ("I", "II", "III"))
    assert last.endswith(f" 3/3  epoch 0  loss {make_record(3)['loss']:.2f}  {sums}  130 clips/s  0:00 left")
    assert max(len(line.strip()) for line in drawn) <= 80
    assert "\x1b[2K" in text, "the line is erased and drawn anew"
    assert "saved [step-3]" in text


def test_other_ranks_are_silent() -> None:
    """With `enabled=False` nothing is written, to a log or to a terminal."""
    console = Console(file=io.StringIO())
    with Progress(3, 0, False, every=1, console=console) as progress:
        progress.update(1, make_record(1))
        progress.say("nobody hears this")
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert on_terminal(3, range(1, 4), enabled=False) == ""


def test_no_thread_is_started() -> None:
    """The live line needs no thread: forking loader processes while it is shown is safe."""
    leader, follower = os.openpty()
    before = threading.active_count()
    with open(follower, "w") as terminal, Progress(3, console=Console(file=terminal)) as progress:
        progress.update(1, make_record(1))
        assert threading.active_count() == before
    os.close(leader)


def test_incomplete_record() -> None:
    """A record without losses, between two reads of the device, is shown by what it has."""
    console = Console(file=io.StringIO())
    with Progress(3, 0, every=1, console=console) as progress:
        progress.update(1, {"step": 1, "epoch": 4, "lr": None})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 1/3  epoch 4" in text
    assert "loss" not in text


def test_score_table_shows_the_numbers() -> None:
    """Baselines in their order, then the subsets of stages, in percent, with protocol and counts, in 80 columns."""
    text = show(make_evaluation())
    names = ["untrained", "HSV histogram, 6 stripes", *(f"Stage {name}" for name in STAGES)]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == names
    assert rows[1][1:] == ["43.2", "50.0", "55.0", "58.0", "60.0", "–"]
    assert rows[-1][1] == "76.1"
    words = " ".join(text.split())
    assert "Protocol official, split 0" in words
    assert "1,840 valid of 1,980 queries, 11,310 gallery tracklets" in words
    assert "Not comparable" not in words


def test_score_table_without_map() -> None:
    """A protocol that reports CMC alone has a dash for mAP; no baselines is no fault; partial data is told."""
    evaluation = make_evaluation()
    del evaluation["baselines"]
    evaluation.update(warnings=["partial: no cameras"], protocol="[b]own")
    evaluation["stages"]["I"]["mAP"] = None
    text = show(evaluation)
    first = next(line for line in text.splitlines() if line.startswith("│"))
    assert [cell.strip() for cell in first.split("│")[1:4]] == ["Stage I", "–", "80.0"]
    assert "Protocol [b]own" in text
    assert "Not comparable with published scores: partial: no cameras." in " ".join(text.split())


def test_scores_on_a_line_say_what_speaks_against_them() -> None:
    """Those during a training of a part of a data set, too."""
    evaluation = make_evaluation() | {"mAP": 0.5, "rank1": 0.25, "warnings": []}
    assert short(evaluation) == "mAP 50.0, rank-1 25.0"
    assert short(evaluation | {"warnings": ["partial: 3 of 5"]}).endswith(", not comparable with published scores")


def test_counted_work_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short work is silent in a log; long work has a line after 10 seconds, one every 30, and the last; each says how
    much is done, how fast, and how long the rest takes, whatever was done before."""
    seconds = [0.0]
    monkeypatch.setattr("mstat.report.progress.time.monotonic", lambda: seconds[0])
    console = Console(file=io.StringIO(), width=80)
    with Count("ranking", 9, "queries", console=console) as count:
        for _ in range(9):
            seconds[0] += 1
            count.advance()
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    with Count("extracting features", 1100, "tracklets", completed=100, console=console) as count:
        for done in range(110, 1101, 10):
            seconds[0] += 1
            count.show(done)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [
        "extracting features: 200/1,100 tracklets  10/s  1:30 left",
        "extracting features: 500/1,100 tracklets  10/s  1:00 left",
        "extracting features: 800/1,100 tracklets  10/s  0:30 left",
        "extracting features: 1,100/1,100 tracklets  10/s  0:00 left",
    ]


def test_counted_work_on_a_terminal() -> None:
    """Work within a training has its line below the training's and leaves none; of another rank there is nothing."""
    leader, follower = os.openpty()
    with open(follower, "w") as terminal:
        console = Console(file=terminal, width=80, legacy_windows=False)
        with Progress(3, console=console) as progress:
            progress.update(1, make_record(1))
            with Count("ranking", 5, "queries", console=console) as count:
                count.advance(5)
            progress.update(3, make_record(3))
        with Count("ranking", 5, "queries", console=console):
            pass
        with Count("t-SNE", console=console), Count("silent", 1, enabled=False, console=console) as silent:
            silent.advance()
    parts = []
    with contextlib.suppress(OSError):  # the end, since the other side is closed; a read gives a part of it
        while part := os.read(leader, 65536):
            parts.append(part)
    received = b"".join(parts).decode()
    os.close(leader)
    nested, alone = received.index("ranking: 5/5 queries"), received.rindex("ranking: 0/5 queries")
    assert received.index("1/3") < nested < received.rindex("3/3") < alone < received.index("t-SNE")
    assert "ranking" not in received[received.rindex("3/3") : alone - 60]
    assert "silent" not in received
