"""The synthetic set: walking people, drawn from a seed and written in MARS's layout.

It stands in for MARS where no real pictures can be had: nothing to download, the same files, names and conventions,
identities that a model has to learn. A validation part, in the same form, is MARS's layout continued:

    OUT/bbox_{train,val,test}/{00-1,0000,<pid4>}/<pid4>C<camera>T<tracklet4>F<frame3>.jpg
    OUT/info/{train,val,test}_name.txt, tracks_{train,val,test}_info.mat, query_IDX.mat, query_val_IDX.mat
    OUT/seed.txt                      what it was drawn from, and by which generator
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from shards.records import DISTRACTOR_PID, JUNK_PID, DataError, UsageError
from shards.synthetic.drawing.scenes import NUM_CAMERAS
from shards.synthetic.drawing.walks import draw_tracklet
from shards.workers import Progress, run_jobs

PARTS = ("train", "val", "test")
DISTRACTORS, JUNK = 0.20, 0.07  # shares of the tracklets of the validation and of the test part
MAX_FRAMES = 40
JPEG_QUALITY = 90
SEED_FILE = "seed.txt"
GENERATOR = 2  # goes up whenever the same seed gives other bytes: trees that were drawn before are drawn anew

_PLAN = 2  # first key of the plan's random stream; the others are in drawing/


@dataclass(frozen=True, slots=True)
class Plan:
    """One tracklet before it is drawn."""

    part: str
    pid: int
    camid: int  # 1-based, as MARS's
    number: int  # unique for each pid
    num_frames: int

    @property
    def folder(self) -> str:
        return "00-1" if self.pid == JUNK_PID else f"{self.pid:04d}"

    @property
    def names(self) -> list[str]:
        """File names of the frames, in the order of time."""
        return [f"{self.folder}C{self.camid}T{self.number:04d}F{i:03d}.jpg" for i in range(1, self.num_frames + 1)]


def write_synthetic(
    out: Path, seed: int, *, workers: int = 2, num_train: int = 120, num_val: int = 30, num_test: int = 50
) -> None:
    """Draws a data set and writes it to `out`, whole or not at all.

    The same seed and sizes give the same bytes, for any number of workers; another seed gives other people, cameras
    and backgrounds. Identities number 1..num_train in training, then validation, then test.

    Args:
        out: Folder to make; must not exist, or be empty.
        seed: Not negative.
        workers: Processes that draw; 1 draws in this one.

    Raises:
        UsageError: A negative seed, no worker, a part without identities or more identities than four digits hold.
        DataError: `out` is there already.
    """
    sizes = dict(zip(PARTS, (num_train, num_val, num_test), strict=True))
    if seed < 0 or workers < 1 or min(sizes.values()) < 1 or sum(sizes.values()) > 9999:
        raise UsageError(
            f"write_synthetic: seed {seed} must be >= 0, workers {workers} >= 1, and identities {sizes} "
            "at least 1 each and at most 9999 together"
        )
    with draft_of(Path(out)) as draft:
        plans = plan(seed, num_train=num_train, num_val=num_val, num_test=num_test)
        _write_info(draft, seed, plans)
        for folder in sorted({(tracklet.part, tracklet.folder) for tracklet in plans}):
            (draft / f"bbox_{folder[0]}" / folder[1]).mkdir(parents=True)
        run_jobs(partial(_write_frames, draft, seed), plans, workers=workers, total=len(plans))
        (draft / SEED_FILE).write_text(provenance(seed))


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """A folder beside `out` to draw into, renamed to `out` at a good end and removed at any other.

    Raises DataError where `out` is there already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already; remove it or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f"{out.name}.drawing")
    shutil.rmtree(draft, ignore_errors=True)  # what a killed one left
    try:
        yield draft
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def provenance(seed: int, generator: int = GENERATOR) -> str:
    """Content of SEED_FILE."""
    return f"seed {seed}\ngenerator {generator}\n"


