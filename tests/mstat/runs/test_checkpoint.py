"""Checkpoints: whole or not there, the newest wins, another kind of run is refused."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Timer
from typing import IO

import pytest
import torch

from mstat.config import Config, TrainConfig
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.runs import checkpoint
from mstat.runs.folder import NotFiniteError, read_state
from mstat.training.task import Task
from mstat.weights.checkpoint_files import checksum, folders, read_weights
from tests.conftest import PROJECT
from tests.mstat.training.test_task import CLASSES, SMALL

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
FACTS = {"distributed": "ddp", "shards": "abc"}


def engine(seed: int = 0, ema: float | None = None) -> Engine:
    """A process with a small task whose optimiser has state, as after a step."""
    torch.manual_seed(seed)
    config = Config(model=SMALL, train=TrainConfig(precision="no", ema=ema))
    made = Engine(config)
    made.prepare(Task(config, CLASSES))
    update(made)
    return made


def update(made: Engine) -> None:
    """A step on random clips."""
    frames = torch.randint(0, 256, (len(LABELS), 2, 32, 16, 3), dtype=torch.uint8)
    batch = {"frames_BTHWC": frames, "tps_BTN": None, "keep_BR": None, "labels_n": LABELS, "metric_weight": 1.0}
    made.update(made.wrapped(**batch)["loss"], lr=0.1)
    made.update_average(step=100)


def weights(made: Engine) -> list[torch.Tensor]:
    return list(made.task.state_dict().values())


def state(made: Engine) -> list[torch.Tensor]:
    return [*made.task.state_dict().values(), *(s["momentum_buffer"] for s in made.optimizer.state.values())]


def averages(made: Engine) -> list[torch.Tensor]:
    """The averaged weights."""
    with made.averaged():
        return [tensor.clone() for tensor in weights(made)]


def save(made: Engine, run: Path, step: int) -> None:
    """A checkpoint that is whole at the end."""
    with checkpoint.Writer(made, run, keep=5, facts=FACTS) as writer:
        writer.save(step)


def test_the_newest_whole_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Weights and momentum of step 7, not of step 3, and not of an unfinished or an emptied folder."""
    old, new = engine(1), engine(2)
    save(old, tmp_path, 3)
    save(new, tmp_path, 7)
    (tmp_path / "checkpoints" / ".step-000000009").mkdir()
    (tmp_path / "checkpoints" / "step-000000011").mkdir()
    fresh = engine(3)
    assert checkpoint.restore(fresh, tmp_path, FACTS) == 7
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state(fresh), state(new), strict=True))


def test_the_average_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """The next step has the same average as without a stop; whoever reads the weights gets the average."""
    made, fresh = engine(1, ema=0.9), engine(2, ema=0.9)
    save(made, tmp_path, 7)
    assert checkpoint.restore(fresh, tmp_path, FACTS) == 7
    ((_, folder),) = folders(tmp_path)
    read = read_weights(folder)
    assert all(map(torch.equal, read.values(), averages(made)))
    assert not all(map(torch.equal, read.values(), weights(made)))
    for each in (made, fresh):
        torch.manual_seed(3)
        update(each)
        assert not all(map(torch.equal, read.values(), averages(each)))
    assert all(map(torch.equal, state(fresh), state(made)))
    assert all(map(torch.equal, averages(fresh), averages(made)))


