"""`submit.py status` and `logs` without Slurm; tests/launch/test_submit.py runs them with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shards
from mstat.cluster import restarts, status
from mstat.cluster.status import num_steps
from mstat.config.cli import load_config, override, save_config
from mstat.runs.folder import write_state
from mstat.training.train import training_sampler
from tests.conftest import PROJECT

COMMAND = [sys.executable, str(PROJECT / "launch" / "submit.py")]


def on_a_terminal(columns: int, *words: object) -> list[str]:
    """Return the output lines of a command in a terminal of that width."""
    ours, theirs = os.openpty()
    command = [*COMMAND, *map(str, words)]
    variables = {**os.environ, "COLUMNS": str(columns), "TERM": "dumb", "PATH": "/nowhere"}
    with subprocess.Popen(command, stdout=theirs, env=variables):
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 1 << 16)
            except OSError:  # its end
                break
    os.close(ours)
    return text.decode().splitlines()


def test_a_narrow_terminal(tmp_path: Path) -> None:
    """No word of the table is cut on 80 or 120 columns."""
    run = tmp_path / "a-run-with-a-long-name"
    run.mkdir()
    write_state(run, "running", 18000)
    restarts.append(run, {"event": "begin", "step": 0})
    losses = {f"loss/{stage}/triplet": 12.3456 for stage in ("I", "II", "III")}
    write = {"step": 18000, "loss": 37.0368, **losses, "clips_per_s": 1234.5}
    (run / "metrics.jsonl").write_text(json.dumps(write) + "\n")
    for columns in (80, 120):
        lines = on_a_terminal(columns, "status", run)
        assert max(map(len, lines)) <= columns
        words = " ".join(lines).split()
        for word in ("job", "running", "18,000", "37.037", "12.346", "1234.5", "clips/s", "restarts", "III"):
            assert word in words or f"{word}," in words, (word, lines)
        assert "…" not in " ".join(lines)


@pytest.mark.parametrize("epoch", ["identities", "tracklets"])
def test_the_length_of_a_run_in_epochs(epoch: str, tiny_config: Path, tmp_path: Path) -> None:
    """`status` counts the steps of an epoch as training does."""
    settings = {"train.steps": "null", "train.epochs": "7", "schedule.epoch": epoch, "batch.num_identities": "2"}
    config = override(load_config(tiny_config), settings)
    save_config(config, tmp_path / "config.yaml")
    sampler = training_sampler(shards.open(config.data.shards), config)
    assert num_steps(tmp_path) == 7 * sampler.steps_per_epoch


def test_a_missing_run_does_not_hide_others(tmp_path: Path) -> None:
    """The error follows the table of the other runs."""
    (tmp_path / "run").mkdir()
    write_state(tmp_path / "run", "done", 20)
    done = subprocess.run([*COMMAND, "status", tmp_path / "run", tmp_path / "none"], capture_output=True, text=True)
    assert "done" in done.stdout
    assert f"error: {tmp_path}/none: not a run folder, and no job was submitted for it" in done.stderr
    assert done.returncode == 1


def test_a_log_that_does_not_exist_yet(tmp_path: Path) -> None:
    """`logs` reports it; `logs --follow` waits for the log."""
    log = tmp_path / "job" / "mstat-7.log"
    restarts.write_json(tmp_path / "job" / "job.json", {"scheduler": "slurm", "id": "7", "log": str(log)})
    done = subprocess.run([*COMMAND, "logs", tmp_path], capture_output=True, text=True)
    assert "no log yet" in done.stderr
    with subprocess.Popen([*COMMAND, "logs", tmp_path, "--follow"], stdout=subprocess.PIPE, text=True) as follow:
        assert follow.stdout
        log.write_text("it begins\n")
        assert follow.stdout.readline() == "it begins\n"
        follow.kill()


@pytest.mark.parametrize(
    ("state", "now", "calls"),
    [
        ("RUNNING", False, ["--state=PENDING 7", "--batch --signal=USR1 7"]),
        # For a moment after each signal, so that a second `cancel` may meet it.
        ("SIGNALING", False, ["--state=PENDING 7", "--batch --signal=USR1 7"]),
        ("SIGNALING", True, ["7"]),
        ("COMPLETING", False, ["7"]),
        ("PENDING", False, ["7"]),
    ],
)
def test_a_running_job_saves_when_it_is_cancelled(
    state: str, now: bool, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when `cancel` is repeated; only --now, or a job without processes, is ended at once."""
    commands = {"scontrol": f"echo JobId=7 JobState={state}", "scancel": f'echo "$*" >> {tmp_path}/calls'}
    for name, line in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = tmp_path / "run"
    restarts.write_json(run / restarts.FOLDER / "job.json", {"scheduler": "slurm", "id": "7"})
    status.cancel(run, now=now)
    assert (tmp_path / "calls").read_text().splitlines() == calls
    assert (run / restarts.FOLDER / "cancel").exists()
