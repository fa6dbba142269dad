"""The short form of `make fuzz`: a few mutated inputs of each kind, of which none may be read wrong, crash or hang."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from tests.conftest import PROJECT
from tests.fuzz.cases import Outcome, attempt
from tests.fuzz.mutate import mutate_bytes, mutate_json, mutate_text


@pytest.mark.slow
def test_mutated_inputs_are_read_right_or_refused() -> None:
    """Fresh cases every time would make a test that fails by luck; these are of a fixed seed.

    In a process of its own: a child that is forked from one with running threads may wait for them for ever.
    """
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "6", "--seed", "2026"]
    end = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert end.returncode == 0, end.stdout + end.stderr


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        (lambda: None, Outcome.READ),
        (lambda: False, Outcome.WRONG),
        (lambda: 1, Outcome.WRONG),
        (lambda: [][0], Outcome.TRACEBACK),
        (lambda: os.abort(), Outcome.CRASH),
        (lambda: time.sleep(60), Outcome.HANG),
        (lambda: bytearray(8 << 30), Outcome.TRACEBACK),
    ],
)
def test_every_outcome_is_noticed(action, outcome: Outcome) -> None:  # type: ignore[no-untyped-def]
    """The harness tells a traceback, a crash, a hang, memory without bound and a silent failure from a refusal."""
    assert attempt(action, seconds=1.0 if outcome == Outcome.HANG else 30.0).outcome == outcome


def test_a_refusal_is_one_line() -> None:
    """Several lines are a listing, or wrong; an escape sequence is wrong."""
    from mstat.errors import UserError

    def refuse(text: str) -> None:
        raise UserError(text)

    assert attempt(lambda: refuse("a.yaml: no")).outcome == Outcome.REFUSED


def test_mutations_change_something() -> None:
    """Each differs from what it was made of, and is the same for the same seed."""
    for seed in range(200):
        data = bytes(range(64)) * 4
        assert mutate_bytes(data, random.Random(seed)) != data
        assert mutate_bytes(data, random.Random(seed)) == mutate_bytes(data, random.Random(seed))
    values = {"a": [1, 2, {"b": "c"}], "d": None}
    assert sum(repr(mutate_json(values, random.Random(seed))) != repr(values) for seed in range(50)) > 35
    assert sum(mutate_text("1,2\n3,4\n", random.Random(seed)) != "1,2\n3,4\n" for seed in range(50)) > 35
