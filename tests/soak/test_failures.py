"""Every failure under every kind of data parallelism; tests/launch/test_failures.py has one case of each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import (
    LOSSES,
    NO_SCORES,
    Processes,
    assert_same_losses,
    members,
    metrics,
    run,
    start,
    state,
    wait_for_step,
)
from tests.launch.test_failures import checkpoints, small_disk
from tests.soak.conftest import Rows

__all__ = ["small_disk"]


@pytest.mark.parametrize(("whom", "name", "kind"), [
    ("one rank", "SIGUSR1", "ddp"), ("one rank", "SIGTERM", "zero2"), ("one rank", "SIGTERM", "zero3"),
    ("all ranks", "SIGTERM", "ddp"), ("all ranks", "SIGUSR1", "zero2"), ("all ranks", "SIGUSR1", "zero3"),
])  # fmt: skip
def test_signals(
    whom: str, name: str, kind: str, reference: Path, tiny_config: Path, tmp_path: Path, rows: Rows
) -> None:
    """A checkpoint, `requeue`, the launcher's exit 0; one rank's signal in step 7 stops all after step 7."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    options: Processes = {"accelerate": kind, "processes": 2}
    process = start("train", arguments, fault=f"{name} 1 7" if whom == "one rank" else None, **options)
    wait_for_step(folder, 6 if whom == "one rank" else 7, process)
    signalled = time.monotonic()
    if whom == "all ranks":
        for pid, role in members(process.pid).items():
            if role == "rank":
                os.kill(pid, signal.Signals[name])
    while state(folder)["state"] == "running":
        time.sleep(0.005)
    saved = time.monotonic() - signalled
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    step = state(folder)["step"]
    assert state(folder) == {"state": "requeue", "step": step, "reason": f"stopped by {name}"}
    assert f"step-{step:09d}" in checkpoints(folder)
    assert step == 7 or whom == "all ranks"
    rows.setdefault("Stop signals", []).append(
        {
            "signal": name,
            "to": whom,
            "kind": kind,
            "step, save and state.json": f"{saved:.2f} s",
            "launcher's end": f"{time.monotonic() - signalled:.1f} s",
        }
    )
    status, output = run("train", arguments, **options)
    assert status == 0, output
    assert_same_losses(folder, reference, rel=1e-5)


