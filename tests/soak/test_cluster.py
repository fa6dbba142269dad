"""Faults of a cluster: power and cables are cut, processes killed, signals sent; and arrays with dependent jobs.
After each fault, the run ends by itself, bit for bit as if nothing had happened."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import LOSSES, PROJECT, assert_same_losses, metrics, state
from tests.helpers import hosts
from tests.helpers.slurm import NODES, Cluster, wait_until
from tests.launch.test_submit import (
    assert_same_weights,
    cluster,
    events,
    job_of,
    log_of,
    on_two_nodes,
    site,
    slow,
    undisturbed,
    wait_for_step,
    write_slow,
)
from tests.soak.conftest import Rows

__all__ = ["cluster", "site", "slow", "undisturbed"]
STEPS_A_FAULT = 20
GO_ON_SECONDS = 600.0  # from a fault to the next step; starts take a minute where others use the machine, too


def test_seeds(cluster: Cluster, slow: Path, tiny_config: Path, tmp_path: Path) -> None:
    """An array of three, of which two run at once: status shows all from the beginning; `cancel` saves what runs;
    `continue` brings all of them to their end, and the job that follows to the mean of their scores."""
    folder = tmp_path / "sweep"
    options = ["--site", slow, "--gpus-per-node", 0, "--time", 60, "--skip-preflight", "--array", 3]
    cluster.submit(*options, "--array-limit", 2, "--", "--config", tiny_config, "--run", folder, "--seed", 5)
    for seed in (5, 6):
        wait_for_step(cluster, folder / f"seed-{seed}", 2)
    output = cluster.submit("status", folder)
    assert re.search(
        r"seed-6 .* RUNNING .* running .*\n.*seed-7 .* PENDING .* not begun .*\n.*collect .* PENDING", output
    )
    job = json.loads((folder / "job" / "job.json").read_text())
    assert f"job {job['id']} saves and ends" in cluster.submit("cancel", folder)
    wait_until(lambda: cluster.submit("status", folder).count(" CANCELLED ") == 4, 240, lambda: log_of(folder))
    assert [state(folder / f"seed-{seed}")["state"] for seed in (5, 6)] == ["requeue", "requeue"]
    assert not (folder / "seed-7").exists()

    assert "collects its results" in cluster.submit("continue", folder)
    job = json.loads((folder / "job" / "job.json").read_text())
    assert cluster.wait_for_end(job["collector"])["JobState"] == "COMPLETED", log_of(folder)
    runs = [folder / f"seed-{seed}" for seed in (5, 6, 7)]
    assert [state(run)["state"] for run in runs] == ["done"] * 3
    assert events(runs[0], "begin")[1]["step"] > 0  # type: ignore[operator]
    scores = [json.loads((run / "evaluation.json").read_text())["mAP"] for run in runs]
    mean = json.loads((folder / "evaluation.json").read_text())
    assert mean["mAP"] == pytest.approx(sum(scores) / 3)
    assert list(mean["seeds"]) == [run.name for run in runs]
    assert len(re.findall(r" COMPLETED +done ", cluster.submit("status", folder))) == 4
    assert "continue " in (output := cluster.submit("continue", runs[1], check=False))
    assert f"{folder} -- --array=6" in output


@pytest.mark.parametrize("node", NODES)
def test_a_power_cut(
    node: str, cluster: Cluster, slow: Path, undisturbed: Path, tiny_config: Path, tmp_path: Path, rows: Rows
) -> None:
    """Of the batch host (n1) and of the other one: the job is requeued, waits for the node, and goes on."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, "--train.save_every", 1, "--train.timeout_minutes", 0.5]
    job = job_of(cluster.submit(*on_two_nodes(slow), "--", *arguments))
    wait_for_step(cluster, folder, 4)
    cluster.power_off(node)
    began = time.monotonic()
    wait_until(lambda: cluster.job(job)["JobState"] != "RUNNING", 180, lambda: log_of(folder))
    gone = time.monotonic() - began
    cluster.power_on(node)
    assert cluster.wait_for_end(job, 400)["JobState"] == "COMPLETED", log_of(folder)
    assert cluster.job(job)["Restarts"] == "1"
    assert_same_losses(folder, undisturbed, rel=0)
    assert_same_weights(folder, undisturbed)
    rows.setdefault("A node's power is cut while it trains", []).append(
        {
            "node": node + (", the batch host" if node == "n1" else ""),
            "requeued after": f"{gone:.0f} s",
            "went on from step": events(folder, "begin")[-1]["step"],
            "outcome": "done, weights bitwise as undisturbed",
        }
    )


def test_shards(cluster: Cluster, site: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """Three tasks and a join: the same bytes as one build."""
    options = ["--job", "shards", "--site", site, "--time", 60, "--cpus-per-process", 1, "--array", 3]
    tree = tiny_shards.parent / "tree"
    build = ["build", "mars", "--partial", "--source", tree, "--workers", 1, "--shard-size", 1]
    command = [sys.executable, "-m", "shards", *map(str, build), "--out", str(tmp_path / "alone")]
    subprocess.run(command, cwd=PROJECT, check=True)
    cluster.submit(*options, "--", *build, "--out", tmp_path / "set")
    job = json.loads((tmp_path / "set-job" / "job" / "job.json").read_text())
    assert cluster.wait_for_end(job["collector"])["JobState"] == "COMPLETED", log_of(tmp_path / "set-job")
    made, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "set", tmp_path / "alone")
    )
    assert made == expected


