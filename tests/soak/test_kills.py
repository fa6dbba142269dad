"""kill -9 of any process at any moment, again and again: the run still ends bit for bit as it would have."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mstat.weights import checkpoint_files
from tests.conftest import LOSSES, Processes, members, metrics, run, start
from tests.soak.conftest import Rows

STEPS = 60
EVERY_STEP_SAVES = ["--train.steps", STEPS, "--train.save_every", 1]
END_SECONDS = 60.0  # from a kill to the last process of the launch


@pytest.mark.parametrize("kind", ["ddp", "zero2"])
def test_kills(kind: str, request: pytest.FixtureRequest, tiny_config: Path, tmp_path: Path, rows: Rows) -> None:
    """Two processes, a checkpoint after every step. After each kill all of the launch ends and every checkpoint with
    its full name is whole; every finished run has the losses and weights of the undisturbed one, bitwise."""
    kills: int = request.config.getoption("--kills")
    undisturbed = tmp_path / "undisturbed"
    options: Processes = {"accelerate": kind, "processes": 2}
    began = time.monotonic()
    status, output = run("train", ["--config", tiny_config, "--run", undisturbed, *EVERY_STEP_SAVES], **options)
    assert status == 0, output
    seconds = time.monotonic() - began

    rng = random.Random(7)
    killed: Counter[str] = Counter()
    slowest, finished, saving, number = 0.0, 0, 0, 0
    while killed.total() < kills or not finished:
        folder = tmp_path / f"run-{number}"
        process = start("train", ["--config", tiny_config, "--run", folder, *EVERY_STEP_SAVES], **options)
        if killed.total() < kills:
            moment = wait(rng, folder, process, seconds)
            if process.poll() is None and (alive := members(process.pid)):
                victim = rng.choice(sorted(alive))
                saving += any(folder.glob("checkpoints/.step-*"))
                os.kill(victim, signal.SIGKILL)
                killed[f"{alive[victim]} {moment}"] += 1
                hit = time.monotonic()
                while members(process.pid) and (folder / "state.json").exists() and not done(folder):
                    assert time.monotonic() - hit < END_SECONDS, members(process.pid)
                    time.sleep(0.05)
                slowest = max(slowest, time.monotonic() - hit)
        output, _ = process.communicate(timeout=300)
        for step, path in checkpoint_files.folders(folder):
            meta = json.loads((path / checkpoint_files.META).read_text())
            assert meta["step"] == step
            assert meta["bytes"] == {
                str(file.relative_to(path)): file.stat().st_size
                for file in path.rglob("*")
                if file.is_file() and file.name != checkpoint_files.META
            }
        if process.returncode == 0 and done(folder):
            finished += 1
            number += 1
            assert_same(folder, undisturbed)
    rows.setdefault("kill -9 of a process of two ranks at a random moment", []).append(
        {
            "kind": kind,
            "kills": killed.total(),
            "while a checkpoint was written or removed": saving,
            "whom and when": ", ".join(f"{who} {count}" for who, count in sorted(killed.items())),
            "longest from kill to last process": f"{slowest:.1f} s",
            "runs brought to their end, bitwise as undisturbed": finished,
        }
    )


def wait(rng: random.Random, folder: Path, process: subprocess.Popen[str], seconds: float) -> str:
    """Until a random moment: of the start-up one time in five, else of the training and what follows it."""
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 0.5 * seconds))
        return "starting"
    before = lines(folder)
    while process.poll() is None and (not (folder / "state.json").exists() or lines(folder) in (0, before)):
        if done(folder):
            break
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.25 * seconds) * (1 - lines(folder) / STEPS) + rng.uniform(0, 0.3))
    return "training"


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def done(folder: Path) -> bool:
    path = folder / "state.json"
    return path.exists() and json.loads(path.read_text())["state"] == "done"


def assert_same(folder: Path, undisturbed: Path) -> None:
    """Losses, weights and scores, bitwise."""
    ours, theirs = metrics(folder), metrics(undisturbed)
    assert [record["step"] for record in ours] == list(range(1, STEPS + 1))
    assert [[record[name] for name in sorted(LOSSES)] for record in ours] == [
        [record[name] for name in sorted(LOSSES)] for record in theirs
    ]
    weights, expected = (load_file(path / "model.safetensors") for path in (folder, undisturbed))
    assert all((weights[name] == expected[name]).all() for name in expected)
    assert (folder / "evaluation.json").read_bytes() == (undisturbed / "evaluation.json").read_bytes()
