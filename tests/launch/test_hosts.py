"""A run on two hosts is the run of one process, and a cut between them costs nothing but time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import assert_same_losses, state, wait_for_step
from tests.hosts import ADDRESSES, NAMES, Hosts, two_hosts, why_not
from tests.slurm import skip

TIMEOUT_SECONDS = 6


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if reason := why_not():
        skip(reason)
    with two_hosts() as made:
        yield made


def test_a_run_on_two_hosts_outlives_a_cut(hosts: Hosts, reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """One process on each of two hosts. The cable is cut: both sides end within the timeout and 30 s and name the host
    they miss. It is healed: the same command goes on, and ends with the losses of one process to 1e-5. Evaluated on two
    hosts, the one process's run has the same scores, bitwise."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder]
    launched = hosts.launch("train", [*arguments, "--train.timeout_minutes", TIMEOUT_SECONDS / 60])
    wait_for_step(folder, 7, launched[0])
    hosts.cut()
    cut = time.monotonic()
    outputs = [process.communicate(timeout=120)[0] for process in launched]
    assert time.monotonic() - cut < TIMEOUT_SECONDS + 30
    assert all(process.returncode for process in launched), outputs
    assert f"\nerror: no answer from rank 1 (host {NAMES[1]}, pid " in outputs[0]
    assert f"\n[rank 1] error: rank 0's host ({ADDRESSES[0]}) does not answer" in outputs[1]
    assert state(folder)["state"] == "failed"

    hosts.heal()
    for status, output in hosts.run("train", arguments):
        assert status == 0, output
    assert state(folder)["state"] == "done"
    assert_same_losses(folder, reference, rel=1e-5)

    expected = (reference / "evaluation.json").read_bytes()
    (reference / "evaluation.json").unlink()
    for status, output in hosts.run("evaluate", ["--run", reference]):
        assert status == 0, output
    assert (reference / "evaluation.json").read_bytes() == expected
