"""The outcome of an attempt, without a cluster; tests/launch/test_submit.py runs jobs on one."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mstat.cluster import restarts
from mstat.cluster.restarts import CANCELLED, DONE, FAILED, REQUEUE, RESTART, Attempts
from mstat.runs.folder import write_state
from tests.conftest import PROJECT

LOST = "LostRankError: no answer from rank 1 (host n2, pid 7): killed, stopped, or its host cannot be reached"


def attempts(folder: Path, **options: Any) -> Attempts:
    log = folder / "log"
    return Attempts(
        folder, **{"kind": "train", "job": "7", "log": log, "requeue_limit": 20, "idle_limit": 3, **options}
    )


def save(folder: Path, step: int) -> None:
    checkpoint = folder / "checkpoints" / f"step-{step:09d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text("{}")


@pytest.mark.parametrize(
    ("state", "reason", "facts", "outcome"),
    [
        ("done", None, {}, DONE),
        ("requeue", "stopped by SIGUSR1", {}, REQUEUE),  # the batch script received no signal
        ("requeue", "stopped by SIGUSR1", {"stopped": True}, REQUEUE),
        ("requeue", "stopped by SIGTERM", {}, REQUEUE),  # before a preemption
        ("requeue", "stopped by SIGTERM", {"status": 137}, RESTART),  # a launcher was killed
        ("failed", LOST, {"status": 1}, RESTART),
        ("failed", LOST, {"status": 1, "reachable": False}, REQUEUE),
        ("failed", "LostRankError: rank 0's host (n1) does not answer: its launcher has ended", {"status": 1}, RESTART),
        ("failed", "LostRankError: rank 1 (host n2, pid 7): KeyError: 'no'; no checkpoint yet", {"status": 1}, FAILED),
        ("failed", "UserError: a process of the loader (pid 5) was killed by SIGKILL. The", {"status": 1}, RESTART),
        ("failed", "UserError: no process can be started for the loader: its fork", {"status": 1}, RESTART),
        ("failed", "RuntimeError: a bug of mine", {"status": 1}, FAILED),
        ("failed", "RuntimeError: a bug of mine", {"status": 1, "reachable": False, "stopped": True}, FAILED),
        ("running", None, {"status": 137}, RESTART),
        ("running", None, {"status": 1, "reachable": False}, REQUEUE),
        (None, None, {"status": 1}, FAILED),
        (None, None, {"status": 1, "stopped": True}, REQUEUE),
        (None, None, {"status": 1, "reachable": False}, REQUEUE),
        (None, None, {"status": 143}, RESTART),
        (None, None, {"status": 1, "phase": "preflight"}, FAILED),
        (None, None, {"status": 1, "phase": "preflight", "reachable": False}, REQUEUE),
    ],
)
def test_the_outcome_of_a_training(
    state: Any, reason: str | None, facts: dict[str, Any], outcome: int, tmp_path: Path
) -> None:
    """The state.json of this attempt decides; that of an earlier attempt is ignored."""
    write_state(tmp_path, "requeue", 5, "of an earlier one")
    ours = attempts(tmp_path)
    assert ours.begin() is None
    if state:
        write_state(tmp_path, state, 5, reason)
    assert ours.end(**{"phase": "work", "status": 0, "stopped": False, "reachable": True, **facts}) == outcome
    if outcome == FAILED:
        assert json.loads((tmp_path / "state.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("kind", "log", "facts", "outcome"),
    [
        ("evaluate", "", {"status": 0}, DONE),
        ("evaluate", "0: error: no answer from rank 1 (host n2, pid 7)", {"status": 1}, RESTART),
        ("evaluate", "0: error: runs/a: no config.yaml in it", {"status": 1}, FAILED),
        ("evaluate", "1:   exitcode  : -9 (pid: 5)\nsrun: error: n2: task 1: Killed", {"status": 1}, RESTART),
        ("evaluate", "srun: error: n2: task 1: Exited with exit code 1", {"status": 1}, FAILED),
        ("shards", "0: error: 0002C1T0001F001.jpg: cut off", {"status": 1}, FAILED),
        ("shards", "", {"status": 1, "stopped": True}, REQUEUE),
        ("reproduce", "", {"status": 0, "stopped": True}, REQUEUE),
    ],
)
def test_the_outcome_of_another_command(
    kind: str, log: str, facts: dict[str, Any], outcome: int, tmp_path: Path
) -> None:
    """Its exit status and its log decide."""
    (tmp_path / "log").write_text(f"{log}\n")
    ours = attempts(tmp_path, kind=kind)
    ours.begin()
    assert ours.end(**{"phase": "work", "stopped": False, "reachable": True, **facts}) == outcome


def test_a_cancelled_run_is_not_restarted(tmp_path: Path) -> None:
    """Also if it has saved a checkpoint."""
    ours = attempts(tmp_path)
    ours.begin()
    write_state(tmp_path, "requeue", 5, "stopped by SIGUSR1")
    (tmp_path / restarts.FOLDER / "cancel").touch()
    assert ours.end(phase="work", status=0, stopped=True, reachable=True) == CANCELLED


def test_restarts_are_limited(tmp_path: Path) -> None:
    """In total, and without a checkpoint; a new submission resets both counts."""
    ours = attempts(tmp_path, requeue_limit=4)

    def again(step: int | None) -> int:
        assert ours.begin() is None
        write_state(tmp_path, "running", 0)
        if step:
            save(tmp_path, step)
        return ours.end(phase="work", status=137, stopped=False, reachable=True)

    assert [again(step) for step in (1, 2, 3, 4, 5)] == [RESTART] * 4 + [FAILED]
    reason = "restarted 4 times, which is the limit; last failure: its processes were killed (exit status 137)"
    assert json.loads((tmp_path / "state.json").read_text()) == {"state": "failed", "step": 5, "reason": reason}

    restarts.append(tmp_path, {"event": "submit"})
    assert [again(None) for _ in range(3)] == [RESTART] * 2 + [FAILED]
    assert "3 consecutive attempts made no checkpoint" in json.loads((tmp_path / "state.json").read_text())["reason"]

    restarts.append(tmp_path, {"event": "submit"})
    for _ in range(3):  # they ended with their batch host, and so have no `end`
        assert ours.begin() is None
    assert ours.begin() == "3 consecutive attempts made no checkpoint"


def test_it_runs_as_a_file(tmp_path: Path) -> None:
    """It needs the standard library only, and exits with the status in its docstring."""
    program = [sys.executable, "-I", "-S", restarts.__file__]
    flags = ["--kind", "train", "--job", "7", "--log", str(tmp_path / "log")]
    flags += ["--requeue-limit", "1", "--idle-limit", "3"]
    assert subprocess.run([*program, "begin", tmp_path, *flags]).returncode == 0
    write_state(tmp_path, "requeue", 5, "stopped by SIGUSR1")
    done = subprocess.run([*program, "end", tmp_path, *flags], capture_output=True, text=True)
    assert done.returncode == REQUEUE
    assert "requeue at step 0: stopped by SIGUSR1" in done.stdout


def test_it_runs_on_python_3_9() -> None:
    """Its modules parse as Python 3.9, which a batch host may have."""
    code = (
        "import sys; sys.path.insert(0, '.'); import mstat.cluster.restarts\n"
        "for name, module in sys.modules.items():\n"
        "    if name.partition('.')[0] == 'mstat': print(module.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=PROJECT)
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert PROJECT / "mstat" / "cluster" / "logs.py" in paths, done.stderr
    for path in paths:
        ast.parse(path.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("words", restarts.LOST)
def test_mstat_writes_these_messages(words: str) -> None:
    """`LOST` matches messages of other modules of mstat."""
    modules = ("distributed/lost_rank.py", "distributed/rendezvous.py", "data/workers.py")
    assert any(words in (PROJECT / "mstat" / module).read_text() for module in modules)
