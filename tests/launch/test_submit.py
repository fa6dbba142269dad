"""Jobs on a real Slurm with two nodes: to their end whatever happens to them, and to no second start where it is of no
use. tests/soak/test_cluster.py cuts power and cables."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mstat.cluster import restarts
from mstat.foreign_messages import JOB_PENDING, SLURM_ERROR, UNKNOWN_JOB
from tests.conftest import NO_SCORES, PROJECT, assert_same_losses, state
from tests.helpers import hosts
from tests.helpers.slurm import CABLE, Cluster, two_nodes, wait_until, why_not
from tests.helpers.system import skip

# A launch/train.py whose steps take `seconds` more: of the attempt, and of the step in it, both counted from 1.
SLOW = """
import os, sys, time
from itertools import count
from pathlib import Path
sys.path.insert(0, {project!r})
from launch import train
from mstat.distributed.engine import Engine
attempt = Path(os.environ["RUN"], "job", "attempts.jsonl").read_text().count('"event": "begin"')
real, numbers = Engine.update, count(1)
def update(self, *arguments, **options):
    step = next(numbers)
    time.sleep({seconds})
    return real(self, *arguments, **options)
Engine.update = update
if __name__ == "__main__":  # loader workers import it, too
    sys.exit(train.main(sys.argv[1:]))
"""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    # The nodes take over what is mounted when they are made; room for one checkpoint, and not for two.
    (folder / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder / "small"], check=True)
    try:
        with two_nodes(folder / "slurm") as cluster:
            yield cluster
    finally:
        subprocess.run(["umount", "--lazy", folder / "small"], check=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("site") / "site.yaml")


def write_site(path: Path, more: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"interface: {CABLE}\nenvironment: {{OMP_NUM_THREADS: '1'}}\n{more}")
    return path


def write_slow(folder: Path, seconds: str) -> Path:
    """A site on which a step takes that long: Python, of `attempt` and `step`."""
    return write_project(folder, SLOW.format(project=str(PROJECT), seconds=seconds))


def write_project(folder: Path, train: str) -> Path:
    """A site whose launch/train.py is another one."""
    (folder / "launch").mkdir(parents=True)
    (folder / "launch" / "train.py").write_text(train)
    accelerate = PROJECT / "configs" / "accelerate" / "multinode.yaml"
    return write_site(folder / "site.yaml", f"project: {folder}\naccelerate: {accelerate}\n")


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site on which a first attempt, after two steps, takes a minute: time enough for something to happen to it."""
    return write_slow(tmp_path_factory.mktemp("slow") / "project", "3 if attempt == 1 and step > 2 else 0")


def on_two_nodes(site: Path) -> list[object]:
    return ["--site", site, "--nodes", 2, "--gpus-per-node", 0, "--time", 60, "--skip-preflight"]


def job_of(output: str) -> str:
    """The number in what submit.py says."""
    match = re.search(r"\bjob (\d+)", output)
    assert match, output
    return match[1]


def events(folder: Path, event: str) -> list[dict[str, object]]:
    return [record for record in restarts.read(folder) if record["event"] == event]


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in (folder / "job").glob("*.log"))


def wait_for_step(cluster: Cluster, folder: Path, step: int) -> None:
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) >= step, 240, lambda: log_of(folder))


