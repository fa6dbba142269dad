"""launch/preflight.py on two hosts: good ones, and each fault by itself; launch/train.py runs after it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PROJECT, run, state
from tests.helpers.hosts import ADDRESSES, NAMES, Hosts
from tests.launch.test_preflight import preflight
from tests.soak.conftest import Rows

SECTION = "Launch checks on two hosts"


def test_good_hosts(hosts: Hosts, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """Two processes on each: exit status 0, a row a host, a bandwidth; and the training after it finds the folder and
    the port free."""
    arguments = ["--config", tiny_config, "--run", tmp_path / "run"]
    began = time.monotonic()
    results = preflight(hosts, arguments, "--expect-processes", 4, processes=4)
    seconds = time.monotonic() - began
    assert [status for status, _ in results] == [0, 0], results
    report = json.loads((tmp_path / "run" / "preflight.json").read_text())
    assert report["good"]
    assert [note["host"] for note in report["notes"].values()] == [NAMES[0], NAMES[0], NAMES[1], NAMES[1]]
    assert "launch checks: all good" in results[0][1]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["preflight.json"]
    for status, output in hosts.run("train", arguments, processes=4):
        assert status == 0, output
    assert state(tmp_path / "run")["state"] == "done"
    took = {"case": "2 hosts x 2, all good", "outcome": "exit 0", "seconds": f"{seconds:.0f}"}
    rows.setdefault(SECTION, []).append(took)


@pytest.mark.parametrize("kind", ["single", "ddp", "zero2"])
def test_one_machine(kind: str, tiny_config: Path, tmp_path: Path) -> None:
    """Under the launcher itself, with flags behind `--`; a wrong number of processes is exit status 1."""
    settings = ["--", "--config", tiny_config, "--run", tmp_path / "run"]
    processes = 1 if kind == "single" else 2
    options = {"accelerate": kind, **({} if kind == "single" else {"processes": processes})}
    status, output = run("preflight", ["--expect-processes", processes, *settings], **options)
    assert status == 0, output
    assert "launch checks: all good" in output
    status, output = run("preflight", ["--expect-processes", 3, *settings], **options)
    assert status == 1
    assert f"launch: {processes} processes were launched, but --expect-processes is 3" in output


def test_one_process_without_a_launcher(tiny_config: Path, tmp_path: Path) -> None:
    """`python launch/preflight.py --config …`, as launch/train.py can be started."""
    command = [sys.executable, "launch/preflight.py", "--config", str(tiny_config), "--run", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    assert "one process: no all-reduce" in done.stdout


def test_a_full_run_folder(hosts: Hosts, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """Each host has a small disk of its own at the run folder's place: no room on either, and not one folder."""
    for host in (0, 1):
        subprocess.run([*hosts.on(host), "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True)
    (status, printed), _ = preflight(hosts, ["--config", tiny_config, "--run", tmp_path / "run"])
    assert status == 1, printed
    for name in NAMES:
        assert f"{name}: run folder: 2.1 MB free in {tmp_path}" in printed
    assert f"{NAMES[1]}: run folder: {tmp_path}/run is not the folder that rank 0 sees" in printed
    rows.setdefault(SECTION, []).append({"case": "2 MB free, and not one folder", "outcome": "both said of both hosts"})


def test_a_machine_that_is_not_started(hosts: Hosts, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """The launcher would wait for 15 minutes; here it is named after the timeout."""
    settings = ["--config", tiny_config, "--run", tmp_path / "run"]
    began = time.monotonic()
    [(status, printed)] = preflight(hosts, settings, "--timeout", 30, "--hosts", "a,b", machines=[0])
    seconds = time.monotonic() - began
    assert status == 1
    assert "after 30 s, 1 of 2 machines have joined; missing: b (machine 1)" in printed
    assert seconds < 90
    took = {"case": "a host is not started, --timeout 30", "outcome": "named", "seconds": f"{seconds:.0f}"}
    rows.setdefault(SECTION, []).append(took)


def test_a_cut_cable(hosts: Hosts, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """Each side says whom it misses."""
    hosts.cut()
    settings = ["--config", tiny_config, "--run", tmp_path / "run"]
    began = time.monotonic()
    (first, here), (second, there) = preflight(hosts, settings, "--timeout", 30)
    seconds = time.monotonic() - began
    assert (first, second) == (1, 1)
    assert "missing: machine 1" in here
    assert f"{NAMES[1]}: cannot reach the first machine within 30 s: {ADDRESSES[0]}:29500 does not answer" in there
    assert seconds < 90
    took = {"case": "the cable is cut, --timeout 30", "outcome": "both sides say so", "seconds": f"{seconds:.0f}"}
    rows.setdefault(SECTION, []).append(took)


def test_a_network_on_which_ranks_do_not_meet(hosts: Hosts, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """gloo on the loopback interface: launchers meet, the all-reduce does not work, and the table says why."""
    settings = ["--config", tiny_config, "--run", tmp_path / "run"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"}
    began = time.monotonic()
    (status, printed), _ = preflight(hosts, settings, "--timeout", 45, environments=(loopback, loopback))
    assert status == 1
    assert "connectFullMesh failed" in printed
    assert "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network" in printed
    assert "launch checks: 1 problem" in printed
    took = {
        "case": "GLOO_SOCKET_IFNAME=lo",
        "outcome": "said, with the way out",
        "seconds": f"{time.monotonic() - began:.0f}",
    }
    rows.setdefault(SECTION, []).append(took)


def test_a_rank_that_dies_of_its_environment(hosts: Hosts, tiny_config: Path, tmp_path: Path) -> None:
    """A host whose Python lacks a package: its own output says which, both ends have exit status 1."""
    broken = tmp_path / "packages" / "simplejpeg"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libjpeg is missing, says the test')\n")
    settings = ["--config", tiny_config, "--run", tmp_path / "run"]
    environment = {"PYTHONPATH": os.fspath(broken.parent)}
    (first, here), (second, there) = preflight(hosts, settings, "--timeout", 30, environments=({}, environment))
    assert (first, second) == (1, 1)
    assert "libjpeg is missing, says the test" in there
    assert f"{NAMES[1]}" in here or "machine 1" in here
