"""The path from one's own video to a report, on real pedestrians: build, train, evaluate, as the README has it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.conftest import NO_SCORES, PROJECT, run
from tests.shards.trees import shared_data


def test_from_a_video_to_a_report(tmp_path: Path) -> None:
    """19 people, their tracks halved into two cameras; a few steps; scores and pictures of the people in the report."""
    video = shared_data("pets2009")
    shards = tmp_path / "shards"
    build = ["build", "mot", "--video", video / "vtest.avi", "--tracks", video / "gt.txt", "--halve-tracks"]
    command = [sys.executable, "-m", "shards", *map(str, build), "--out", str(shards)]
    subprocess.run(command, check=True, cwd=PROJECT)

    folder = tmp_path / "run"
    config = PROJECT / "configs" / "pets2009.yaml"
    settings = ["--config", config, "--data.shards", shards, "--run", folder, "--train.steps", 4, *NO_SCORES]
    status, output = run("train", settings)
    assert status == 0, output
    accelerate = str(Path(sys.executable).with_name("accelerate"))
    arguments = ["--config_file", "configs/accelerate/single.yaml", "launch/evaluate.py", "--run", str(folder)]
    subprocess.run([accelerate, "launch", *arguments, "--eval.mode", "clips"], check=True, cwd=PROJECT)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["protocol"] == "cross-camera"
    assert evaluation["mode"] == "clips"
    assert evaluation["num_valid_query"] == evaluation["num_query"] > 10
    report = (folder / "report.html").read_text()
    assert len(re.findall(r"data:image/jpeg;base64,", report)) > 100