def plan(seed: int, *, num_train: int, num_val: int, num_test: int) -> list[Plan]:
    """Return which person is seen by which camera, how often and for how long, in the order of MARS's files."""
    rng = np.random.default_rng([seed, _PLAN])
    plans: list[Plan] = []
    first_pid = 1
    first_number = {DISTRACTOR_PID: 1, JUNK_PID: 1}  # number on from part to part: (pid, number) is unique
    for part, size in zip(PARTS, (num_train, num_val, num_test), strict=True):
        people = [
            Plan(part, pid, camid, number, _length(rng))
            for pid in range(first_pid, first_pid + size)
            for number, camid in enumerate(_cameras_of_person(rng), 1)
        ]
        first_pid += size
        others: list[Plan] = []
        if part != "train":
            for pid, share in ((JUNK_PID, JUNK), (DISTRACTOR_PID, DISTRACTORS)):
                num_tracklets = max(1, round(len(people) * share / (1.0 - DISTRACTORS - JUNK)))
                camids = np.sort(rng.integers(1, NUM_CAMERAS + 1, size=num_tracklets)).tolist()
                others += [
                    Plan(part, pid, camid, first_number[pid] + i, _length(rng)) for i, camid in enumerate(camids)
                ]
                first_number[pid] += num_tracklets
        plans += others + people
    return plans


def _length(rng: np.random.Generator) -> int:
    return min(MAX_FRAMES, 2 + int(rng.gamma(1.6, 7.0)))


def _cameras_of_person(rng: np.random.Generator) -> list[int]:
    """Cameras that one identity passes, one entry a tracklet; a few people pass a single camera."""
    num_cameras = int(rng.choice([1, 2, 3, 4], p=[0.06, 0.3, 0.38, 0.26]))
    camids = np.sort(rng.permutation(NUM_CAMERAS)[:num_cameras] + 1)
    return np.repeat(camids, rng.integers(1, 3, size=num_cameras)).tolist()


def _write_info(out: Path, seed: int, plans: list[Plan]) -> None:
    """The name files, the tracklet tables and the queries: one for each identity of two cameras and each of these."""
    info = out / "info"
    info.mkdir(parents=True)
    for part in PARTS:
        tracklets = [tracklet for tracklet in plans if tracklet.part == part]
        names = [name for tracklet in tracklets for name in tracklet.names]
        (info / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
        ends = np.cumsum([tracklet.num_frames for tracklet in tracklets])
        rows = [
            (end - tracklet.num_frames + 1, end, tracklet.pid, tracklet.camid)
            for end, tracklet in zip(ends.tolist(), tracklets, strict=True)
        ]
        _write_mat(info / f"tracks_{part}_info.mat", f"track_{part}_info", np.array(rows, dtype=np.int32))
        if part != "train":
            name = "query_IDX" if part == "test" else f"query_{part}_IDX"
            queries = np.array([_queries(tracklets, seed)], dtype=np.uint16)
            _write_mat(info / f"{name}.mat", name, queries)


def _queries(tracklets: list[Plan], seed: int) -> list[int]:
    """1-based rows of the queries: as in MARS, who is seen by a single camera is not asked for."""
    rng = np.random.default_rng([seed, _PLAN, 1])
    rows: dict[int, dict[int, list[int]]] = {}
    for row, tracklet in enumerate(tracklets, 1):
        if tracklet.pid > 0:
            rows.setdefault(tracklet.pid, {}).setdefault(tracklet.camid, []).append(row)
    seen_twice = (cameras for cameras in rows.values() if len(cameras) > 1)
    return sorted(int(rng.choice(choice)) for cameras in seen_twice for choice in cameras.values())


def _write_mat(path: Path, key: str, values: np.ndarray) -> None:
    """A MATLAB v5 file without the time of day, which scipy writes into the header's free text."""
    from scipy.io import savemat

    savemat(path, {key: values})
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file, mstat synthetic set".ljust(116))


def _write_frames(out: Path, seed: int, tracklet: Plan, progress: Progress) -> None:
    progress.check()
    folder = out / f"bbox_{tracklet.part}" / tracklet.folder
    frames = draw_tracklet(seed, tracklet.pid, tracklet.camid, tracklet.number, tracklet.num_frames)
    for name, frame in zip(tracklet.names, frames, strict=True):
        (folder / name).write_bytes(simplejpeg.encode_jpeg(frame, quality=JPEG_QUALITY, colorsubsampling="420"))
    progress.advance(1, tracklet.num_frames)
