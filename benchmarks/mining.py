"""Does mining over all ranks help? BatchHard over all ranks, per rank, and without: `make bench-mining`.

For each seed, configs/synthetic.yaml is trained with BatchHard over the whole batch, within four groups as four ranks
that mine alone would, and without a metric loss. All else is equal: start, batches, cross-entropy, statistics of the
BNNecks. Finished runs of the same commit are reused, also those of accuracy.py.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import combinations

from benchmarks.accuracy import SEEDS, TRAINED, WINDOWS, metric_loss
from benchmarks.harness import launch, run_main, save, table
from benchmarks.runs import evaluation, seed_table, trained

GROUPS = 4
SETTINGS: dict[str, list[object]] = {
    TRAINED: [],
    f"mined in {GROUPS} groups": ["--loss.mining_groups", GROUPS],
    "no metric loss": ["--loss.metric", "none"],
}
SCORES = {"mAP": "mAP, %", "rank1": "rank-1, %"}
T_95 = 4.303  # two-sided 95 % quantile of Student's t with two degrees of freedom, for three differences


def difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the mean of paired differences with its 95 % interval by Student's t."""
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    mean, half = statistics.mean(differences), T_95 * statistics.stdev(differences) / len(differences) ** 0.5
    verdict = "no difference shown" if abs(mean) <= half else "higher" if mean > 0 else "lower"
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}): {verdict}"


def main() -> None:
    assert len(SEEDS) == 3, "T_95 is for three seeds"
    command = [*launch("single"), "launch/train.py"]
    runs = {
        kind: [trained("accuracy", seed, kind, [*command, *settings]) for seed in SEEDS]
        for kind, settings in SETTINGS.items()
    }
    results = {kind: [evaluation(run) for run in of_kind] for kind, of_kind in runs.items()}
    scores = {key: {kind: [100 * one[key] for one in of_kind] for kind, of_kind in results.items()} for key in SCORES}
    losses = {
        f"{kind}, {name}": [metric_loss(run, steps) for run in runs[kind]]
        for kind, settings in SETTINGS.items()
        if "none" not in settings
        for name, steps in WINDOWS.items()
    }
    nearest = {kind: [one["distances"]["cosine"]["inter_mean"] for one in of_kind] for kind, of_kind in results.items()}
    pairs = [
        [f"{one}, minus {other}", *(difference(of_kind[one], of_kind[other]) for of_kind in scores.values())]
        for one, other in combinations(SETTINGS, 2)
    ]
    save(
        "mining",
        "Mining over all ranks, per rank, and no metric loss",
        "configs/synthetic.yaml (P = 16, K = 4). An anchor has 3 positives. It chooses its nearest negative among 60 "
        "clips of 15 identities of the whole batch, or among 12 clips of 3 identities of its group. A column is a "
        "generator seed and the same training seed. Scores in percent on the test identities, which are not in "
        "training, of all stages joined.",
        *(seed_table(SCORES[key], SEEDS, of_kind) for key, of_kind in scores.items()),
        table(["paired by seed, 95 % interval", *SCORES.values()], pairs),
        seed_table("cosine distance to the nearest other identity", SEEDS, nearest, ".3f"),
        seed_table("triplet loss, mean of the stages", SEEDS, losses, ".3f"),
        "The people are drawn, the model is small and trained from scratch for 300 steps: this says nothing about "
        "other data, longer runs or pretrained starts.",
    )


if __name__ == "__main__":
    run_main(main, __doc__)
