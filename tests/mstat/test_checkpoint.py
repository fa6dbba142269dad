"""Checkpoints: whole or not there, the newest wins, another kind of run is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mstat import checkpoint
from mstat.config import Config
from mstat.engine import Engine
from mstat.task import Task
from tests.mstat.test_task import CLASSES, SMALL

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
FACTS = {"distributed": "ddp", "shards": "abc"}


def engine(seed: int = 0) -> Engine:
    """A process with a small task whose optimiser has state, as after a step."""
    torch.manual_seed(seed)
    config = Config(model=SMALL)
    config.train.precision = "no"
    made = Engine(config)
    made.prepare(Task(config, CLASSES))
    frames = torch.randint(0, 256, (len(LABELS), 2, 32, 16, 3), dtype=torch.uint8)
    batch = {"frames_BTHWC": frames, "tps_BTN": None, "keep_BR": None, "labels_n": LABELS, "metric_weight": 1.0}
    made.update(made.wrapped(**batch)["loss"], lr=0.1)
    return made


def state(made: Engine) -> list[torch.Tensor]:
    return [*made.task.state_dict().values(), *(s["momentum_buffer"] for s in made.optimizer.state.values())]


def test_the_newest_whole_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Weights and momentum of step 7, not of step 3, and not of an unfinished or an emptied folder."""
    old, new = engine(1), engine(2)
    checkpoint.save(old, tmp_path, 3, keep=5, facts=FACTS)
    checkpoint.save(new, tmp_path, 7, keep=5, facts=FACTS)
    (tmp_path / "checkpoints" / ".step-000000009").mkdir()
    (tmp_path / "checkpoints" / "step-000000011").mkdir()
    fresh = engine(3)
    assert checkpoint.restore(fresh, tmp_path, FACTS) == 7
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state(fresh), state(new), strict=True))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """`keep` of them, after each save; what an earlier crash left half-written goes too."""
    made = engine()
    (tmp_path / "checkpoints" / ".step-000000001").mkdir(parents=True)
    for step in (1, 2, 3, 4):
        checkpoint.save(made, tmp_path, step, keep=2, facts=FACTS)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000003", "step-000000004"]


def test_without_a_checkpoint_a_run_starts_at_zero(tmp_path: Path) -> None:
    """An empty or missing run folder is a fresh start."""
    assert checkpoint.restore(engine(), tmp_path / "none", FACTS) == 0


def test_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    """The message names what differs and the folder."""
    made = engine()
    checkpoint.save(made, tmp_path, 3, keep=1, facts=FACTS)
    with pytest.raises(ValueError, match=r"step-000000003: made with distributed='ddp', this run has 'zero2'"):
        checkpoint.restore(made, tmp_path, {**FACTS, "distributed": "zero2"})


def test_a_failed_save_leaves_the_others(tmp_path: Path) -> None:
    """Where the new one cannot be written, the error shows and the old one is still whole."""
    made = engine()
    checkpoint.save(made, tmp_path, 3, keep=1, facts=FACTS)
    made.save = lambda folder: (_ for _ in ()).throw(OSError("No space left on device"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(made, tmp_path, 4, keep=1, facts=FACTS)
    assert [step for step, _ in checkpoint.folders(tmp_path)] == [3]