class Chaos:
    """Faults of a cluster, one after another, drawn from a seed."""

    def __init__(self, cluster: Cluster, job: str, seed: int) -> None:
        self.cluster, self.job, self.rng = cluster, job, random.Random(seed)
        self.faults = {
            "a rank killed": lambda node: self.kill(node, "rank"),
            "a launcher killed": lambda node: self.kill(node, "launcher"),
            "a loader killed": lambda node: self.kill(node, "loader"),
            "all of a node's processes killed": lambda node: self.kill(node, ""),
            "power cut": self.power,
            "cable cut": self.cable,
            "USR1": lambda node: bool(self.cluster.call("scancel", "--batch", "--signal=USR1", self.job)),
        }
        self.bag: list[str] = []
        self.resumed: list[str] = []  # nodes that were drained

    def strike(self) -> str | None:
        """Cause a fault and return its name and node; None if there was no process to hit."""
        if not self.bag:  # each kind as often as another
            self.bag = self.rng.sample(sorted(self.faults), len(self.faults))
        fault, node = self.bag.pop(), self.rng.choice(NODES)
        return f"{fault}, {node}" if self.faults[fault](node) else None

    def kill(self, node: str, role: str) -> bool:
        """SIGKILL to a process of the training on a node, or to all of them."""
        inside = hosts.within(self.cluster.machines[node])
        done = subprocess.run(
            [*inside, "pgrep", "-a", "-f", "launch/train.py|forkserver"], capture_output=True, text=True
        )
        processes = [line.split(" ", 1) for line in done.stdout.splitlines()]
        victims = [pid for pid, command in processes if not role or _role(command) == role]
        if not victims:
            return False
        chosen = victims if not role else [self.rng.choice(victims)]
        subprocess.run([*inside, "kill", "-KILL", *chosen], capture_output=True)  # one may be gone by now
        return True

    def power(self, node: str) -> bool:
        self.cluster.power_off(node)
        time.sleep(self.rng.uniform(1, 40))
        self.cluster.power_on(node)
        return True

    def cable(self, node: str) -> bool:
        self.cluster.cut(node)
        time.sleep(self.rng.uniform(1, 40))
        self.cluster.heal(node)
        return True


def _role(command: str) -> str:
    if "accelerate.commands.launch" in command:
        return "launcher"
    return "loader" if "forkserver" in command else "rank"


def test_chaos(request: pytest.FixtureRequest, cluster: Cluster, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """One submission, and a fault every few seconds of training, until `--faults` have struck: the run ends by itself
    with the losses, weights and scores of a run that was left alone, bitwise."""
    faults: int = request.config.getoption("--faults")
    steps = STEPS_A_FAULT * faults
    arguments = ["--config", tiny_config, "--train.steps", steps, "--train.timeout_minutes", 0.3]
    alone, folder = tmp_path / "alone", tmp_path / "run"
    quick, slow = (write_slow(tmp_path / seconds, seconds) for seconds in ("0", "0.5"))
    job = job_of(cluster.submit(*on_two_nodes(quick), "--", *arguments, "--run", alone))
    assert cluster.wait_for_end(job, 60 + 5 * steps)["JobState"] == "COMPLETED", log_of(alone)

    bounds = ["--requeue-limit", 20 * faults, "--idle-limit", 50]
    began = time.monotonic()
    job = job_of(cluster.submit(*on_two_nodes(slow), *bounds, "--", *arguments, "--run", folder))
    chaos = Chaos(cluster, job, seed=11)
    table = rows.setdefault("Faults of a cluster of two nodes, one run from its submission to its end", [])
    wait_for_step(cluster, folder, 1)
    while len(table) < faults:
        time.sleep(chaos.rng.uniform(0.5, 5))
        reached, attempts_before = step(folder), len(events(folder, "begin"))
        if reached == steps:
            break
        hit = time.monotonic()
        if (what := chaos.strike()) is None:
            continue
        wait_until(partial(alive, folder, hit, chaos), GO_ON_SECONDS, lambda: log_of(folder)[-5000:])
        ends = events(folder, "end")[-1:]
        same = len(events(folder, "begin")) == attempts_before
        table.append(
            {
                "fault": what,
                "at step": reached,
                "trains again after": f"{time.monotonic() - hit:.0f} s",
                "how": "went on" if same else ends[0]["outcome"] if ends else "requeued by Slurm",
            }
        )
    about = cluster.wait_for_end(job, 1200)
    assert about["JobState"] == "COMPLETED", log_of(folder)[-5000:]
    assert len(table) >= faults
    assert [[record[name] for name in sorted(LOSSES)] for record in metrics(folder)] == [
        [record[name] for name in sorted(LOSSES)] for record in metrics(alone)
    ]
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, alone))
    assert all((weights[name] == expected[name]).all() for name in expected)
    assert (folder / "evaluation.json").read_bytes() == (alone / "evaluation.json").read_bytes()
    kinds = Counter(str(row["fault"]).split(", ")[0] for row in table)
    rows.setdefault("In all", []).append(
        {
            "faults": len(table),
            "of them": ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())),
            "starts": len(events(folder, "begin")),
            "requeues by Slurm's count": about["Restarts"],
            "drained nodes that an administrator resumed": len(chaos.resumed),
            "steps": steps,
            "minutes": f"{(time.monotonic() - began) / 60:.0f}",
            "outcome": "done by itself; losses, weights and scores bitwise those of a run left alone",
        }
    )


def step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def alive(folder: Path, since: float, chaos: Chaos) -> bool:
    """Return whether the run trains, long enough after a fault to not be a step from before; resume drained nodes."""
    chaos.resumed += chaos.cluster.resume()
    if state(folder)["state"] == "done":
        return True
    path = folder / "metrics.jsonl"
    age = time.time() - path.stat().st_mtime
    return time.monotonic() - since > 8 and age < 2
