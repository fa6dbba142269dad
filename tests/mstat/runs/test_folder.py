"""metrics.jsonl: a line a step, cut back when a run goes on, and stopped by what is not finite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mstat.runs.folder import Journal, NotFiniteError


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_records_wait_for_flush_and_become_numbers(tmp_path: Path) -> None:
    """Tensors are written as numbers, one object a step, when asked for."""
    journal = Journal(tmp_path, 0, batch_size=4, enabled=True)
    journal.add({"step": 1}, {"loss": torch.tensor(2.5)})
    assert lines(tmp_path) == []
    (record,) = journal.flush()
    assert lines(tmp_path) == [record]
    assert (record["step"], record["loss"]) == (1, 2.5)
    assert record["clips_per_s"] > 0
    assert journal.flush() == []


def test_shares_are_summed_when_they_are_read(tmp_path: Path) -> None:
    """One collective for all waiting steps, in `flush` and not before; values that all ranks know are not summed."""
    calls: list[tuple[int, ...]] = []

    def total(shares: torch.Tensor) -> torch.Tensor:  # of three ranks with equal shares
        calls.append(tuple(shares.shape))
        return 3 * shares

    journal = Journal(tmp_path, 0, batch_size=4, enabled=True, total=total)
    for step in (1, 2):
        journal.add(
            {"step": step, "grad_norm": torch.tensor(5.0)},
            {"loss": torch.tensor(float(step)), "accuracy": 0.2 * torch.ones(())},
        )
    assert calls == []
    first, second = journal.flush()
    assert calls == [(2, 2)]
    assert [first["loss"], second["loss"], second["grad_norm"]] == [3, 6, 5]
    assert first["accuracy"] == pytest.approx(0.6)


def test_going_on_forgets_later_steps_and_torn_lines(tmp_path: Path) -> None:
    """A run that goes on after step 2 keeps steps 1 and 2; the line that a crash cut off goes too."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    Journal(tmp_path, 2, batch_size=4, enabled=True)
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_written_and_raised(tmp_path: Path, value: float) -> None:
    """The error names the step and the term, also on ranks that write nothing."""
    for enabled in (True, False):
        journal = Journal(tmp_path, 0, batch_size=4, enabled=enabled)
        journal.add({"step": 6}, {"loss": torch.tensor(1.0)})
        journal.add({"step": 7, "grad_norm": torch.tensor(value)}, {"loss": torch.tensor(1.0)})
        with pytest.raises(NotFiniteError, match=r"step 7: grad_norm is -?(nan|inf)"):
            journal.flush()
    assert [record["step"] for record in lines(tmp_path)] == [6, 7]  # of the rank that writes
