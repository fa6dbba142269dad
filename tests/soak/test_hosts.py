"""Two hosts with one and two processes each: DDP, ZeRO, evaluation, a cut that lasts and one that does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LOSSES, assert_same_losses, members, metrics, state, wait_for_step
from tests.helpers.hosts import ADDRESSES, NAMES, Hosts, two_hosts, why_not
from tests.soak.conftest import Rows

TIMEOUT_SECONDS = 6
LAUNCHER: dict[str, list[object]] = {
    "ddp": [],
    "zero2": ["--use_deepspeed", "--zero_stage", 2],
    "zero3": ["--use_deepspeed", "--zero_stage", 3],
}
Undisturbed = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Undisturbed:
    """Run folders of undisturbed runs on two hosts, by kind and number of processes; each is made once."""
    if reason := why_not():
        pytest.skip(reason)
    made: dict[tuple[str, int], Path] = {}

    def make(kind: str, processes: int) -> Path:
        if (kind, processes) not in made:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            with two_hosts() as pair:
                arguments = ["--config", tiny_config, "--run", folder]
                for status, output in pair.run("train", arguments, processes=processes, launcher=LAUNCHER[kind]):
                    assert status == 0, output
            made[kind, processes] = folder
        return made[kind, processes]

    return make


@pytest.mark.parametrize(("kind", "processes"), [("ddp", 2), ("ddp", 4), ("zero2", 2), ("zero2", 4), ("zero3", 4)])
def test_two_hosts_are_one_process(
    kind: str, processes: int, undisturbed: Undisturbed, reference: Path, rows: Rows
) -> None:
    """Every loss of 20 fp32 steps to 1e-5, scores within 0.1 points."""
    folder = undisturbed(kind, processes)
    pairs = list(zip(metrics(folder), metrics(reference), strict=True))
    apart = max(abs(ours[name] / one[name] - 1) for ours, one in pairs for name in LOSSES)
    scores = [json.loads((run / "evaluation.json").read_text()) for run in (folder, reference)]
    points = max(100 * abs(scores[0][name] - scores[1][name]) for name in ("mAP", "rank1", "rank5", "rank10"))
    rows.setdefault("Two hosts against one process, 20 steps, fp32", []).append(
        {
            "kind": kind,
            "processes": f"2 hosts x {processes // 2}",
            "losses, largest relative difference": f"{apart:.1e}",
            "scores, points": f"{points:.2f}",
        }
    )
    assert apart <= 1e-5
    assert points <= 0.1


@pytest.mark.parametrize("processes", [2, 4])
def test_evaluation(processes: int, hosts: Hosts, reference: Path, rows: Rows) -> None:
    """launch/evaluate.py of one run: evaluation.json as one process wrote it, bitwise."""
    expected = (reference / "evaluation.json").read_bytes()
    (reference / "evaluation.json").unlink()
    for status, output in hosts.run("evaluate", ["--run", reference], processes=processes):
        assert status == 0, output
    assert (reference / "evaluation.json").read_bytes() == expected
    rows.setdefault("Evaluation of one run on two hosts", []).append(
        {"processes": f"2 hosts x {processes // 2}", "evaluation.json": "that of one process, bitwise"}
    )


@pytest.mark.parametrize(("kind", "processes"), [("ddp", 4), ("zero2", 2), ("zero3", 4)])
def test_a_cut(
    kind: str, processes: int, hosts: Hosts, undisturbed: Undisturbed, tiny_config: Path, tmp_path: Path, rows: Rows
) -> None:
    """Every rank ends within the timeout and 30 s and says which host it misses; after the cable is healed the same
    command ends with the losses of an undisturbed run, bitwise."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder]
    options: dict[str, Any] = {"processes": processes, "launcher": LAUNCHER[kind]}
    short = ["--train.timeout_minutes", TIMEOUT_SECONDS / 60]
    launched = hosts.launch("train", [*arguments, *short], **options)
    wait_for_step(folder, 7, launched[0])
    hosts.cut()
    ended = ends(launched, TIMEOUT_SECONDS + 30)
    outputs = [process.communicate(timeout=60)[0] for process in launched]
    assert all(process.returncode for process in launched), outputs
    for rank in range(processes):
        near = rank < processes // 2
        message = "error: " if rank == 0 else f"[rank {rank}] error: "
        lost = f"no answer from rank {processes // 2} (host {NAMES[1]}" if near else f"rank 0's host ({ADDRESSES[0]})"
        assert f"\n{message}{lost}" in outputs[0 if near else 1], outputs
    assert state(folder)["state"] == "failed"
    assert "the last good checkpoint is" in state(folder)["reason"]  # of the side that gave up last
    reached = len(metrics(folder))
    hosts.heal()
    for status, output in hosts.run("train", arguments, **options):
        assert status == 0, output
    assert_same_losses(folder, undisturbed(kind, processes), rel=0)
    rows.setdefault(f"The cable between two hosts is cut; the timeout is {TIMEOUT_SECONDS} s", []).append(
        {
            "kind": kind,
            "processes": f"2 hosts x {processes // 2}",
            "launcher of rank 0 ended after": f"{ended[0]:.1f} s",
            "the other one after": f"{ended[1]:.1f} s",
            "after healing": f"went on from step {reached // 5 * 5}, losses bitwise as undisturbed",
        }
    )


