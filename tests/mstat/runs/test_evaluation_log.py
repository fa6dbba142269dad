"""The scores during training, and which of them is the best."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mstat.runs.evaluation_log import FILE, Evaluations, Progress, kept


def test_a_run_that_goes_on_knows_its_best(tmp_path: Path) -> None:
    """Of the steps that a checkpoint has; later ones, which are done again, are forgotten."""
    log = Evaluations(tmp_path, ("mAP", "rank1"))
    assert log.resume(0) == Progress(0, -math.inf)
    for step, score, is_best in ((10, 0.5, True), (20, 0.4, False), (30, 0.6, True)):
        log.add(step, {"mAP": score, "rank1": 0.9}, is_best)
    assert kept(tmp_path) == {"step": 30, "mAP": 0.6, "rank1": 0.9, "kept": True}
    assert log.resume(25) == Progress(20, 0.5)
    assert [line[:11] for line in (tmp_path / FILE).read_text().splitlines()] == ['{"step": 10', '{"step": 20']


def test_the_first_score_that_there_is_decides() -> None:
    """A protocol without mAP goes by rank-1; without any score nothing is better than another."""
    log = Evaluations(Path(), ("mAP", "rank1"))
    assert log.main({"mAP": 0.2, "rank1": 0.9}) == 0.2
    assert log.main({"mAP": None, "rank1": 0.9}) == 0.9
    assert log.main({"mAP": 0.0, "rank1": 0.9}) == 0.0
    assert log.main({}) == -math.inf


@pytest.mark.parametrize("text", ["", "{", "[]\n", "7\n", '{"kept": true}\n', '{"kept": true, "step": "9"}\n'])
def test_a_file_that_holds_no_best(text: str, tmp_path: Path) -> None:
    """Missing, cut short, or somebody else's."""
    assert kept(tmp_path) is None
    (tmp_path / FILE).write_text(text)
    assert kept(tmp_path) is None
