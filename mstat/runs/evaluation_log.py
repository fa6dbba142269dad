"""evaluations.jsonl: the scores during training, one object an evaluation, and which of them is the best.

With `train.keep_best` an object that is better than all before it says `"kept": true`: the checkpoint of that step
stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mstat.files import read_plain
from mstat.runs.folder import cut_back

FILE = "evaluations.jsonl"


class Progress(NamedTuple):
    """The step of a run's last evaluation (0 before the first), and the best score that was kept."""

    last: int
    best: float


class Evaluations:
    """Writes the scores during training; one for the main process, which alone knows what is on the disk.

    Args:
        main_scores: Names of scores, of which the first that is not null decides what is best.
    """

    def __init__(self, run: Path, main_scores: Sequence[str]) -> None:
        self.run, self.main_scores = run, main_scores

    def resume(self, start: int) -> Progress:
        """Forget what was written of steps after `start`."""
        last = cut_back(self.run / FILE, start)
        record = kept(self.run)
        return Progress(last, -math.inf if record is None else self.main(record))

    def add(self, step: int, scores: dict[str, Any], is_kept: bool) -> None:
        """Write the scores of a step."""
        with (self.run / FILE).open("a") as file:
            file.write(json.dumps({"step": step, **scores, **({"kept": True} if is_kept else {})}) + "\n")

    def main(self, scores: dict[str, Any]) -> float:
        """The score that decides; less than any other where there is none."""
        return next((float(scores[name]) for name in self.main_scores if scores.get(name) is not None), -math.inf)


def kept(run: Path) -> dict[str, Any] | None:
    """The best of the evaluations during training, where `train.keep_best` kept its checkpoint."""
    try:
        records = [json.loads(line) for line in read_plain(run / FILE).splitlines()]
        return max((r for r in records if r.get("kept") and type(r["step"]) is int), key=lambda r: r["step"])
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return None