def assert_same_weights(folder: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, site: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two nodes that nothing happens to, with a GPU each as Slurm sees it, after launch checks."""
    folder = tmp_path_factory.mktemp("undisturbed") / "the user's run"
    options = ["--site", site, "--nodes", 2, "--gpus-per-node", 1, "--cpus-per-process", 1, "--time", "1:00:00"]
    options += ["--partition", "debug", "--account", "reid", "--requeue-limit", 20]
    output = cluster.submit(*options, "--", "--config", tiny_config, "--run", folder)
    assert cluster.wait_for_end(job_of(output))["JobState"] == "COMPLETED", log_of(folder)
    return folder


def test_a_run_on_two_nodes(cluster: Cluster, undisturbed: Path, reference: Path) -> None:
    """Submitted with one command, it ends with the losses of one process to 1e-5; status says so. Before it began,
    both nodes have been looked at."""
    assert_same_losses(undisturbed, reference, rel=1e-5)
    assert state(undisturbed)["state"] == "done"
    assert [event["outcome"] for event in events(undisturbed, "end")] == ["done"]
    checks = json.loads((undisturbed / "preflight.json").read_text())
    assert checks["good"]
    assert [note["host"] for note in checks["notes"].values()] == ["n1", "n2"]
    output = cluster.submit("status", undisturbed)
    assert re.search(r"COMPLETED +done +20 / 20 +\d+\.\d{3} +I \d", output), output
    assert "report: " in cluster.submit("logs", undisturbed)


def test_the_messages_of_slurm(cluster: Cluster) -> None:
    """mstat/foreign_messages.py recognises the errors of this version."""
    log = cluster.folder / "failed.log"
    failed = cluster.call("sbatch", "--parsable", f"--output={log}", "--wrap=srun false").stdout.strip()
    held = cluster.call(
        "sbatch", "--parsable", "--hold", "--array=0-1", "--output=/dev/null", "--wrap=true"
    ).stdout.strip()
    for number in ("999999", f"{held}_7"):
        error = cluster.call("scontrol", "show", "job", number, check=False)
        assert error.returncode == 1
        assert UNKNOWN_JOB.search(error.stdout + error.stderr), error
    error = cluster.call("scontrol", "requeue", f"{held}_0", check=False)
    assert JOB_PENDING in error.stdout + error.stderr, error
    cluster.call("scancel", held)
    assert cluster.wait_for_end(failed)["JobState"] == "FAILED"
    assert any(SLURM_ERROR.match(line) for line in log.read_text().splitlines()), log.read_text()


@pytest.mark.soak
def test_the_time_limit(cluster: Cluster, slow: Path, undisturbed: Path, tiny_config: Path, tmp_path: Path) -> None:
    """The signal that Slurm sends before the limit: a checkpoint, a requeue, and in the end the weights of the
    undisturbed run, bitwise. Meanwhile a second submission is refused."""
    folder = tmp_path / "run"
    arguments = [*on_two_nodes(slow), "--", "--config", tiny_config, "--run", folder]
    job = job_of(cluster.submit(*arguments))
    wait_for_step(cluster, folder, 2)
    assert f"job {job} is RUNNING: cancel it or wait for its end" in cluster.submit(*arguments, check=False)
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert cluster.wait_for_end(job)["JobState"] == "COMPLETED", log_of(folder)
    first, second = events(folder, "end")
    assert (first["outcome"], first["reason"]) == ("requeue", "stopped by SIGUSR1")
    assert [event["step"] for event in events(folder, "begin")] == [0, first["step"]]
    assert 2 <= first["step"] < 20  # type: ignore[operator]
    assert second["outcome"] == "done"
    assert cluster.job(job)["Restarts"] == "1"
    assert_same_losses(folder, undisturbed, rel=0)
    assert_same_weights(folder, undisturbed)


def test_cancel_and_continue(
    cluster: Cluster, slow: Path, undisturbed: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """`cancel` saves first and nothing comes back; `continue` brings the same run to the same end."""
    folder = tmp_path / "run"
    job = job_of(cluster.submit(*on_two_nodes(slow), "--", "--config", tiny_config, "--run", folder))
    wait_for_step(cluster, folder, 2)
    assert f"job {job} saves and ends" in cluster.submit("cancel", folder)
    assert cluster.wait_for_end(job)["JobState"] == "CANCELLED"
    assert state(folder)["state"] == "requeue"
    assert cluster.job(job)["Restarts"] == "0"
    assert re.search(rf"{job} CANCELLED +requeue +{state(folder)['step']} / 20", cluster.submit("status", folder))

    again = job_of(cluster.submit("continue", folder))
    assert again != job
    assert cluster.wait_for_end(again)["JobState"] == "COMPLETED", log_of(folder)
    assert_same_losses(folder, undisturbed, rel=0)
    assert_same_weights(folder, undisturbed)


def test_a_preemption(cluster: Cluster, slow: Path, undisturbed: Path, tiny_config: Path, tmp_path: Path) -> None:
    """By a job of a partition that goes first: saved within KillWait, requeued by Slurm, and in the end the weights of
    the undisturbed run, bitwise."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, "--train.save_every", 20, *NO_SCORES]
    job = job_of(cluster.submit(*on_two_nodes(slow), "--", *arguments))
    wait_for_step(cluster, folder, 2)
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"]
    cluster.call("sbatch", *urgent)
    assert cluster.wait_for_end(job)["JobState"] == "COMPLETED", log_of(folder)
    assert cluster.job(job)["Restarts"] == "1"
    first, second = events(folder, "begin")
    assert (first["step"], 2 <= second["step"] < 20) == (0, True)  # type: ignore[operator]
    assert_same_losses(folder, undisturbed, rel=0)
    assert_same_weights(folder, undisturbed)


def test_an_error_of_the_user(cluster: Cluster, tiny_config: Path, tmp_path: Path) -> None:
    """An exception at start on all nodes: no second start, and its traceback is the last that status shows."""
    site = write_project(tmp_path / "project", "def build():\n    raise RuntimeError('a bug of mine')\n\nbuild()\n")
    folder = tmp_path / "run"
    job = job_of(cluster.submit(*on_two_nodes(site), "--", "--config", tiny_config, "--run", folder))
    about = cluster.wait_for_end(job)
    assert (about["JobState"], about["Restarts"]) == ("FAILED", "0")
    assert len(events(folder, "begin")) == 1
    assert state(folder) == {"state": "failed", "step": 0, "reason": "RuntimeError: a bug of mine"}
    output = cluster.submit("status", folder).rstrip()
    assert output.endswith("raise RuntimeError('a bug of mine')\nRuntimeError: a bug of mine"), output
    assert "Traceback (most recent call last):" in output


def test_a_missing_interpreter(cluster: Cluster, tiny_config: Path, tmp_path: Path) -> None:
    """It is there on one node, not on the other: one line that names node and interpreter. Nor has the other one, where
    the script itself runs, a Python to keep account with: the same line."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    python = binaries / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    hosts.call(*hosts.within(cluster.machines["n2"]), "mount", "-t", "tmpfs", "tmpfs", str(binaries))
    site = write_site(tmp_path / "site.yaml", f"python: {python}\n")
    folder = tmp_path / "run"
    job = job_of(cluster.submit(*on_two_nodes(site), "--", "--config", tiny_config, "--run", folder))
    about = cluster.wait_for_end(job)
    assert (about["JobState"], about["Restarts"]) == ("FAILED", "0")
    reason = f"n2: this Python does not run: {python}"
    assert state(folder)["reason"] == reason
    assert cluster.submit("status", folder).rstrip().endswith(f"error: {reason}")

    folder, python = tmp_path / "other", tmp_path / "none" / "python"
    site = write_site(tmp_path / "other.yaml", f"python: {python}\n")
    job = job_of(cluster.submit(*on_two_nodes(site), "--", "--config", tiny_config, "--run", folder))
    assert cluster.wait_for_end(job)["JobState"] == "FAILED"
    output = cluster.submit("status", folder)
    assert re.search(
        rf"{job} FAILED +cut off .*error: n1: this Python does not run: {python}$", output.rstrip(), re.S
    ), output


def test_a_bad_checkpoint(cluster: Cluster, site: Path, undisturbed: Path, tiny_config: Path, tmp_path: Path) -> None:
    """A file of the newest checkpoint is cut off: no second start, and status ends with the file and the way out."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    shutil.rmtree(folder / "job")
    damaged = sorted((folder / "checkpoints").iterdir())[-1]
    with (damaged / "optimizer.pt").open("r+b") as file:
        file.truncate(1000)
    arguments = [*on_two_nodes(site)[:-1], "--nodes", 1, "--skip-preflight"]
    job = job_of(cluster.submit(*arguments, "--", "--config", tiny_config, "--run", folder, "--train.steps", 30))
    about = cluster.wait_for_end(job)
    assert (about["JobState"], about["Restarts"]) == ("FAILED", "0")
    message = f"{damaged}: optimizer.pt changed after the checkpoint was made; copy it again, or remove the folder"
    assert message in cluster.submit("status", folder).rstrip().splitlines()[-1]


def test_a_full_disk(cluster: Cluster, site: Path, tiny_config: Path) -> None:
    """The second checkpoint does not fit: no second start, and status says which file."""
    folder = cluster.folder.parent / "small" / "run"
    arguments = [*on_two_nodes(site)[:-1], "--nodes", 1, "--skip-preflight"]
    job = job_of(cluster.submit(*arguments, "--", "--config", tiny_config, "--run", folder))
    about = cluster.wait_for_end(job)
    assert (about["JobState"], about["Restarts"]) == ("FAILED", "0"), log_of(folder)
    assert "No space left on device" in cluster.submit("status", folder).rstrip().splitlines()[-1]
