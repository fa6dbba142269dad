"""Does mining over all ranks help? Four ranks, three synthetic sets, mined together and alone: `make bench-mining`.

For each seed (of the set and of the training) configs/synthetic.yaml is trained on 4 processes: with BatchHard over the
batch of all ranks, with BatchHard over the share of a rank (`loss.mining_groups 4`), and for reference without it. All
else is the same: start, batches, cross-entropy, BNNeck's statistics. Writes benchmarks/mining_<hardware>_<date>.md.
Finished runs of the same commit are not repeated.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from record import PROJECT, commit, conditions, save

RANKS = 4
SEEDS = (21, 22, 23)  # choices were made on seeds from 100 on, scores are recorded on 11 to 13
TOGETHER, ALONE, NONE = "mined over all 4 ranks", "mined per rank", "cross-entropy alone"
SETTINGS = {
    TOGETHER: "loss.mining_groups=1",
    ALONE: f"loss.mining_groups={RANKS}",
    NONE: "loss.metric=none",
}
LAST = 20  # steps whose losses are shown
T_95 = 4.303  # two-sided 95 % quantile of Student's t, two degrees of freedom: three differences


def train(seed: int, name: str) -> dict[str, Any]:
    """evaluation.json of a run with this seed on the synthetic set of this seed, and its last losses as `triplet`."""
    shards = PROJECT / "data" / "mining" / commit() / f"seed-{seed}"
    run = PROJECT / "runs" / "mining" / commit() / f"seed-{seed}-{SETTINGS[name]}"
    if not shards.exists():
        command = [sys.executable, "-m", "shards", "build", "synthetic", "--seed", str(seed), "--out", str(shards)]
        subprocess.run(command, check=True, cwd=PROJECT)
    if not (run / "evaluation.json").exists():
        launch = [sys.executable, "-m", "accelerate.commands.launch"]
        launch += ["--config_file", "configs/accelerate/ddp.yaml", "--num_processes", str(RANKS)]
        launch += ["--main_process_port", "0", "launch/train.py", "--config", "configs/synthetic.yaml"]
        launch += ["--seed", str(seed), "--data.shards", str(shards), "--run", str(run)]
        launch += ["--data.num_workers", "1", f"--{SETTINGS[name]}"]
        subprocess.run(launch, check=True, cwd=PROJECT)
    result = json.loads((run / "evaluation.json").read_text())
    steps = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()[-LAST:]]
    result["triplet"] = [value for step in steps for key, value in step.items() if key.endswith("/triplet")]
    return result


def line(name: str, values: list[float], form: str = ".1f") -> str:
    cells = " | ".join(f"{value:{form}}" for value in values)
    return f"| {name} | {cells} | {statistics.mean(values):{form}} ± {statistics.stdev(values):{form.lstrip('+')}} |"


Found = dict[int, dict[str, dict[str, Any]]]  # seed -> setting -> evaluation


def scores(result: Found, name: str, key: str) -> list[float]:
    """A score of all stages joined in percent, one for each seed."""
    return [100 * evaluations[name]["stages"]["I+II+III"][key] for evaluations in result.values()]


def difference(result: Found, name: str, other: str, key: str = "mAP") -> list[float]:
    return [a - b for a, b in zip(scores(result, name, key), scores(result, other, key), strict=True)]


def verdict(differences: list[float]) -> str:
    """What differences of mAP, one for each seed, allow to say."""
    mean = statistics.mean(differences)
    half = T_95 * statistics.stdev(differences) / len(differences) ** 0.5
    interval = f"{mean:+.1f} points of mAP, 95 % interval {mean - half:+.1f} to {mean + half:+.1f}"
    if abs(mean) <= half:
        return f"not to be told from chance ({interval})"
    return f"{'better' if mean > 0 else 'worse'} ({interval})"


def record(result: Found) -> str:
    """The record as Markdown."""
    seeds = list(result)
    columns = " | ".join(f"seed {seed}" for seed in seeds) + " | mean ± sd |"
    baselines = [result[seed][NONE]["baselines"] for seed in seeds]
    against = f"**{TOGETHER}, minus {ALONE}**"
    triplet = {name: [statistics.mean(result[seed][name]["triplet"]) for seed in seeds] for name in (TOGETHER, ALONE)}
    return "\n".join(
        [
            "# Mining over all ranks against mining per rank",
            "",
            conditions("bench-mining"),
            "",
            "configs/synthetic.yaml (P = 16, K = 4) on 4 processes, 16 clips of 4 identities each. An anchor has 3 "
            "positives either way; it chooses its nearest negative among 60 clips of 15 identities where all ranks "
            "are mined together, among 12 clips of 3 where each is mined alone. A column is a generator seed and the "
            "same training seed; scores on the test identities, which are not in training, all stages joined.",
            "",
            f"| mAP, % | {columns}",
            "|---|" + "---:|" * (len(seeds) + 1),
            *(line(name, scores(result, name, "mAP")) for name in SETTINGS),
            line(against, difference(result, TOGETHER, ALONE), "+.1f"),
            *(line(name, [100 * one[name]["mAP"] for one in baselines]) for name in baselines[0]),
            "",
            f"| rank-1, % | {columns}",
            "|---|" + "---:|" * (len(seeds) + 1),
            *(line(name, scores(result, name, "rank1")) for name in SETTINGS),
            line(against, difference(result, TOGETHER, ALONE, "rank1"), "+.1f"),
            "",
            f"| triplet loss, mean of the stages and of the last {LAST} steps | {columns}",
            "|---|" + "---:|" * (len(seeds) + 1),
            *(line(name, values, ".3f") for name, values in triplet.items()),
            "",
            "Differences paired by seed, n = 3, Student's t:",
            "",
            f"- {TOGETHER}, against {ALONE}: {verdict(difference(result, TOGETHER, ALONE))}",
            f"- {TOGETHER}, against {NONE}: {verdict(difference(result, TOGETHER, NONE))}",
            f"- {ALONE}, against {NONE}: {verdict(difference(result, ALONE, NONE))}",
            "",
        ]
    )


def main() -> None:
    save("mining", record({seed: {name: train(seed, name) for name in SETTINGS} for seed in SEEDS}))


if __name__ == "__main__":
    main()
