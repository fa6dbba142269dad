"""Does pretraining learn the order of frames? Three seeds, with time and without: `make bench-pretraining`.

For each seed (of the set and of the training) launch/pretrain.py trains configs/actions.yaml on made-up pairs of
actions, of which one is the other played backwards: with temporal attention and `time_embed`, and as a control with
neither. Each drawn clip is in the set in both directions, so that whoever is deaf to order can find the pair and must
guess the rest.
Writes benchmarks/pretraining_<hardware>_<date>.md. Finished runs of the same commit are not repeated.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import PROJECT, commit, conditions, save

sys.path.insert(0, str(PROJECT))

from shards.synthetic.drawing.actions import PAIRS

SEEDS = (31, 32, 33)  # choices were made on seed 0
TIMES = {"divided": "temporal attention and `time_embed`", "none": "neither (control)"}
GOAL = 90.0  # percent of clips whose direction is recognised with time
CHANCE = 50.0
OTHER = {name: other for pair in PAIRS for name, other in (pair, pair[::-1])}


def train(seed: int, kind: str, folder: str) -> dict[str, Any]:
    """evaluation.json of a run with this seed on the made-up actions of this seed, and its `seconds`."""
    shards = PROJECT / "data" / folder / f"seed-{seed}"
    run = PROJECT / "runs" / folder / f"seed-{seed}-{kind}"
    if not shards.exists():
        command = [sys.executable, "-m", "shards", "build", "synthetic-actions", "--seed", str(seed)]
        subprocess.run([*command, "--out", str(shards), "--workers", "1"], check=True, cwd=PROJECT)
    if not (run / "seconds.json").exists():
        launch = [str(Path(sys.executable).with_name("accelerate-launch"))]
        launch += ["--config_file", "configs/accelerate/single.yaml", "launch/pretrain.py"]
        settings = ["--seed", str(seed), "--data.shards", str(shards), "--run", str(run), "--pretrain.time", kind]
        began = time.monotonic()
        subprocess.run([*launch, *settings], check=True, cwd=PROJECT)
        (run / "seconds.json").write_text(f"{time.monotonic() - began:.0f}\n")
    result = json.loads((run / "evaluation.json").read_text())
    return {**result, "seconds": float((run / "seconds.json").read_text())}


def direction(result: dict[str, Any]) -> float:
    """Of the clips whose pair is recognised, the percentage whose direction is, too."""
    counts = {name: of_class["predicted"] for name, of_class in result["classes"].items()}
    right = sum(predicted.get(name, 0) for name, predicted in counts.items())
    reverse = sum(predicted.get(OTHER[name], 0) for name, predicted in counts.items())
    return 100 * right / (right + reverse)


def pair(result: dict[str, Any]) -> float:
    """Percentage of clips whose pair is recognised, whichever its direction."""
    counts = {name: of_class["predicted"] for name, of_class in result["classes"].items()}
    within = sum(predicted.get(name, 0) + predicted.get(OTHER[name], 0) for name, predicted in counts.items())
    return 100 * within / result["num_clips"]


def line(name: str, values: list[float], form: str = ".1f") -> str:
    cells = " | ".join(f"{value:{form}}" for value in values)
    return f"| {name} | {cells} | {statistics.mean(values):{form}} ± {statistics.stdev(values):{form}} |"


def record(result: dict[str, dict[int, dict[str, Any]]], head: str) -> str:
    """The record as Markdown."""
    rows = [
        line(f"{measure}, {TIMES[kind]}", [of(evaluation) for evaluation in result[kind].values()])
        for measure, of in (
            ("all 8 classes", lambda evaluation: 100 * evaluation["accuracy"]),
            ("the pair alone", pair),
            ("**the direction, where the pair is right**", direction),
        )
        for kind in TIMES
    ]
    with_time, control = ([direction(evaluation) for evaluation in result[kind].values()] for kind in TIMES)
    met = "yes" if min(with_time) > GOAL else "no"
    seconds = {kind: [evaluation["seconds"] for evaluation in result[kind].values()] for kind in TIMES}
    one = result["divided"][SEEDS[0]]
    return "\n".join(
        [
            "# Pretraining on pairs of actions that only time tells apart",
            "",
            head,
            "",
            "configs/actions.yaml. A column is a seed of the set and of the training; "
            f"{one['num_clips']} held-out clips, {len(PAIRS)} pairs ({', '.join('/'.join(names) for names in PAIRS)}). "
            "Every drawn clip is in the set forwards as one action and backwards as the other, so that a model that is "
            f"deaf to order can name the pair and must guess the direction: chance is {CHANCE:.0f} % there, "
            f"{100 / one['num_classes']:.1f} % among all classes. In percent.",
            "",
            "| recognised | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean ± sd |",
            "|---|" + "---:|" * (len(SEEDS) + 1),
            *rows,
            line("seconds of a run, with time", seconds["divided"], ".0f"),
            line("seconds of a run, control", seconds["none"], ".0f"),
            "",
            f"Goal: above {GOAL:.0f} % of the directions with time, for every seed: {met}. The control is "
            f"{max(abs(value - CHANCE) for value in control):.1f} points from chance at most. The seconds depend "
            "on what else the machine does.",
            "",
        ]
    )


def main() -> None:
    head, folder = conditions("bench-pretraining"), f"pretraining/{commit()}"
    result = {kind: {seed: train(seed, kind, folder) for seed in SEEDS} for kind in TIMES}
    save("pretraining", record(result, head))


if __name__ == "__main__":
    main()
