"""Untrusted run folders and options: `submit.py` neither runs nor prints what they inject."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mstat.cluster import restarts, status
from mstat.cluster.about import read_about
from mstat.cluster.job import Job
from mstat.cluster.sites import Site
from mstat.cluster.ssh import Local
from mstat.errors import UserError
from tests.conftest import PROJECT

ESCAPE = "\x1b]0;owned\x07"


def _submit(*words: object, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROJECT / "launch" / "submit.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds)


def _run_with(folder: Path, **about: Any) -> Path:
    restarts.write_json(folder / "job" / "job.json", about)
    return folder


@pytest.mark.parametrize(
    "about",
    [
        {"id": "--me"},
        {"id": "-1"},
        {"id": 1, "scheduler": "local"},
        {"id": "9" * 18, "scheduler": "local"},
        {"id": True},
        {"id": "1/../self"},
        {"collector": "--state=RUNNING"},
        {"scheduler": "other"},
        {"array": [0, 10**12]},
        {"array": [0, 1e3]},
        {"array": [3, 1]},
        {"array": "0-3"},
        {"name": "../../x"},
        {"name": "a\nb"},
        {"host": {"deep": []}},
        {"kind": "__import__"},
        {"log": 7},
    ],
    ids=str,
)
def test_values_that_submit_does_not_write_are_refused(tmp_path: Path, about: dict[str, Any]) -> None:
    """The message names the file and the key."""
    _run_with(tmp_path, **about)
    key = next(iter(about))
    with pytest.raises(UserError, match=rf"job\.json: {key} is "):
        read_about(tmp_path)


def test_scripts_and_logs_lie_in_the_folder(tmp_path: Path) -> None:
    """Of a path only the last part is used, also after a run folder was moved."""
    run = _run_with(tmp_path / "run", id="7", script="/etc/cron.daily/x.sh", log="/etc/passwd", name="x")
    assert read_about(run)["script"] == str(run / "job" / "x.sh")
    assert read_about(run)["log"] == str(run / "job" / "passwd")
    element = _run_with(run / "seed-3", id="7_3", log=str(tmp_path / "before" / "job" / "x-7_3.log"))
    (run / "job" / "x-7_3.log").write_text("")
    assert read_about(element)["log"] == str(run / "job" / "x-7_3.log")


def test_the_id_of_a_local_job_is_a_process_id(tmp_path: Path) -> None:
    """An attempt writes its process id as text."""
    _run_with(tmp_path, id=str(os.getpid()), scheduler="local", host=socket.gethostname())
    assert read_about(tmp_path)["id"] == os.getpid()


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "\x00", '{"id": ' + "9" * 5000 + "}", " " * (2 << 20)])
def test_a_file_without_an_object_counts_as_missing(tmp_path: Path, text: str) -> None:
    """Deep, binary and large content is refused at once, without a traceback."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.json").write_text(text)
    try:
        assert read_about(tmp_path) == {}
    except UserError as error:
        assert "job.json" in str(error)  # noqa: PT017
    assert restarts.read(tmp_path) == []


@pytest.mark.slow
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    """Each file of the folder is a pipe without a writer."""
    (tmp_path / "job").mkdir()
    for name in ("job/job.json", "job/attempts.jsonl", "state.json", "metrics.jsonl"):
        os.mkfifo(tmp_path / name)
    done = _submit("status", tmp_path)
    assert "Traceback" not in done.stderr
    os.unlink(tmp_path / "job" / "job.json")
    _run_with(tmp_path, id="7", log=str(tmp_path / "job" / "pipe.log"))
    os.mkfifo(tmp_path / "job" / "pipe.log")
    done = _submit("logs", tmp_path, "--follow")
    assert "no log yet" in done.stderr
    assert done.returncode == 1


def test_no_escape_sequence_reaches_a_terminal(tmp_path: Path) -> None:
    """States, reasons, logs and keys are printed with visible escapes; invalid numbers are left out."""
    run = _run_with(tmp_path / "run", id="7", log="x.log", name="x")
    (run / "job" / "x.log").write_text(f"error: {ESCAPE} in a log\n")
    restarts.append(run, {"event": "submit"})
    restarts.append(run, {"event": "end", "outcome": f"failed{ESCAPE}", "reason": ESCAPE})
    restarts.write_json(run / "state.json", {"state": "failed", "step": "x", "reason": f"it {ESCAPE} failed"})
    record = {"step": 3, "loss": "x", f"loss/{ESCAPE}/triplet": 1.0, "clips_per_s": 10**400}
    (run / "metrics.jsonl").write_text(json.dumps(record) + "\n" + "[" * 50_000 + "\n[3]\n")
    for command in ("status", "logs"):
        done = _submit(command, run)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\x07" not in done.stdout + done.stderr
        assert r"\x1b]0;owned\x07" in done.stdout
        assert "Traceback" not in done.stderr


NAMES = ("run\n#SBATCH --uid=0", "run\r\necho owned", "run\x1b[2J", "run\u2028echo owned")


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_cannot_inject_a_line_into_a_script(name: str) -> None:
    """Folders, names and options with a line break are refused, since directives cannot be quoted."""
    _job()
    for field in ("name", "time", "partition", "account", "qos"):
        with pytest.raises(UserError, match="line break or a control character"):
            _job(**{field: name})
    with pytest.raises(UserError, match="--sbatch"):
        _job(sbatch=("--exclusive", f"--comment={name}"))
    for path in ("folder", "directory"):
        with pytest.raises(UserError, match=r"folder|--run"):
            _job(**{path: Path("/runs") / name})


def _job(**changes: Any) -> Job:
    paths = {"folder": Path("/runs/x"), "directory": Path("/")}
    return Job("train", arguments=(), **{**paths, **changes})


def test_a_refused_name_is_one_line_on_the_terminal(tmp_path: Path) -> None:
    """The message shows the characters escaped, and no script is printed."""
    done = _submit("--dry-run", "--", "--run", tmp_path / NAMES[0])
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert r"run\n#SBATCH" in done.stderr


def test_arguments_after_the_dashes() -> None:
    """A line break in an argument is quoted; a control character is refused."""
    Job("train", Path("/runs/x"), ("--model.init", "a\nb"), Path("/"))
    with pytest.raises(UserError, match="after --"):
        Job("train", Path("/runs/x"), ("--model.init", ESCAPE), Path("/"))


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a;b", "a b", "$(x)", "", "a\nb", "'x"])
def test_a_host_name_cannot_inject(host: str) -> None:
    """Names that ssh would read as a flag, or a shell as more than a word, are refused."""
    job = Job("train", Path("/runs/x"), (), Path("/"), nodes=1)
    with pytest.raises(UserError, match="not a host name"):
        Local(job, Site(), [host], "ssh")
    Local(job, Site(), ["user@[fe80::1%eth0]:22"], "ssh")


def test_invalid_states_are_left_out(tmp_path: Path) -> None:
    """Values of types that no run writes are ignored."""
    restarts.write_json(tmp_path / "state.json", {"state": ["failed"], "step": True, "reason": {"a": 1}, "more": 1})
    assert status.read_state(tmp_path) == {}
