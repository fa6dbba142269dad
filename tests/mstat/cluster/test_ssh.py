"""Hosts without a scheduler: what is refused before anything starts, and how a host's shell ends."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mstat.cluster.job import Job
from mstat.cluster.sites import Site
from mstat.cluster.ssh import PORT, STOP_AT_END_OF_INPUT, Local
from mstat.errors import UserError


def job(folder: Path, **changes: Any) -> Job:
    return dataclasses.replace(
        Job("train", folder, ("--run", str(folder)), folder, nodes=2, gpus_per_node=0), **changes
    )


@pytest.mark.parametrize(
    ("changes", "hosts", "message"),
    [
        ({"array": (0, 1)}, [], "--scheduler local runs one launched job: --array"),
        ({"kind": "shards"}, [], "--job shards are not possible"),
        ({}, ["a"], "--hosts has 1 names, but --nodes is 2"),
        ({}, ["a", "-oProxyCommand=x"], "--hosts: '-oProxyCommand=x' is not a host name"),
        ({}, ["a", "b;reboot"], "--hosts: 'b;reboot' is not a host name"),
        ({}, ["a", "\x1b[2J"], r"--hosts: '\\x1b\[2J' is not a host name"),
        ({}, ["a", ""], "--hosts: '' is not a host name"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], hosts: list[str], message: str, tmp_path: Path) -> None:
    """The message names the option; a host name is neither an option of ssh nor code of its shell."""
    with pytest.raises(UserError, match=message):
        Local(job(tmp_path, **changes), Site(), hosts, "ssh")


def test_names_of_hosts_that_are_taken(tmp_path: Path) -> None:
    """With a user, as an address of either kind, with an interface."""
    for name in ("node-1", "me@node.example.org", "10.0.0.1", "[fe80::1%eth0]"):
        Local(job(tmp_path, nodes=1), Site(), [name], "ssh")


def test_the_command_of_a_node(tmp_path: Path) -> None:
    """The remote shell gets the host and one line; the site's set-up comes first, the first host leads."""
    folder = tmp_path / "it's mine"
    site = Site(setup=["module load cuda"], environment={"NAME": "a b"}, interface="eth1", project="/opt/mstat")
    local = Local(job(folder), site, ["a", "b"], "ssh -o BatchMode=yes")
    *shell, host, text = local.command(1, "work", PORT + 3)
    assert (shell, host) == (["ssh", "-o", "BatchMode=yes"], "b")
    assert subprocess.run(["bash", "-n", "-c", text]).returncode == 0
    inner = Local(job(folder), site, [], "ssh").command(1, "work", PORT + 3)
    assert inner[:2] == ["bash", "-c"]
    lines = inner[2].splitlines()
    assert lines.index("module load cuda") < lines.index("export NAME='a b'")
    assert "export GLOO_SOCKET_IFNAME=eth1" in lines
    path = "PYTHONPATH=/opt/mstat${PYTHONPATH:+:$PYTHONPATH}"
    assert f"export SLURM_NODEID=1 PYTHONUNBUFFERED=1 {path}" in lines
    assert lines[0] == f"""cd '{tmp_path}/it'"'"'s mine' || exit 1"""
    assert any(line.endswith(f"NODES=127.0.0.1,127.0.0.1 MAIN=127.0.0.1 PORT={PORT + 3}") for line in lines)


def shell(work: str) -> subprocess.Popen[str]:
    """A host's shell with `work` in the place of the launcher."""
    text = f"work() {{\n{work}\n}}\n{STOP_AT_END_OF_INPUT.format(function='work')}"
    return subprocess.Popen(["bash", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_status_of_the_launcher_is_that_of_the_shell() -> None:
    with shell("echo done; exit 7") as process:
        assert process.stdout
        assert process.stdout.read() == "done\n"
        assert process.wait(timeout=60) == 7


def test_the_end_of_its_input_stops_a_launcher() -> None:
    """By SIGTERM to it and all that it has started: as when the connection or the process at its other end dies."""
    with shell("trap 'echo saved; exit 3' TERM; echo begun; sleep 100 & wait") as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        # It closes the input, and returns when the output has ended, which the sleep holds open, too.
        assert process.communicate(timeout=60)[0] == "saved\n"
        assert process.returncode == 3
