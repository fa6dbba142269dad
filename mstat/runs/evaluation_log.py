"""evaluations.jsonl: the scores during training, one JSON object per evaluation.

With `train.keep_best`, an object with a better score than all before it has `"kept": true`, and the checkpoint of its
step is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mstat.files import read_plain
from mstat.runs.folder import cut_back

FILE = "evaluations.jsonl"


class Progress(NamedTuple):
    """The step of a run's last evaluation (0 before the first), and the score of the kept checkpoint."""

    last: int
    best: float


class Evaluations:
    """Write the scores during training, on the main process.

    Args:
        main_scores: Names of scores; the first that is not null decides which evaluation is best.
    """

    def __init__(self, run: Path, main_scores: Sequence[str]) -> None:
        self.run, self.main_scores = run, main_scores

    def resume(self, start: int) -> Progress:
        """Remove the records of steps after `start`, and return the progress up to it."""
        last = cut_back(self.run / FILE, start)
        record = kept(self.run)
        return Progress(last, -math.inf if record is None else self.main(record))

    def add(self, step: int, scores: Mapping[str, Any], is_kept: bool) -> None:
        """Append the scores of a step."""
        with (self.run / FILE).open("a") as file:
            file.write(json.dumps({"step": step, **scores, **({"kept": True} if is_kept else {})}) + "\n")

    def main(self, scores: Mapping[str, Any]) -> float:
        """Return the deciding score; -inf if there is none."""
        return next((float(scores[name]) for name in self.main_scores if scores.get(name) is not None), -math.inf)


def kept(run: Path) -> dict[str, Any] | None:
    """Return the record of the best evaluation whose checkpoint `train.keep_best` kept, or None."""
    try:
        records = [json.loads(line) for line in read_plain(run / FILE).splitlines()]
        return max((r for r in records if r.get("kept") and type(r["step"]) is int), key=lambda r: r["step"])
    except (OSError, ValueError, KeyError, AttributeError, RecursionError):
        return None
