"""Progress of long work: one live line on a terminal, plain lines in a log.

`Progress` is that of training, `Count` that of counted work such as extraction. Only updates redraw the live line;
rich's thread is off, so that drawing takes no time from the work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

REDRAW_SECONDS = 0.1
FIRST_LINE_SECONDS, LINE_SECONDS = 10.0, 30.0  # in a log: work that takes less than the first is silent
S = TypeVar("S", bound="_Line")

_live: list[Bar] = []  # bars on the terminal, the outermost first


class _Line:
    """A live line on a terminal; a context manager. Work within other work adds a line below its own.

    Args:
        total: Units of work; None if unknown.
        completed: Units done before.
        enabled: False on every rank but 0: nothing is written.
        console: Console to write to; stderr by default.
    """

    def __init__(self, total: int | None, completed: int, enabled: bool, console: Console | None) -> None:
        self.total, self.enabled, self._completed = total, enabled, completed
        self._console = console or Console(stderr=True)
        # Not `console.is_terminal`: FORCE_COLOR, which CI sets, would make that true for a log file.
        self._live = enabled and self._console.file.isatty() and not self._console.is_dumb_terminal
        self._redrawn, self._started = 0.0, time.monotonic()

    def __enter__(self: S) -> S:
        self._started = time.monotonic()
        if self._live:
            self._is_outermost = not _live
            self._bar = self._new_bar() if self._is_outermost else _live[-1]
            self._task = self._bar.add_task("", total=self.total, completed=self._completed)
            _live.append(self._bar)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            _live.pop()
            if self._is_outermost:
                self._bar.stop()
            else:
                self._bar.remove_task(self._task)
                self._bar.refresh()

    def _new_bar(self) -> Bar:
        return Bar(
            BarColumn(bar_width=16),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),  # the bar shrinks
            console=self._console,
            auto_refresh=False,
            transient=self._is_transient,
        )

    _is_transient = False

    def _redraw(self, completed: int, text: str, at_once: bool) -> None:
        self._bar.update(self._task, completed=completed, description=text)
        now = time.monotonic()
        if at_once or now - self._redrawn >= REDRAW_SECONDS:
            self._bar.refresh()
            self._redrawn = now

    def say(self, text: str) -> None:
        """Write a separate line above the live one."""
        if self.enabled:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _seconds_left(self, completed: int) -> float:
        a_unit = (time.monotonic() - self._started) / max(1, completed - self._completed)
        return a_unit * max(0, (self.total or 0) - completed)


class Progress(_Line):
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
        super().__init__(total_steps, start_step, enabled, console)
        self.total_steps, self.every, self._updates = total_steps, every, 0

    def update(self, step: int, record: Mapping[str, Any]) -> None:
        """Show that `step` steps are done. `record` is a line of metrics.jsonl; missing keys are left out."""
        if not self.enabled:
            return
        self._updates += 1
        last = step >= self.total_steps
        parts = [f"{step}/{self.total_steps}", *_summary(record), f"{clock(self._seconds_left(step))} left"]
        if self._live:
            self._redraw(step, "  ".join(parts), at_once=last)
        elif last or (self._updates - 1) % self.every == 0:
            self.say("step " + "  ".join([*parts, *_detail(record)]))


class Count(_Line):
    """Progress display of counted work, such as tracklets of which features are extracted; a context manager.

    On a terminal, its line goes when the work is done. A log gets a line after `FIRST_LINE_SECONDS`, others every
    `LINE_SECONDS`, and one at the end if there was one before.

    Args:
        label: Name of the work.
        total: Units of work; None for a single one, whose progress is unknown.
        unit: Name of the units.
        completed: Units done before.
        enabled, console: As for `Progress`.
    """

    _is_transient = True

    def __init__(
        self,
        label: str,
        total: int | None = None,
        unit: str = "",
        completed: int = 0,
        enabled: bool = True,
        *,
        console: Console | None = None,
    ) -> None:
        super().__init__(total, completed, enabled, console)
        self.label, self.unit, self._begin = label, unit, completed
        self._done, self._next_line, self._has_lines = completed, FIRST_LINE_SECONDS, False

    def __enter__(self) -> Count:
        super().__enter__()
        if self._live:
            self._redraw(self._done, self._text(), at_once=True)
        return self

    def advance(self, units: int = 1) -> None:
        """Show that more units are done."""
        self.show(self._done + units)

    def show(self, done: int) -> None:
        """Show that so many units are done."""
        self._done = done
        if not self.enabled:
            return
        seconds, last = time.monotonic() - self._started, self._done == self.total
        if self._live:
            self._redraw(self._done, self._text(), at_once=last)
        elif seconds >= self._next_line or (last and self._has_lines):
            self.say(self._text())
            self._has_lines, self._next_line = True, seconds + LINE_SECONDS

    def _text(self) -> str:
        if self.total is None:
            return self.label
        parts = [f"{self.label}: {self._done:,}/{self.total:,} {self.unit}"]
        if (done := self._done - self._begin) > 0:
            rate = done / max(1e-9, time.monotonic() - self._started)
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
            parts.append(f"{clock(self._seconds_left(self._done))} left")
        return "  ".join(parts)


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
