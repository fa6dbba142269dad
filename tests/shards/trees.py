"""Small data sets on disk, with real JPEGs, for the tests of the shards room."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards import images
from shards.sources import mars
from shards.summary import summary
from shards.write import building, write

Row = tuple[str, int, int, int, int]  # identity as MARS writes it, camera, tracklet, frames, first frame's number

TRAIN: list[Row] = [("0001", 1, 1, 3, 1), ("0001", 2, 2, 5, 1), ("0003", 1, 1, 4, 1), ("0003", 6, 2, 2, 1)]
TEST: list[Row] = [
    ("00-1", 1, 1, 2, 1),
    ("0000", 3, 1, 4, 1),
    ("0004", 1, 1, 6, 119),
    ("0004", 1, 2, 3, 1),
    ("0004", 2, 3, 5, 1),
    ("0006", 5, 1, 3, 1),
]
QUERY = [3, 5, 6]  # 1-based rows of TEST
VAL: list[Row] = [("0010", 1, 1, 3, 1), ("0010", 2, 2, 3, 1)]
VAL_QUERY = [1]


def shared_data(folder: str) -> Path:
    """A folder of the real metadata and video beside the repository; skips the test where there is none."""
    shared = os.environ.get("MSTAT_SHARED")
    root = Path(shared) if shared else Path(__file__).resolve().parents[2].parent / "shared"
    path = root / "data" / folder
    if not path.is_dir():
        pytest.skip(f"needs the real {folder}: ../shared/data/{folder}, or MSTAT_SHARED")
    return path


def picture(seed: int, size: tuple[int, int] = (64, 32), quality: int = 90) -> bytes:
    """A JPEG unlike all others."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), np.uint8)
    large = Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC)
    return images.encode(np.asarray(large), quality)


def hostile_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders list their content in the order that is worst for whoever does not sort."""
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda *args: sorted(listdir(*args), reverse=True))


def official_split(out: Path, protocol: int = 0, split: str = "0") -> dict[str, Any]:
    """Return the counts of `info` for one split of a set."""
    from shards.read import Reader

    counts: dict[str, Any] = summary(Reader(out))["protocols"][protocol]["splits"][split]
    return counts


def names_of(row: Row) -> list[str]:
    """A tracklet's file names."""
    pid, camid, tracklet, frames, first = row
    return [f"{pid}C{camid}T{tracklet:04d}F{frame:03d}.jpg" for frame in range(first, first + frames)]


def write_info(root: Path, part: str, rows: Sequence[Row], query: Iterable[int] = ()) -> None:
    """A part's files under info/."""
    import scipy.io  # not at the top: spawned readers import this file too

    (root / "info").mkdir(parents=True, exist_ok=True)
    names = [name for row in rows for name in names_of(row)]
    (root / "info" / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
    ends = np.cumsum([row[3] for row in rows])
    table = [
        (end - row[3] + 1, end, -1 if row[0] == "00-1" else int(row[0]), row[1])
        for row, end in zip(rows, ends, strict=True)
    ]
    scipy.io.savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(table, np.int32)})
    if part != "train":
        key = "query_IDX" if part == "test" else f"query_{part}_IDX"
        scipy.io.savemat(root / "info" / f"{key}.mat", {key: np.array([list(query)], np.uint16)})


def mars_tree(root: Path, *, val: bool = False, size: tuple[int, int] = (64, 32), repeat: int = 1) -> Path:
    """A small set in MARS's layout; `repeat` adds as many copies of its training rows as other identities."""
    train = [(f"{int(row[0]) + 100 * n:04d}", *row[1:]) for n in range(repeat) for row in TRAIN]
    parts: list[tuple[str, list[Row], list[int]]] = [("train", train, []), ("test", TEST, QUERY)]
    if val:
        parts.append(("val", VAL, VAL_QUERY))
    seed = 0
    for part, rows, query in parts:
        write_info(root, part, rows, query)
        for row in rows:
            folder = root / f"bbox_{part}" / row[0]
            folder.mkdir(parents=True, exist_ok=True)
            for name in names_of(row):
                seed += 1
                (folder / name).write_bytes(picture(seed, size))
    return root


def build_mars(tree: Path, out: Path, *, workers: int = 1, shard_bytes: int = 40_000) -> Path:
    """Shards of a tree: small ones, so that there are several."""
    with building(out) as folder:
        write(mars.read(tree, partial=True), folder, workers=workers, shard_bytes=shard_bytes)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
