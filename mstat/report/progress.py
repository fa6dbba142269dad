"""Progress of training: one live line on a terminal, plain lines in a log.

Only `update` redraws the live line; rich's thread is off, so that drawing takes no time from training.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

REDRAW_SECONDS = 0.1


class Progress:
    """Progress display of a training run; a context manager.

    Args:
        total_steps: Step at which the run ends.
        start_step: Steps done before a resume; the estimate of the remaining time ignores them.
        enabled: False on every rank but 0: nothing is written.
        every: Number of updates between two plain lines, if stderr is no terminal.
        console: Console to write to; stderr by default.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        enabled: bool = True,
        *,
        every: int = 20,
        console: Console | None = None,
    ) -> None:
        self.total_steps, self.start_step = total_steps, start_step
        self.enabled, self.every = enabled, every
        self._console = console or Console(stderr=True)
        # Not `console.is_terminal`: FORCE_COLOR, which CI sets, would make that true for a log file.
        self._live = enabled and self._console.file.isatty() and not self._console.is_dumb_terminal
        self._updates, self._redrawn, self._started = 0, 0.0, time.monotonic()
        self._bar = Bar(
            BarColumn(bar_width=16),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),  # the bar shrinks
            console=self._console,
            auto_refresh=False,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=start_step)

    def __enter__(self) -> Progress:
        self._started = time.monotonic()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, step: int, record: Mapping[str, Any]) -> None:
        """Show that `step` steps are done. `record` is a line of metrics.jsonl; missing keys are left out."""
        if not self.enabled:
            return
        self._updates += 1
        last = step >= self.total_steps
        parts = [f"{step}/{self.total_steps}", *_summary(record), f"{clock(self._seconds_left(step))} left"]
        if self._live:
            self._bar.update(self._task, completed=step, description="  ".join(parts))
            now = time.monotonic()
            if last or now - self._redrawn >= REDRAW_SECONDS:
                self._bar.refresh()
                self._redrawn = now
        elif last or (self._updates - 1) % self.every == 0:
            self.say("step " + "  ".join([*parts, *_detail(record)]))

    def say(self, text: str) -> None:
        """Write a separate line above the live one."""
        if self.enabled:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _seconds_left(self, step: int) -> float:
        seconds_a_step = (time.monotonic() - self._started) / max(1, step - self.start_step)
        return seconds_a_step * max(0, self.total_steps - step)


def _summary(record: Mapping[str, Any]) -> list[str]:
    """Return the parts of a record that fit beside a bar in 80 columns; a stage's loss is the sum of its terms."""
    parts = []
    if record.get("epoch") is not None:
        parts.append(f"epoch {record['epoch']}")
    if record.get("loss") is not None:
        parts.append(f"loss {record['loss']:.2f}")
    if stages := by_stage(record):
        parts.append(" ".join(f"{stage} {value:.2f}" for stage, value in stages.items()))
    if record.get("clips_per_s") is not None:
        parts.append(f"{record['clips_per_s']:.0f} clips/s")
    return parts


def by_stage(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the loss of each stage: the sum of its terms in a record of metrics.jsonl."""
    stages: dict[str, float] = {}
    for key, value in record.items():
        if key.startswith("loss/") and value is not None:
            stage = key.split("/")[1]
            stages[stage] = stages.get(stage, 0.0) + value
    return stages


def _detail(record: Mapping[str, Any]) -> list[str]:
    return [f"{key} {record[key]:.3g}" for key in ("lr", "grad_norm") if record.get(key) is not None]


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    minutes, remaining = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{remaining:02}" if hours else f"{minutes}:{remaining:02}"
