"""HTML of a training: losses, learning rate, scores during training."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from typing import Any

from mstat.report import figures, page
from mstat.report.run_reader import Folder

MOST_TERMS = 12  # most loss terms to draw; runs have two or three
TERM = re.compile(r"[a-z][a-z_]{0,30}")  # a loss term that is safe in a file name


def training(folder: Folder) -> str:
    if folder.is_set or folder.of_run != folder.run:
        return ""
    records, remark = folder.records()
    parts = [page.note(remark)] if remark else []
    if records:
        last = records[-1]
        summary = [f"{len(records):,} steps logged, the last is {last['step']:,}"]
        if speed := median_speed(records):
            summary.append(f"median {speed} clips/s")
        parts.append(f'<p class="soft">{page.escape(", ".join(summary))}. Thin: each step; thick: running mean.</p>')
        parts.append('<div class="figures">\n' + "\n".join(_curves(folder, records)) + "\n</div>")
    return "\n".join(parts)


def _curves(folder: Folder, records: list[dict[str, Any]]) -> list[str]:
    drawn = []

    def add(file: str, svg: bytes, name: str, trend: str) -> None:
        drawn.append(folder.figure(file, svg, f"{name}: {trend}", name))

    if any("loss" in record for record in records):
        add("loss.svg", figures.loss_figure(records), "Total loss", trend(records, "loss"))
    terms = figures.loss_terms(records)
    for number, (term, stages) in enumerate(list(terms.items())[:MOST_TERMS], start=1):
        curves = "; ".join(f"Stage {stage} {trend(records, f'loss/{stage}/{term}')}" for stage in stages)
        name = f"{term.replace('_', ' ').capitalize()} of each stage"
        file = f"loss-{term}.svg" if TERM.fullmatch(term) else f"loss-term-{number}.svg"
        add(file, figures.loss_figure(records, term), name, curves)
    if len(terms) > MOST_TERMS:
        drawn.append(page.note(f"metrics.jsonl: {len(terms)} loss terms, of which the first {MOST_TERMS} are drawn."))
    if any("lr" in record for record in records):
        add("learning-rate.svg", figures.learning_rate_figure(records), "Learning rate", trend(records, "lr"))
    evaluated, _ = folder.records("evaluations.jsonl", ("step", "mAP", "rank1"))
    if evaluated:
        course = f"rank-1 {trend(evaluated, 'rank1')}, as fractions"
        add("scores.svg", figures.scores_figure(evaluated), "Scores during training", course)
    return drawn


def median_speed(records: Sequence[dict[str, Any]]) -> str | None:
    """Return the rounded median of clips per second; None if no record has it."""
    speeds = [record["clips_per_s"] for record in records if record.get("clips_per_s") is not None]
    return f"{statistics.median(speeds):.0f}" if speeds else None


def trend(records: Sequence[dict[str, Any]], key: str) -> str:
    """Return the ends of a curve as text, for screen readers."""
    values = [record[key] for record in records if record.get(key) is not None and math.isfinite(record[key])]
    return f"from {values[0]:.3g} to {values[-1]:.3g}" if values else "never finite"
