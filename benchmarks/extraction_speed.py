"""Speed of feature extraction compared with the model alone: a part of `make bench-evaluation`."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

import shards
from benchmarks.harness import PROJECT, Figure, in_turn, run, table
from mstat.config.cli import load_config
from mstat.data.loader import EvaluationBatches, load
from mstat.distributed.engine import Engine
from mstat.evaluation.trial import Trial
from mstat.model import MSTAT

ROUNDS, BATCH = 5, 16
SETTINGS: dict[str, list[str]] = {
    "small model (configs/synthetic.yaml)": [],
    "model of width 384 on 128 x 64": [
        *("--model.image_size", "[128, 64]", "--model.patch_size", "16", "--model.width", "384"),
        *("--model.num_heads", "6", "--model.depths", "[4, 1, 1]"),
    ],
}


def extraction() -> tuple[list[str], list[Figure]]:
    """Measure extraction on the test tracklets of the synthetic set, with one loader worker."""
    rows, figures = [], []
    with tempfile.TemporaryDirectory(prefix="bench-evaluation-") as folder:
        out = Path(folder) / "shards"
        run(sys.executable, "-m", "shards", "build", "synthetic", "--seed", "0", "--out", out)
        for name, settings in SETTINGS.items():
            ours, alone = rates(out, settings)
            rows.append([name, f"{ours:.1f}", f"{alone:.1f}", f"**{ours / alone:.2f}**"])
            texts = f"{ours:.1f} clips/s", "its forward alone", f"{alone:.1f} clips/s"
            limit, share = texts[2], ours / alone
            figures.append(Figure(f"extraction, {name}", *texts, share, "0.9", limit, share))
    text = (
        "From shards to features, from the first call of the model to the last, against the model's own calls on as "
        f"many batches that are in memory already, of the same shape ({BATCH} clips of 8 frames). Clips a second."
    )
    return ["## Extraction", text, table(["model", "extraction", "model alone", "ratio"], rows)], figures


def rates(out: Path, settings: list[str]) -> tuple[float, float]:
    """Return clips per second of extraction and of the model alone."""
    config = load_config(
        PROJECT / "configs" / "synthetic.yaml",
        ["--data.shards", str(out), "--data.num_workers", "1", "--eval.batch_size", str(BATCH), *settings],
    )
    reader = shards.open(config.data.shards)
    trial = Trial(Engine(config), reader, config)
    torch.manual_seed(0)
    model, size = MSTAT(config.model), config.model.image_size
    num_clips = len(trial.tracklets)
    rows = [[(row, 0) for row in range(n, min(n + BATCH, num_clips))] for n in range(0, num_clips, BATCH)]
    dataset = EvaluationBatches(reader, trial.tracklets.tolist(), rows, config.eval, size, num_clips)
    with closing(load(dataset, range(len(rows)), 0, False)) as loader:
        batches = [batch["frames_BTHWC"].clone() for batch in loader]
    calls: list[tuple[float, float]] = []
    seconds: list[float] = []

    def embed(frames_BTHWC: torch.Tensor) -> Any:
        began = time.perf_counter()
        parts = model(frames_BTHWC)
        calls.append((began, time.perf_counter()))
        return parts

    def extract() -> None:
        calls.clear()
        trial.extract(embed, size)
        seconds.append(max(end for _, end in calls) - min(began for began, _ in calls))

    @torch.no_grad()
    def alone() -> None:
        for frames_BTHWC in batches:
            model(frames_BTHWC)

    times = in_turn({"extract": extract, "alone": alone}, ROUNDS, warm_up=1)
    return num_clips / statistics.median(seconds[1:]), num_clips / statistics.median(times["alone"])
