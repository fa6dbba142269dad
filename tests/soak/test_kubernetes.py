"""The script of a JobSet's pods, on two hosts that have the names of its pods. Kubernetes itself is not here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mstat.cluster.job import Job
from mstat.cluster.kubernetes import GIVE_UP, RESTART, host, script
from mstat.cluster.sites import Site
from tests.conftest import PROJECT, state, wait_for_step
from tests.helpers.hosts import ADDRESSES, CABLE, Hosts

HERE = Site(project=str(PROJECT))


def job_of(folder: Path, *flags: str, preflight: bool = True) -> Job:
    """Two pods with a process each."""
    arguments = (*flags, "--run", str(folder))
    return Job("train", folder, arguments, PROJECT, "m", 2, 0, processes_per_node=1, preflight=preflight)


def start_pods(hosts: Hosts, job: Job) -> list[subprocess.Popen[str]]:
    """Start the scripts of all pods' containers, each on its host."""
    names = "".join(f"{address} {host(job, node)}\n" for node, address in enumerate(ADDRESSES))
    pods = []
    for node in range(job.nodes):
        subprocess.run([*hosts.on(node), "sh", "-c", "cat >> /etc/hosts"], input=names, text=True, check=True)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE, "JOB_COMPLETION_INDEX": str(node)}
        pods.append(
            subprocess.Popen(
                [*hosts.on(node), "bash", "-c", script(job, HERE)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=PROJECT,
                env={**os.environ, "PATH": path, **variables},
            )
        )
    hosts.launches += pods
    return pods


def ends(pods: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    outputs = [pod.communicate(timeout=300)[0] for pod in pods]
    return [(pod.returncode, output) for pod, output in zip(pods, outputs, strict=True)]


def test_a_pod_that_is_taken_away(hosts: Hosts, tiny_config: Path, tmp_path: Path) -> None:
    """Checks, then training; SIGTERM to one pod, as an eviction sends it: all end with a checkpoint and the status that
    makes the JobSet start them again; started again they go on, and end with 0."""
    folder = tmp_path / "run"
    job = job_of(folder, "--config", str(tiny_config))
    pods = start_pods(hosts, job)
    deadline = time.monotonic() + 400  # two starts of Python and torch on each host; a busy machine takes minutes
    while not (folder / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    wait_for_step(folder, 1, pods[0])
    bash = Path(f"/proc/{pods[1].pid}/task/{pods[1].pid}/children").read_text().split()[0]
    os.kill(int(bash), signal.SIGTERM)
    for status, output in ends(pods):
        assert status == RESTART, output
    assert state(folder)["state"] == "requeue"
    results = ends(start_pods(hosts, job))
    for status, output in results:
        assert status == 0, output
    assert "launch checks: all good" in results[0][1]
    assert state(folder)["state"] == "done"


def test_a_bug_at_the_start_is_not_tried_again(hosts: Hosts, tiny_config: Path, tmp_path: Path) -> None:
    """A setting that training refuses: no step is ever saved, and the pods say so."""
    flags = ["--config", str(tiny_config), "--data.protocol", "none"]
    job = job_of(tmp_path / "run", *flags, preflight=False)
    for status, output in ends(start_pods(hosts, job)):
        assert status == GIVE_UP, output