@pytest.mark.parametrize(("kind", "processes"), [("ddp", 2), ("zero2", 4)])
def test_a_short_cut(
    kind: str, processes: int, hosts: Hosts, undisturbed: Undisturbed, tiny_config: Path, tmp_path: Path, rows: Rows
) -> None:
    """A cable that is healed before the timeout: nobody ends, and the losses are those of an undisturbed run,
    bitwise."""
    folder, seconds = tmp_path / "run", 5
    arguments = ["--config", tiny_config, "--run", folder]
    launched = hosts.launch("train", arguments, processes=processes, launcher=LAUNCHER[kind])
    wait_for_step(folder, 7, launched[0])
    hosts.cut()
    time.sleep(seconds)
    assert len(metrics(folder)) < 20
    hosts.heal()
    for process in launched:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert_same_losses(folder, undisturbed(kind, processes), rel=0)
    rows.setdefault(f"The cable is cut for {seconds} s, less than the timeout", []).append(
        {"kind": kind, "processes": f"2 hosts x {processes // 2}", "outcome": "goes on; losses bitwise as undisturbed"}
    )


def ends(launched: list[subprocess.Popen[str]], within: float) -> list[float]:
    """Seconds until each launcher ends."""
    began, ended = time.monotonic(), dict[int, float]()
    while len(ended) < len(launched):
        assert time.monotonic() - began < within, "still runs"
        for index, process in enumerate(launched):
            if index not in ended and process.poll() is not None:
                ended[index] = time.monotonic() - began
        time.sleep(0.02)
    return [ended[index] for index in range(len(launched))]


@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
@pytest.mark.parametrize("host", [0, 1])
def test_restarts(
    rendezvous: str, host: int, hosts: Hosts, undisturbed: Undisturbed, tiny_config: Path, tmp_path: Path, rows: Rows
) -> None:
    """`--max_restarts 1` on both hosts brings a run back after a rank of either was killed: with c10d the launchers
    count their attempts apart."""
    folder = tmp_path / "run"
    launcher = ["--rdzv_backend", rendezvous, "--max_restarts", 1]
    launched = hosts.launch("train", ["--config", tiny_config, "--run", folder], launcher=launcher)
    wait_for_step(folder, 7, launched[0])
    os.kill(next(pid for pid, role in members(launched[host].pid).items() if role == "rank"), signal.SIGKILL)
    killed = time.monotonic()
    for process in launched:
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
    assert_same_losses(folder, undisturbed("ddp", 2), rel=0)
    rows.setdefault("A rank of two hosts is killed; --max_restarts 1", []).append(
        {
            "--rdzv_backend": rendezvous,
            "killed on host": host,
            "outcome": f"done by itself {time.monotonic() - killed:.0f} s later, losses bitwise",
        }
    )