def test_an_average_begins_and_ends_with_its_setting(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With train.ema newly set, the average begins at the checkpoint's weights; without it, the average is dropped. The
    training itself goes on alike."""
    save(engine(1), tmp_path / "without", 7)
    fresh = engine(2, ema=0.9)
    assert checkpoint.restore(fresh, tmp_path / "without", FACTS) == 7
    assert "has no average of the weights" in capfd.readouterr().out.replace("\n", " ")
    assert all(map(torch.equal, averages(fresh), weights(engine(1))))

    save(engine(1, ema=0.9), tmp_path / "with", 7)
    fresh = engine(2)
    assert checkpoint.restore(fresh, tmp_path / "with", FACTS) == 7
    assert "which train.ema null drops" in capfd.readouterr().out.replace("\n", " ")
    assert all(map(torch.equal, state(fresh), state(engine(1))))


def test_a_lost_average_is_not_replaced_by_the_weights(tmp_path: Path) -> None:
    """The description names it: the checkpoint is damaged, for a resume and for all others."""
    save(engine(1, ema=0.9), tmp_path, 7)
    (tmp_path / "checkpoints" / "step-000000007" / "average.pt").unlink()
    assert "average.pt changed after the checkpoint was made" in refused(tmp_path)
    with pytest.raises(UserError, match=r"average\.pt changed after the checkpoint was made"):
        read_weights(tmp_path / "checkpoints" / "step-000000007")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    """`keep` of them, after each save; what an earlier crash left half-written goes too."""
    made = engine()
    (tmp_path / "checkpoints" / ".step-000000001").mkdir(parents=True)
    with checkpoint.Writer(made, tmp_path, keep=2, facts=FACTS) as writer:
        for step in (1, 2, 3, 4):
            writer.save(step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000003", "step-000000004"]


def test_without_a_checkpoint_a_run_starts_at_zero(tmp_path: Path) -> None:
    """An empty or missing run folder is a fresh start."""
    assert checkpoint.restore(engine(), tmp_path / "none", FACTS) == 0


def test_another_kind_of_run_is_refused(tmp_path: Path) -> None:
    """The message names what differs and the folder."""
    made = engine()
    save(made, tmp_path, 3)
    with pytest.raises(ValueError, match=r"step-000000003: made with distributed='ddp', this run has 'zero2'"):
        checkpoint.restore(made, tmp_path, {**FACTS, "distributed": "zero2"})


def test_a_setting_that_is_newer_than_the_checkpoint_had_its_default(tmp_path: Path) -> None:
    """A run goes on under a version with more settings of the model; another value of one is refused by its key."""
    made = engine()
    model = {"width": 8, "image_size": [64, 32]}
    with checkpoint.Writer(made, tmp_path, keep=1, facts={"model": model}) as writer:
        writer.save(3)
    assert checkpoint.restore(made, tmp_path, {"model": {**model, "asta_alpha": 0.0}}) == 3
    with pytest.raises(ValueError, match=r"made with model\.asta_alpha=0\.0, this run has 0\.5: use the old value"):
        checkpoint.restore(made, tmp_path, {"model": {**model, "asta_alpha": 0.5}})


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["check", "wait", "save", "__exit__"])
@pytest.mark.parametrize("room", [0, 1000, 60_000])
def test_a_failed_save_leaves_the_others(method: str, room: int, tmp_path: Path) -> None:
    """A failed write, anywhere in its file, raises the system's error with the file's path in whichever method the
    training calls next; the previous checkpoint stays whole, nothing of the failed one is left, and the next succeeds.
    """
    made = engine()

    def fail() -> None:
        with checkpoint.Writer(made, tmp_path, keep=1, facts=FACTS) as writer:
            writer.save(4)
            if method == "check":
                assert writer.begun is not None
                wait([writer.begun])
                writer.check()
            elif method == "wait":
                writer.wait()
            elif method == "save":
                writer.save(5)

    save(made, tmp_path, 3)
    with pytest.raises(OSError, match=r"File too large: .*\.step-000000004/optimizer\.pt"), full_disk(room):
        fail()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000003"]
    assert read_state(tmp_path)["step"] == 3
    save(made, tmp_path, 4)
    assert [step for step, _ in folders(tmp_path)] == [3, 4]


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """A disk that takes nothing before the event is set."""
    ready = Event()
    really_save = torch.save

    def save_later(state: object, file: IO[bytes]) -> None:
        ready.wait(600)  # not for ever, or a test that fails would never end
        really_save(state, file)

    monkeypatch.setattr(torch, "save", save_later)
    yield ready
    ready.set()


def test_training_goes_on_while_a_checkpoint_is_written(slow_disk: Event, tmp_path: Path) -> None:
    """Steps change weights and momentum while the disk takes nothing: the checkpoint then holds what was there when it
    was begun, bit for bit, and nobody hears of it before it is whole. The second one, which lies where the first one's
    copy lay, likewise."""
    made, fresh = engine(), engine(1)
    with checkpoint.Writer(made, tmp_path, keep=2, facts=FACTS) as writer:
        for step in (1, 3):
            writer.save(step)
            begun = [tensor.clone() for tensor in state(made)]
            update(made)
            writer.check()
            assert [step for step, _ in folders(tmp_path)] == [1] * (step > 1)
            assert (tmp_path / "state.json").exists() == (step > 1)
            slow_disk.set()
            writer.wait()
            slow_disk.clear()
            assert read_state(tmp_path) == {"state": "running", "step": step, "reason": None}
            assert checkpoint.restore(fresh, tmp_path, FACTS) == step
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(state(fresh), begun, strict=True))
            assert not all(torch.equal(a, b) for a, b in zip(weights(made), weights(fresh), strict=True))


def test_an_error_waits_for_what_was_begun(slow_disk: Event, tmp_path: Path) -> None:
    """The checkpoint that was being written when the training failed is whole when the failure is told."""

    def fail() -> None:
        with checkpoint.Writer(engine(), tmp_path, keep=2, facts=FACTS) as writer:
            writer.save(4)
            Timer(0.1, slow_disk.set).start()
            raise ArithmeticError("the training's")

    with pytest.raises(ArithmeticError, match="the training's"):
        fail()
    assert [step for step, _ in folders(tmp_path)] == [4]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from mstat.runs import checkpoint
from tests.mstat.runs.test_checkpoint import FACTS, engine

really_save = torch.save

def save_half(state, file):
    really_save(state, file)
    file.truncate(file.tell() // 2)
    os.kill(os.getpid(), signal.SIGKILL)

with checkpoint.Writer(engine(1), Path(sys.argv[1]), 1, FACTS) as writer:
    writer.save(1)
    writer.wait()
    torch.save = save_half
    writer.save(2)
"""


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_costs_that_one(tmp_path: Path) -> None:
    """kill -9 in the middle of a file: the one before is what a run goes on from, and the next save clears the rest."""
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=PROJECT)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "checkpoints" / ".step-000000002" / "optimizer.pt").stat().st_size > 0
    fresh = engine(2)
    assert checkpoint.restore(fresh, tmp_path, FACTS) == 1
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state(fresh), state(engine(1)), strict=True))
    save(fresh, tmp_path, 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000001", "step-000000002"]


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run, after steps 3 and 7."""
    run = tmp_path_factory.mktemp("two")
    made = engine(1)
    save(made, run, 3)
    save(made, run, 7)
    return run


@pytest.fixture
def run(two_checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(two_checkpoints, tmp_path / "run"))


def refused(run: Path) -> str:
    """The line with which a resume is refused."""
    with pytest.raises(UserError) as caught:
        checkpoint.restore(engine(3), run, FACTS)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def flip(file: Path, where: int) -> None:
    """Other bits in 64 bytes."""
    content = bytearray(file.read_bytes())
    content[where : where + 64] = bytes(255 - byte for byte in content[where : where + 64])
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("with_checksums", [True, False])
def test_damage_inside_a_checkpoint_is_noticed(run: Path, with_checksums: bool) -> None:
    """64 flipped bytes of a weight: the file, the way out and the checkpoint before are named; nothing is loaded. What
    older versions wrote, without checksums, has those of torch's archives."""
    newest = run / "checkpoints" / "step-000000007"
    if not with_checksums:
        meta = json.loads((newest / "checkpoint.json").read_text())
        del meta["sha256"]
        (newest / "checkpoint.json").write_text(json.dumps(meta))
        assert checkpoint.restore(engine(3), run, FACTS) == 7
    flip(newest / "optimizer.pt", (newest / "optimizer.pt").stat().st_size // 2)
    way_out = f"copy it again, or remove the folder to resume from {run / 'checkpoints' / 'step-000000003'}"
    expected = f"{newest}: optimizer.pt changed after the checkpoint was made; {way_out}"
    assert refused(run) == expected
    with pytest.raises(UserError, match="changed after the checkpoint was made"):
        read_weights(newest)
    shutil.rmtree(newest)
    assert checkpoint.restore(engine(3), run, FACTS) == 3


def test_a_file_that_is_gone_is_named(run: Path) -> None:
    """As one that changed; without a checkpoint before, the message says where the run would start."""
    shutil.rmtree(run / "checkpoints" / "step-000000003")
    (run / "checkpoints" / "step-000000007" / "optimizer.pt").unlink()
    assert "optimizer.pt changed after" in refused(run)
    assert "the run then starts from step 0" in refused(run)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"step": 7, "world_size": 1, "bytes": {}}',
        b'{"step": "7", "world_size": 1, "bytes": {"optimizer.pt": 1}}',
        b'{"step": 7, "world_size": 1, "bytes": {"/etc/passwd": 1}}',
        b'{"step": 7, "world_size": 1, "bytes": {"optimizer.pt": "x"}}',
        b'{"step": 7, "world_size": 1, "bytes": {"optimizer.pt": 1}, "sha256": 3}',
        b'{"step": 7, "world_size": 1, "bytes": {"optimizer.pt": 1}, "sha256": {"other.pt": ""}}',
        b'{"step": -7, "world_size": 1, "bytes": {"optimizer.pt": 1}}',
    ],
)
def test_an_odd_description_names_itself(two_checkpoints: Path, tmp_path: Path, content: bytes) -> None:
    """Any invalid checkpoint.json gives one line that begins with its path and offers the checkpoint before."""
    folder = tmp_path / "checkpoints" / "step-000000007"
    folder.mkdir(parents=True)
    (folder / "checkpoint.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_weights(folder)
    assert str(caught.value).startswith(f"{folder / 'checkpoint.json'}: not a checkpoint description: ")
    assert "remove the folder" in str(caught.value)


def test_a_renamed_folder_is_not_believed(run: Path) -> None:
    """The state after step 7 does not become that after step 9 by its name."""
    (run / "checkpoints" / "step-000000007").rename(run / "checkpoints" / "step-000000009")
    assert (
        "step-000000009: holds the state after step 7, so the folder was renamed: rename it to step-000000007"
        in refused(run)
    )


def test_a_link_is_not_believed(run: Path) -> None:
    """A link to the checkpoint after step 7 does not become that after step 9 by its name."""
    (run / "checkpoints" / "step-000000009").symlink_to("step-000000007")
    assert "step-000000009: holds the state after step 7" in refused(run)


@pytest.mark.slow
def test_weights_without_a_checksum_are_not_gone_on_from(run: Path) -> None:
    """A description that names other files says nothing of the weights."""
    newest = run / "checkpoints" / "step-000000007"
    (newest / "other.pt").write_bytes(b"x")
    meta = json.loads((newest / "checkpoint.json").read_text())
    meta |= {"bytes": {"other.pt": 1}, "sha256": {"other.pt": checksum(newest / "other.pt")}}
    (newest / "checkpoint.json").write_text(json.dumps(meta))
    assert "checkpoint.json does not name optimizer.pt; copy it again" in refused(run)
    with pytest.raises(UserError, match=r"does not name this file"):
        read_weights(newest)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused(run: Path) -> None:
    """Neither written, where the checkpoint before stays, nor gone on from, where the checksums are right."""
    made = engine(1)
    with torch.no_grad():
        next(made.task.parameters())[0] = float("nan")
    with pytest.raises(NotFiniteError, match="step 9: weights are not finite after the update: "):
        save(made, run, 9)
    assert [step for step, _ in folders(run)] == [3, 7]

    newest = run / "checkpoints" / "step-000000007"
    state = torch.load(newest / "optimizer.pt", weights_only=True)
    next(iter(state["task"].values()))[0] = float("inf")
    torch.save(state, newest / "optimizer.pt")
    meta = json.loads((newest / "checkpoint.json").read_text())
    meta["sha256"] = {"optimizer.pt": checksum(newest / "optimizer.pt")}
    meta["bytes"] = {"optimizer.pt": (newest / "optimizer.pt").stat().st_size}
    (newest / "checkpoint.json").write_text(json.dumps(meta))
    assert "weights are not finite" in refused(run)
    with pytest.raises(UserError, match="not finite"):
        read_weights(newest)


@pytest.mark.slow
def test_an_archive_of_something_else_is_named(run: Path) -> None:
    """Right by its checksum, and no state of a run: one line, which does not advise to read it without care."""
    newest = run / "checkpoints" / "step-000000007"
    torch.save({"task": print}, newest / "optimizer.pt")
    meta = json.loads((newest / "checkpoint.json").read_text())
    meta["sha256"] = {"optimizer.pt": checksum(newest / "optimizer.pt")}
    meta["bytes"] = {"optimizer.pt": (newest / "optimizer.pt").stat().st_size}
    (newest / "checkpoint.json").write_text(json.dumps(meta))
    assert "optimizer.pt: does not fit this run: " in refused(run)


STRAY = [".DS_Store", ".nfs000000000a1b2c", "Thumbs.db", "._optimizer.pt", "optimizer.pt~"]


@pytest.mark.slow
def test_stray_files_stop_nothing(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Files of other programs, among the checkpoints and in them, even where the next one is to lie: the run goes on
    and saves; a folder that has lost its description is left out, aloud."""
    made = engine(3)
    places = [run / "checkpoints", run / "checkpoints" / "step-000000007", run / "checkpoints" / "step-000000008"]
    places += [run / "checkpoints" / ".step-000000008", run / "checkpoints" / "lost+found"]
    for place in places:
        place.mkdir(exist_ok=True)
        for name in STRAY:
            (place / name).write_bytes(b"stray")
    (run / "checkpoints" / ".step-000000001.swp").touch()
    assert checkpoint.restore(made, run, FACTS) == 7
    assert "step-000000008: ignored, since it has no checkpoint.json" in capfd.readouterr().out.replace("\n", "")
    save(made, run, 8)
    assert checkpoint.restore(made, run, FACTS) == 8
    assert [step for step, _ in folders(run)] == [3, 7, 8]


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    """The best checkpoint is kept at any age, until another one is the best."""
    with checkpoint.Writer(engine(), tmp_path, keep=1, facts=FACTS) as writer:
        for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5)):
            writer.best = best
            writer.save(step)
            writer.wait()
            assert {number for number, _ in folders(tmp_path)} == {step, best or step}
