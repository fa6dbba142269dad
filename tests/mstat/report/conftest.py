"""A made-up run folder, complete and small, that each test bends to its purpose."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

import shards
from shards.read import Reader
from shards.records import Frame, Protocol, Role, Source, SourceTracklet
from shards.write import building, write

TRACKLETS = {"0001C1T0001": 6, "0001C2T0001": 7, "0002C1T0001": 8, "0000C2T0001": 9}  # key -> number of frames
STAGES = ("I", "II", "III", "I+II", "I+III", "II+III", "I+II+III")


def make_record(step: int) -> dict[str, Any]:
    terms = {
        f"loss/{stage}/{term}": size * math.exp(-step / 20)
        for stage in ("I", "II", "III")
        for term, size in (("cross_entropy", 4.0), ("triplet", 0.5))
    }
    loss = sum(terms.values())
    return {"step": step, "epoch": step // 8, "loss": loss, **terms, "lr": 1e-3, "grad_norm": 2.5, "clips_per_s": 130.0}


def make_scores(mean_ap: float, rank1: float) -> dict[str, Any]:
    return {"mAP": mean_ap, "rank1": rank1, "rank5": rank1 + 0.05, "rank10": rank1 + 0.08, "rank20": rank1 + 0.1}


def make_evaluation() -> dict[str, Any]:
    cmc = [min(1.0, 0.6 + rank / 100) for rank in range(50)]
    return {
        "protocol": "official",
        "split": "0",
        "warnings": [],
        **make_scores(0.8123, 0.8772),
        "num_query": 1980,
        "num_valid_query": 1840,
        "num_gallery": 11310,
        "cmc": cmc,
        "stages": {stage: make_scores(0.701 + 0.01 * place, 0.8) for place, stage in enumerate(STAGES)},
        "baselines": {
            "untrained": {**make_scores(0.123, 0.2), "cmc": cmc},
            "HSV histogram, 6 stripes": {**make_scores(0.4321, 0.5), "cmc": cmc},
        },
    }


def make_rankings() -> dict[str, Any]:
    def entry(rank: int, key: str, correct: bool) -> dict[str, Any]:
        return {**place(key), "rank": rank, "similarity": 0.9 - rank / 10, "correct": correct}

    def place(key: str) -> dict[str, Any]:
        return {"index": list(TRACKLETS).index(key), "key": key, "pid": int(key[:4]), "camid": int(key[5])}

    ranked = [entry(1, "0002C1T0001", False), entry(2, "0001C2T0001", True), entry(3, "0000C2T0001", False)]
    query = {**place("0001C1T0001"), "ap": 0.125, "first_hit": 2, "num_positives": 3, "gallery": ranked}
    return {"protocol": "official", "split": "0", "queries": [query]}


def make_frames(key: str) -> Iterator[Frame]:
    """A tracklet of grey pictures of 128x64; each frame is a little brighter than the one before."""
    for number in range(TRACKLETS[key]):
        picture = np.full((128, 64, 3), 20 + 25 * number, dtype=np.uint8)
        yield Frame(f"{key}F{number}", partial(bytes, simplejpeg.encode_jpeg(picture, quality=95)))


@pytest.fixture(scope="session")
def shard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real folder of shards that holds the tracklets of `make_rankings`."""
    tracklets = tuple(
        SourceTracklet(key, int(key[:4]), int(key[5]), num_frames, (Role.GALLERY,), partial(make_frames, key))
        for key, num_frames in TRACKLETS.items()
    )
    out = tmp_path_factory.mktemp("report") / "shards"
    with building(out) as folder:
        write(Source("greys", (Protocol("official"),), tracklets), folder)
    return out


@pytest.fixture
def reader(shard_folder: Path) -> Reader:
    return shards.open(shard_folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "some-run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed: 7\ndata:\n  shards: nowhere/shards\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(make_record(step)) + "\n" for step in range(1, 61)))
    files = {
        "environment.json": {
            "command": "accelerate launch launch/train.py", "started": "2026-11-22T10:19:36+00:00",
            "versions": {"torch": "2.11.0"}, "commit": None, "hardware": "2 CPU cores", "world_size": 1,
        },
        "state.json": {"state": "done", "step": 60, "reason": None},
        "evaluation.json": make_evaluation(),
        "rankings.json": make_rankings(),
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def lean(run: Path) -> Path:
    """The run folder without its curves, which take the time, for tests that look elsewhere."""
    (run / "metrics.jsonl").write_text("")
    evaluation = make_evaluation()
    evaluation["cmc"] = evaluation["baselines"] = None
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    return run
