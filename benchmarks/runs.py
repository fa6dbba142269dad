"""Training runs with several seeds on synthetic sets of the same seeds, for the benchmarks of accuracy."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import PROJECT, commit, run, table


def trained(name: str, seed: int, kind: str, command: Sequence[object], dataset: str = "synthetic") -> Path:
    """Train with this seed on the set of this seed, unless that run is finished; return the run folder.

    Args:
        name: Benchmark; sets and runs are in data/<name>/<commit> and runs/<name>/<commit>.
        kind: Name that distinguishes runs of the same seed.
        command: Launcher, script and settings.
    """
    shards = PROJECT / "data" / name / commit() / f"seed-{seed}"
    folder = PROJECT / "runs" / name / commit() / f"seed-{seed}-{kind}"
    if not shards.exists():
        run(sys.executable, "-m", "shards", "build", dataset, "--seed", seed, "--out", shards)
    if not (folder / "seconds.json").exists():
        began = time.monotonic()
        run(*command, "--seed", seed, "--data.shards", shards, "--run", folder)
        (folder / "seconds.json").write_text(f"{time.monotonic() - began:.0f}\n")
    return folder


def evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


def mean_sd(values: Sequence[float], form: str = ".1f") -> str:
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form.lstrip('+')}}"


def seed_table(title: str, seeds: Sequence[int], rows: Mapping[str, Sequence[float]], form: str = ".1f") -> str:
    """Return a Markdown table with a column for each seed, and mean ± standard deviation."""
    head = [title, *(f"seed {seed}" for seed in seeds), "mean ± sd"]
    cells = [[name, *(f"{value:{form}}" for value in of_row), mean_sd(of_row, form)] for name, of_row in rows.items()]
    return table(head, cells)