@pytest.mark.parametrize("fault", ["SIGKILL", "SIGSTOP", "broken"])
@pytest.mark.parametrize(("kind", "rank"), [("ddp", 0), ("ddp", 1), ("zero2", 1), ("zero3", 0)])
def test_a_lost_rank(rank: int, fault: str, kind: str, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """Three ranks, one of which is killed, hangs (with a timeout of 6 s), or fails: the others name it within 30 s."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES, "--train.timeout_minutes", 0.1]
    process = start("train", arguments, accelerate=kind, processes=3, fault=f"{fault} {rank} 7")
    wait_for_step(folder, 6, process)
    struck = time.monotonic()
    while sum(role == "rank" for role in members(process.pid).values()) > (fault == "SIGSTOP"):
        assert time.monotonic() - struck < 30 + (6 if fault == "SIGSTOP" else 0)
        time.sleep(0.02)
    ended = time.monotonic() - struck
    for pid, role in members(process.pid).items():
        if role == "rank":
            os.kill(pid, signal.SIGKILL)  # the stopped one, which the launcher would end 30 s later
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert state(folder)["state"] == "failed"
    cause = f"rank {rank} \\(host \\S+, pid \\d+\\)" + (": OSError: broken" if fault == "broken" else "")
    for other in {0, 1, 2} - {rank}:
        assert re.search(rf"^{f'.rank {other}. ' if other else ''}error: .*{cause}", output, re.M), output
    rows.setdefault("One of three ranks is lost; the timeout is 6 s", []).append(
        {"fault": fault, "rank": rank, "kind": kind, "all others ended after": f"{ended:.1f} s"}
    )


@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3"])
@pytest.mark.parametrize(("fault", "message"), [
    ("loss", "step 7: loss/III/cross_entropy is nan, loss/III/triplet is nan"),
    ("gradient", "step 7: grad_norm is (inf|nan)"),
])  # fmt: skip
def test_not_finite(fault: str, message: str, kind: str, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """Every rank stops at the same step and names it, the term and the last good checkpoint; none is poisoned."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES, "--train.save_every", 1]
    status, output = run("train", arguments, accelerate=kind, processes=2, fault=f"{fault} 1 7")
    assert status != 0
    for rank in ("error: ", "[rank 1] error: "):
        line = f"{re.escape(rank)}{message}; the last good checkpoint is {folder}/checkpoints/step-000000006"
        assert re.search(f"^{line}", output, re.M), output
    assert checkpoints(folder) == ["step-000000005", "step-000000006"]
    rows.setdefault("Not finite", []).append({"what": fault, "kind": kind, "told by both ranks": message})


def test_other_numbers_of_ranks(reference: Path, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """DDP: 6 steps on 2 processes, 7 on 1, the rest on 4: the losses of one process to 1e-5."""
    folder = tmp_path / "run"
    for steps, options in (
        (6, {"accelerate": "ddp", "processes": 2}),
        (13, {}),
        (20, {"accelerate": "ddp", "processes": 4}),
    ):
        arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES, "--train.steps", steps]
        status, output = run("train", arguments, **options)
        assert status == 0, output
    assert_same_losses(folder, reference, rel=1e-5)
    pairs = zip(metrics(folder), metrics(reference), strict=True)
    apart = max(abs(ours[name] / one[name] - 1) for ours, one in pairs for name in LOSSES)
    rows.setdefault("Going on with other ranks", []).append(
        {"kind": "ddp", "processes": "2, 1, 4", "outcome": f"losses within {apart:.1e} of one process"}
    )


@pytest.mark.parametrize("kind", ["zero0", "zero1", "zero2", "zero3"])
def test_zero_keeps_its_number_of_ranks(kind: str, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """A DeepSpeed checkpoint is cut by rank: another number is refused with both ways out, and nothing is touched."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES, "--train.steps", 6]
    status, output = run("train", arguments, accelerate=kind, processes=2)
    assert status == 0, output
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments[-1] = 20
    status, output = run("train", arguments, accelerate=kind, processes=3)
    assert status != 0
    error = re.search(r"^error: (.*DeepSpeed wrote it on 2 processes, this launch has 3.*)$", output, re.M)
    assert error
    assert "--num_processes 2" in error[1]
    assert "--model.init" in error[1]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rows.setdefault("Going on with other ranks", []).append(
        {"kind": kind, "processes": "2, 3", "outcome": "refused, with the way"}
    )


@pytest.mark.parametrize("kind", ["ddp", "zero2", "zero3"])
def test_full_disk(kind: str, reference: Path, tiny_config: Path, small_disk: Path, rows: Rows) -> None:
    """Two processes save on a disk with room for one checkpoint: the first stays, and the run goes on after room is
    made."""
    subprocess.run(["mount", "-o", "remount,size=2500k", small_disk], check=True)
    folder = small_disk / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    status, output = run("train", arguments, accelerate=kind, processes=2)
    assert status != 0
    assert re.search(r"error: .*No space left on device", output), output
    assert [name for name in checkpoints(folder) if not name.startswith(".")] == ["step-000000005"]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    status, output = run("train", arguments, accelerate=kind, processes=2)
    assert status == 0, output
    assert_same_losses(folder, reference, rel=1e-5)
    rows.setdefault("A full disk while saving", []).append(
        {"kind": kind, "outcome": "told by both ranks, the checkpoint before stays, goes on after room is made"}
    )


@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_restarts(kind: str, reference: Path, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """`--max_restarts 1` brings a run back after a rank was killed."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    status, output = run("train", arguments, accelerate=kind, processes=2, restarts=1, fault="SIGKILL 1 7")
    assert status == 0, output
    assert json.loads((folder / "state.json").read_text())["state"] == "done"
    assert_same_losses(folder, reference, rel=1e-5)
    rows.setdefault("--max_restarts 1 after a kill", []).append({"kind": kind, "outcome": "done by itself"})
