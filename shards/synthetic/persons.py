"""The synthetic set: walking people, drawn from a seed and written in MARS's layout.

It replaces MARS where real pictures are not available: no download, the same files, names and conventions, and
identities that a model has to learn. It adds a validation part to MARS's layout:

    OUT/bbox_{train,val,test}/{00-1,0000,<pid4>}/<pid4>C<camera>T<tracklet4>F<frame3>.jpg
    OUT/info/{train,val,test}_name.txt, tracks_{train,val,test}_info.mat, query_IDX.mat, query_val_IDX.mat
    OUT/seed.txt                      seed and version of the generator
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from shards import images
from shards.records import DISTRACTOR_PID, JUNK_PID, DataError, UsageError
from shards.synthetic.drawing.scenes import NUM_CAMERAS
from shards.synthetic.drawing.walks import draw_tracklet
from shards.workers import Progress, run_jobs

PARTS = ("train", "val", "test")
DISTRACTORS, JUNK = 0.20, 0.07  # shares of the tracklets of the validation and of the test part
MAX_FRAMES = 40
JPEG_QUALITY = 90
SEED_FILE = "seed.txt"
GENERATOR = 2  # increased whenever the same seed gives other bytes: older trees are drawn again

_PLAN = 2  # first key of the plan's random stream; the other keys are in drawing/


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of one tracklet."""

    part: str
    pid: int
    camid: int  # from 1, as in MARS
    number: int  # unique for each pid
    num_frames: int

    @property
    def folder(self) -> str:
        return "00-1" if self.pid == JUNK_PID else f"{self.pid:04d}"

    @property
    def names(self) -> list[str]:
        """File names of the frames, in order of time."""
        return [f"{self.folder}C{self.camid}T{self.number:04d}F{i:03d}.jpg" for i in range(1, self.num_frames + 1)]


def write_synthetic(
    out: Path, seed: int, *, workers: int = 2, num_train: int = 120, num_val: int = 30, num_test: int = 50
) -> None:
    """Draw a data set and write it to `out` atomically.

    The same seed and sizes give the same bytes, for any number of workers; another seed gives other people, cameras
    and backgrounds. Identities are 1..num_train in training, followed by those of validation and test.

    Args:
        out: Folder to make; must be missing or empty.
        seed: Seed, from 0.
        workers: Number of processes; 1 draws in this process.

    Raises:
        UsageError: A negative seed, no worker, a part without identities, or more than 9,999 identities.
        DataError: `out` exists.
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
    """Yield a folder beside `out` to draw into; rename it to `out` on success, and remove it on failure.

    Raises DataError if `out` exists.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists already; remove it or name another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f"{out.name}.drawing")
    shutil.rmtree(draft, ignore_errors=True)  # left by a killed process
    try:
        yield draft
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def provenance(seed: int, generator: int = GENERATOR) -> str:
    """Return the content of SEED_FILE."""
    return f"seed {seed}\ngenerator {generator}\n"


def plan(seed: int, *, num_train: int, num_val: int, num_test: int) -> list[Plan]:
    """Plan the tracklets: person, camera and length of each, in the order of MARS's files."""
    rng = np.random.default_rng([seed, _PLAN])
    plans: list[Plan] = []
    first_pid = 1
    first_number = {DISTRACTOR_PID: 1, JUNK_PID: 1}  # continued across parts, so that (pid, number) is unique
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
    """Draw the cameras of one identity, one entry per tracklet; a few people pass a single camera."""
    num_cameras = int(rng.choice([1, 2, 3, 4], p=[0.06, 0.3, 0.38, 0.26]))
    camids = np.sort(rng.permutation(NUM_CAMERAS)[:num_cameras] + 1)
    return np.repeat(camids, rng.integers(1, 3, size=num_cameras)).tolist()


def _write_info(out: Path, seed: int, plans: list[Plan]) -> None:
    """Write names, tracklets and queries: one per camera for each identity seen by several cameras."""
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
    """Return the rows of queries, from 1. As in MARS, identities seen by a single camera have no query."""
    rng = np.random.default_rng([seed, _PLAN, 1])
    rows: dict[int, dict[int, list[int]]] = {}
    for row, tracklet in enumerate(tracklets, 1):
        if tracklet.pid > 0:
            rows.setdefault(tracklet.pid, {}).setdefault(tracklet.camid, []).append(row)
    seen_twice = (cameras for cameras in rows.values() if len(cameras) > 1)
    return sorted(int(rng.choice(choice)) for cameras in seen_twice for choice in cameras.values())


def _write_mat(path: Path, key: str, values: np.ndarray) -> None:
    """Write a MATLAB v5 file whose header, unlike scipy's, does not contain the time."""
    from scipy.io import savemat

    savemat(path, {key: values})
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file, mstat synthetic set".ljust(116))


def _write_frames(out: Path, seed: int, tracklet: Plan, progress: Progress) -> None:
    progress.check()
    folder = out / f"bbox_{tracklet.part}" / tracklet.folder
    frames = draw_tracklet(seed, tracklet.pid, tracklet.camid, tracklet.number, tracklet.num_frames)
    for name, frame in zip(tracklet.names, frames, strict=True):
        (folder / name).write_bytes(images.encode(frame, JPEG_QUALITY))
    progress.advance(1, tracklet.num_frames)
