"""The loader: the same pixels, noise and labels for any number of ranks and workers."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import shards
from mstat.config import Config, changed
from mstat.config.cli import load_config, override
from mstat.data.loader import AHEAD, EvaluationBatches, TrainingBatches, load
from mstat.data.sampler import CLIPS, IDENTITIES, TRACKLETS
from mstat.training.train import training_sampler
from tests.conftest import PROJECT

STEPS = range(3, 6)
GRID = [cell for cell in product((1, 2, 3, 4, 6, 12), (0, 1, 3)) if cell != (1, 0)]  # ranks, workers
COVER = {(1, 3), (2, 1), (3, 0), (4, 0), (6, 0), (12, 0)}  # every number; the whole grid is for `soak`


@pytest.fixture
def config(tiny_config: Path) -> Config:
    return load_config(tiny_config, ["--model.tps_probability", "0.5", "--model.drop_path", "0.5"])


@pytest.fixture
def one_process(config: Config) -> list[dict[str, torch.Tensor]]:
    """The batches of one rank without workers, which is what they are on any other number."""
    return batches(config, 1, 0, STEPS)


def batches(config: Config, world_size: int, num_workers: int, steps: range) -> list[dict[str, torch.Tensor]]:
    """Global batches of some steps, put together from the slices of all ranks."""
    reader = shards.open(config.data.shards)
    plan = training_sampler(reader, config)
    ranks = [
        taken(load(TrainingBatches(reader, plan, config, rank, world_size), steps, num_workers, pin_memory=False))
        for rank in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        assert all(torch.equal(part["labels_n"], parts[0]["labels_n"]) for part in parts)
    return [
        {name: parts[0][name] if name == "labels_n" else torch.cat([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*ranks, strict=True)
    ]


def taken(batches: Iterable[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """Copies of them; their own memory is used again."""
    return [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world_size", "num_workers"),
    [pytest.param(*cell, marks=() if cell in COVER else pytest.mark.soak) for cell in GRID] + [(5, 0)],
)
def test_ranks_and_workers_change_nothing(
    config: Config, one_process: list[dict[str, torch.Tensor]], world_size: int, num_workers: int
) -> None:
    """Bitwise equal pixels, shuffling, drop path and labels; 12 clips over 5 ranks are ragged slices."""
    for ours, one in zip(batches(config, world_size, num_workers, STEPS), one_process, strict=True):
        assert ours.keys() == one.keys()
        assert all(torch.equal(ours[name], one[name]) for name in one)


def test_every_augmentation_is_the_same_on_ranks_and_workers(config: Config) -> None:
    """Colours, and noise on each frame by itself: two ranks with workers give the pixels of one process."""
    colours = {f"clip.{name}": 0.3 for name in ("brightness", "contrast", "saturation", "hue")}
    config = changed(config, {**colours, "clip.erase_per_frame": True, "clip.erase_fill": "noise"})
    (one,), (ours,) = batches(config, 1, 0, range(3, 4)), batches(config, 2, 1, range(3, 4))
    assert all(torch.equal(ours[name], one[name]) for name in one)


def test_clips_are_augmented_and_noise_is_drawn(config: Config, one_process: list[dict[str, torch.Tensor]]) -> None:
    """The batches compared above hold chance: changed pixels of most clips, shuffled patches, dropped branches."""
    config = changed(config, {"clip.flip": 0, "clip.erase": 0, "clip.crop_padding": 0})
    for augmented, plain in zip(one_process, batches(config, 1, 0, STEPS), strict=True):
        assert (augmented["frames_BTHWC"] != plain["frames_BTHWC"]).flatten(1).any(1).sum() > 6
    assert any((step["tps_BTN"] != step["tps_BTN"].sort(1).values).any() for step in one_process)
    assert any((step["keep_BR"] == 0).any() for step in one_process)


def test_a_reached_step_costs_no_replay(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 10^6 on the second of three ranks: its own four clips are read, and every draw is keyed by that step."""
    reader = shards.open(config.data.shards)
    plan = training_sampler(reader, config)
    batches = TrainingBatches(reader, plan, config, 1, 3)
    room = batches.room()
    keys: list[tuple[int, ...]] = []
    read: list[int] = []
    default_rng, frames = np.random.default_rng, reader.frames

    def keyed(key: Sequence[int]) -> np.random.Generator:
        keys.append(tuple(key))
        return default_rng(key)

    def noted(index: int, *args: Any, **kwargs: Any) -> np.ndarray:
        read.append(index)
        return frames(index, *args, **kwargs)

    monkeypatch.setattr(np.random, "default_rng", keyed)
    monkeypatch.setattr(reader, "frames", noted)
    step = 10**6
    batches.fill(room, step)
    steps = {key[2] for key in keys if key[1] in (TRACKLETS, CLIPS)}
    epochs = {key[2] for key in keys if key[1] == IDENTITIES}
    assert steps == {step}
    assert epochs <= {step // plan.steps_per_epoch, step // plan.steps_per_epoch + 1}
    assert read == plan.batch(step).tracklets_n[4:8].tolist()


def test_a_step_is_the_same_alone(config: Config) -> None:
    """Step 5 alone is step 5 after 3 and 4; another seed gives other clips of other tracklets."""
    (alone,) = batches(config, 1, 0, range(5, 6))
    after = batches(config, 1, 0, range(3, 6))[-1]
    assert all(torch.equal(alone[name], after[name]) for name in alone)
    config = changed(config, {"seed": 1})
    (other,) = batches(config, 1, 0, range(5, 6))
    assert not torch.equal(alone["frames_BTHWC"], other["frames_BTHWC"])


def test_evaluation_batches_have_one_shape(config: Config) -> None:
    """The last clip is repeated to fill a batch, and its place is -1."""
    reader = shards.open(config.data.shards)
    batches = EvaluationBatches(reader, [7, 9, 11], [[(0, 0), (2, 0)]], config.eval, config.model.image_size, 12)
    (batch,) = load(batches, [0], 0, pin_memory=False)
    assert batch["frames_BTHWC"].shape == (4, 4, 32, 16, 3)
    assert batch["rows_B"].tolist() == [0, 2, -1, -1]
    assert torch.equal(batch["frames_BTHWC"][1], batch["frames_BTHWC"][3])


@pytest.mark.parametrize("spoilt", [{"eval.occlusion": "0.3"}, {"eval.resolution": "12"}])
def test_degraded_frames_depend_on_nothing_but_their_tracklet(config: Config, spoilt: dict[str, str]) -> None:
    """The same pixels alone, in any batch, order or place, and from a worker; those that should be intact are."""
    config = override(config, spoilt)
    reader = shards.open(config.data.shards)
    size = config.model.image_size

    def made(
        tracklets: list[int], batches: list[list[int]], num_intact: int, workers: int = 0
    ) -> dict[int, np.ndarray]:
        rows = [[(row, 0) for row in batch] for batch in batches]
        dataset = EvaluationBatches(reader, tracklets, rows, config.eval, size, num_intact)
        frames_of = {}
        for batch in taken(load(dataset, range(len(batches)), workers, pin_memory=False)):
            for row, frames in zip(batch["rows_B"].tolist(), batch["frames_BTHWC"].numpy(), strict=True):
                if row >= 0:
                    frames_of[tracklets[row]] = frames
        return frames_of

    together = made([7, 9, 11, 13], [[0, 1, 2, 3]], 0)
    for other in (
        made([13, 11, 9, 7], [[3, 1], [0], [2]], 0),
        made([7, 9, 11, 13], [[0], [1], [2], [3]], 0, workers=1),
    ):
        assert all(np.array_equal(other[tracklet], frames) for tracklet, frames in together.items())
    intact = made([7, 9, 11, 13], [[0, 1, 2, 3]], 4)
    halves = made([7, 9, 11, 13], [[0, 1, 2, 3]], 2)
    for tracklet, frames in together.items():
        assert not np.array_equal(frames, intact[tracklet])
        assert np.array_equal(halves[tracklet], intact[tracklet] if tracklet in (7, 9) else frames)


class Numbers:
    """Batches of one number, made at once."""

    def room(self) -> dict[str, np.ndarray]:
        return {"number": np.empty(10**5, np.int64)}

    def fill(self, room: dict[str, np.ndarray], index: int) -> None:
        room["number"][:] = index


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_batch_lasts_while_it_is_used(num_workers: int, at_once: int) -> None:
    """Workers that are faster than the trainer by far do not write where it still reads; slots are used many times."""
    held: deque[tuple[int, torch.Tensor]] = deque(maxlen=at_once)
    places = set()
    for index, batch in enumerate(load(Numbers(), range(40), num_workers, pin_memory=False, at_once=at_once)):
        held.append((index, batch["number"]))
        places.add(batch["number"].data_ptr())
        time.sleep(0.01)
        assert all((number == of).all() for of, number in held)
    assert index == 39
    assert len(places) == num_workers * AHEAD + at_once


CAN_MOUNT = shutil.which("unshare") and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@pytest.mark.skipif(not CAN_MOUNT, reason="a small /dev/shm needs root, with the right to mount")
def test_too_little_shared_memory_is_told() -> None:
    """The needed and the free memory are named at the start, instead of a bus error in the middle."""
    code = """
from tests.mstat.data.test_loader import Numbers, load
next(load(Numbers(), range(3), 2, pin_memory=False))
"""
    small = "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "
    command = ["unshare", "--mount", "sh", "-c", small + shlex.join([sys.executable, "-c", code])]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert result.returncode == 1, result.stderr
    assert "/dev/shm: 1 MB free, but the loader's workers need 6 MB for their batches" in result.stderr
    assert "--shm-size" in result.stderr


@pytest.mark.slow
def test_workers_end_with_a_killed_trainer(tiny_config: Path) -> None:
    """SIGKILL of the process that reads leaves no worker and no fork server behind."""
    code = f"""
if __name__ == "__main__":
    import multiprocessing, os, signal, sys
    import shards
    from pathlib import Path
    from mstat.config.cli import load_config
    from mstat.data.loader import TrainingBatches, load
    from mstat.training.train import training_sampler
    config = load_config(Path({str(tiny_config)!r}))
    reader = shards.open(config.data.shards)
    dataset = TrainingBatches(reader, training_sampler(reader, config), config, 0, 1)
    batches = load(dataset, range(100), 2, pin_memory=False)
    next(batches)
    print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False, cwd=PROJECT)
    workers = [int(pid) for pid in result.stdout.split()]
    assert result.returncode == -signal.SIGKILL
    assert len(workers) == 2
    deadline = time.monotonic() + 120
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
