"""Extraction of features against the model alone: a part of `make bench-evaluation`, see evaluation_speed.py."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from record import PROJECT, Figure

import shards
from mstat.config.cli import load_config
from mstat.data.loader import EvaluationBatches, load
from mstat.distributed.engine import Engine
from mstat.evaluation.extraction import Trial
from mstat.model import MSTAT

ROUNDS = 5
THREADS = torch.get_num_threads()
BATCH = 16
SETTINGS: dict[str, list[str]] = {
    "small model (configs/synthetic.yaml)": [],
    "model of width 384 on 128 x 64": [
        *("--model.image_size", "[128, 64]", "--model.patch_size", "16", "--model.width", "384"),
        *("--model.num_heads", "6", "--model.depths", "[4, 1, 1]"),
    ],
}


class Extracted(NamedTuple):
    """Clips a second: of all of it, from the first forward on, and of the model alone; CPU ms to decode a frame."""

    whole: float
    warm: float
    model: float
    model_one: float
    decode: float


def clock(*functions: Callable[[], Any], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each, all in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, of_it in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            of_it.append(time.perf_counter() - began)
    return [statistics.median(of_it) for of_it in times]


def on_one_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(1)
        try:
            return function()
        finally:
            torch.set_num_threads(THREADS)

    return run


def extraction() -> tuple[list[str], list[Figure]]:
    """Of the test tracklets of the synthetic set, frames read and decoded by one worker."""
    with tempfile.TemporaryDirectory(prefix="bench-evaluation-") as folder:
        out = Path(folder) / "shards"
        command = [sys.executable, "-m", "shards", "build", "synthetic", "--seed", "0", "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result = {name: extract(out, settings) for name, settings in SETTINGS.items()}
    text = [
        "",
        "## Extraction",
        "",
        "From shards to features, against the model's own calls on as many batches that are in memory already, of the "
        f"same shape ({BATCH} clips of 8 frames) and with {THREADS} threads of torch (and one). *Warm* counts "
        "from the first call of the model to the last; *whole* has the start of the worker in it, which costs "
        "the same however long an extraction is. Clips a second; decoding in CPU milliseconds a frame, "
        "and the cores that would have to decode to feed the model at its own rate.",
        "",
        "| model | whole | **warm** | model alone | ratio | model alone, one thread | decoding | cores for it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    figures = []
    for name, one in result.items():
        cores = one.model * 8 * one.decode / 1000
        text.append(
            f"| {name} | {one.whole:.1f} | **{one.warm:.1f}** | {one.model:.1f} | {one.warm / one.model:.2f} | "
            f"{one.model_one:.1f} | {one.decode:.3f} | {cores:.2f} |"
        )
        ours, theirs, ratio = f"{one.warm:.1f} clips/s", f"{one.model:.1f} clips/s", one.warm / one.model
        figures.append(Figure(f"extraction, {name}", ours, "its forward alone", theirs, ratio, "0.9", theirs, ratio))
    return text, figures


def extract(out: Path, settings: list[str]) -> Extracted:
    config = load_config(
        PROJECT / "configs" / "synthetic.yaml",
        ["--data.shards", str(out), "--data.num_workers", "1", "--eval.batch_size", str(BATCH), *settings],
    )
    engine, reader = Engine(config), shards.open(config.data.shards)
    torch.manual_seed(0)
    model = MSTAT(config.model)
    trial = Trial(engine, reader, config)
    num_clips, calls, warm = len(trial.tracklets), [], []
    rows = [(row, 0) for row in range(num_clips)]
    dataset = EvaluationBatches(
        reader, trial.tracklets.tolist(), [rows[n : n + BATCH] for n in range(0, num_clips, BATCH)], config.eval,
        config.model.image_size, num_clips,
    )  # fmt: skip
    began = time.process_time()
    batches = [batch["frames_BTHWC"].clone() for batch in load(dataset, range(len(dataset.batches)), 0, False)]
    decode = 1000 * (time.process_time() - began) / num_clips / config.eval.num_frames

    def embed(frames_BTHWC: torch.Tensor) -> Any:
        began = time.perf_counter()
        parts = model(frames_BTHWC)
        calls.append((began, time.perf_counter()))
        return parts

    def whole() -> None:
        calls.clear()
        trial.extract(embed, config.model.image_size)
        warm.append(max(end for _, end in calls) - min(began for began, _ in calls))

    def alone() -> None:
        with torch.no_grad():
            for frames_BTHWC in batches:
                model(frames_BTHWC)

    whole()  # the fork server starts once for a process
    warm.clear()
    seconds, model_seconds, model_one_seconds = clock(whole, alone, on_one_thread(alone))
    return Extracted(
        num_clips / seconds,
        num_clips / statistics.median(warm),
        num_clips / model_seconds,
        num_clips / model_one_seconds,
        decode,
    )
