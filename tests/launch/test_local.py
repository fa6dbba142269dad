"""`--scheduler local`: two hosts that nobody schedules, each in namespaces of its own, reached as by ssh."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import LAUNCH, NO_SCORES, PROJECT, assert_same_losses, launches, members, metrics, state
from tests.helpers.hosts import CABLE, NAMES, Hosts
from tests.helpers.slurm import wait_until
from tests.launch.test_submit import write_slow


def remote_shell(path: Path, hosts: Hosts) -> Path:
    """Write a stand-in for ssh, which takes a host and a line for its shell."""
    cases = "\n".join(f'{name}) exec {" ".join(hosts.on(rank))} sh -c "$2" ;;' for rank, name in enumerate(NAMES))
    path.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\nesac\nexit 255\n')
    path.chmod(0o755)
    return path


def start(arguments: Sequence[object]) -> subprocess.Popen[str]:
    launch = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "launch" / "submit.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={key: v for key, v in {**os.environ, LAUNCH: launch}.items() if key != "PYTHONDONTWRITEBYTECODE"},
    )
    launches[process.pid] = launch
    return process


def wait_for_step(folder: Path, step: int) -> None:
    wait_until(lambda: (folder / "metrics.jsonl").exists() and len(metrics(folder)) >= step, 300)


def is_rank(pid: int) -> bool:
    """The shells and launchers around it have its command line in theirs."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:2] == [b"-u"]


def test_two_hosts_without_a_scheduler(hosts: Hosts, reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """A rank is killed: all start again by themselves. Ctrl-C: saved and ended, and no process is left. The same
    command goes on and ends with the losses of one process to 1e-5."""
    site = write_slow(tmp_path / "project", "2 if attempt < 3 and step > 2 else 0")
    site.write_text(site.read_text().replace("interface: eth0", f"interface: {CABLE}"))
    folder = tmp_path / "run"
    shell = remote_shell(tmp_path / "shell", hosts)
    options = ["--scheduler", "local", "--site", site, "--nodes", 2, "--gpus-per-node", 0, "--skip-preflight"]
    options += ["--hosts", ",".join(NAMES), "--remote-shell", shell]
    arguments = [*options, "--", "--config", tiny_config, "--run", folder, "--train.save_every", 1, *NO_SCORES]
    first = start(arguments)
    wait_for_step(folder, 2)
    os.kill(next(pid for pid in members(first.pid) if is_rank(pid)), signal.SIGKILL)
    wait_for_step(folder, 4)
    shown = subprocess.run(
        [sys.executable, PROJECT / "launch" / "submit.py", "status", folder], capture_output=True, text=True
    )
    assert re.search(rf"local {first.pid}, runs +running +\d+ / 20 .* 1\n", shown.stdout), shown
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 0, output
    assert state(folder)["state"] == "requeue", output
    assert not members(first.pid)

    second = start(arguments)
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    assert "Done" not in output  # of bash, which tells of the ends of its jobs
    assert_same_losses(folder, reference, rel=1e-5)
