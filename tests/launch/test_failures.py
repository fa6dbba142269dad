"""Failures of a run: one small case of each kind; tests/soak has the full matrix."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mstat.errors import UserError
from mstat.runs.folder import locked
from tests.conftest import NO_SCORES, Processes, assert_same_losses, members, metrics, run, start, state, wait_for_step

DDP: Processes = {"accelerate": "ddp", "processes": 2}


def checkpoints(folder: Path) -> list[str]:
    """Everything in checkpoints/, so also what is half-written."""
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """SIGUSR1 to rank 1 in step 7: checkpoint 7, `requeue`, launcher's exit 0. Started again on one process, it ends
    with the losses of an undisturbed one to 1e-5."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    status, output = run("train", arguments, fault="SIGUSR1 1 7", **DDP)
    assert status == 0, output
    assert "stopped by SIGUSR1 after step 7: re-run the same command to resume" in output
    assert state(folder) == {"state": "requeue", "step": 7, "reason": "stopped by SIGUSR1"}
    assert checkpoints(folder) == ["step-000000005", "step-000000007"]

    status, output = run("train", arguments, accelerate=None)
    assert status == 0, output
    assert state(folder)["state"] == "done"
    assert_same_losses(folder, reference, rel=1e-5)


def test_a_signal_to_all_processes_loses_nothing(reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """SIGTERM to launcher, trainer, fork server and loader workers alike: the trainer saves, then ends; the run ends
    bit for bit like an undisturbed one."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, "--data.num_workers", 2, *NO_SCORES]
    process = start("train", arguments)
    wait_for_step(folder, 7, process)
    for pid in members(process.pid):
        os.kill(pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=300)  # ends when the last of them has closed it
    assert state(folder)["state"] == "requeue", output
    assert 7 <= state(folder)["step"] < 20
    assert [record["step"] for record in metrics(folder)] == list(range(1, state(folder)["step"] + 1))

    status, output = run("train", arguments, accelerate=None)
    assert status == 0, output
    assert_same_losses(folder, reference, rel=0)
    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, reference))
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_dead_launcher_leaves_no_orphan(tiny_config: Path, tmp_path: Path) -> None:
    """SIGKILL of the launcher alone: its ranks hear of it, save and end, instead of training on unseen."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, "--train.steps", 100_000, "--data.num_workers", 1]
    process = start("train", arguments, **DDP)
    wait_for_step(folder, 7, process)
    process.kill()
    process.communicate(timeout=300)  # ends when the ranks have closed it
    assert state(folder)["state"] == "requeue"


def test_a_rank_that_hangs_is_named(tiny_config: Path, tmp_path: Path) -> None:
    """SIGSTOP of rank 0: the other one waits for train.timeout_minutes, ends, and says which and its process."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, "--train.timeout_minutes", 0.1]
    process = start("train", arguments, fault="SIGSTOP 0 7", **DDP)
    wait_for_step(folder, 6, process)
    stopped = time.monotonic()
    while state(folder)["state"] != "failed":
        assert time.monotonic() - stopped < 6 + 120
        time.sleep(0.1)
    match = re.search(r"no answer from rank 0 \(host \S+, pid (\d+)\)", state(folder)["reason"])
    assert match
    with contextlib.suppress(ProcessLookupError):  # the launcher does so after 30 s
        os.kill(int(match[1]), signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode != 0


def test_an_error_of_one_rank_is_told_by_all(tiny_config: Path, tmp_path: Path) -> None:
    """An exception on rank 1 under ZeRO-2: rank 0, which only sees a closed connection, says what happened."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder]
    status, output = run("train", arguments, accelerate="zero2", processes=2, fault="disk-on-fire 1 7")
    assert status != 0
    assert "[rank 1] error: [Errno 5] disk-on-fire, says the test; the last good checkpoint is" in output
    line = r"^error: rank 1 \(host \S+, pid \d+\): OSError: \[Errno 5\] disk-on-fire, says the test;"
    assert re.search(line, output, re.M)


def test_a_rank_that_dies_is_named_and_started_again(reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """SIGKILL of rank 1 under `--max_restarts 1`: the other one ends and says which; the launcher brings both back, and
    it cost the steps since the last checkpoint, which step 12 has seen whole: the save after it waits for it."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    status, output = run("train", arguments, restarts=1, fault="SIGKILL 1 12", **DDP)
    assert status == 0, output
    assert re.search(r"^error: no answer from rank 1 \(host \S+, pid \d+\).*step-0000000(05|10)", output, re.M)
    assert state(folder)["state"] == "done"
    assert_same_losses(folder, reference, rel=1e-5)


def test_a_killed_loader_ends_a_run_of_one_process(tiny_config: Path, tmp_path: Path) -> None:
    """`kill -9` of all its workers: the launch ends with 1 and one line, `failed` says why, and no process is left,
    since `run` waits until the last of them has closed the output."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, "--data.num_workers", 2, "--train.steps", 100_000]
    status, output = run("train", arguments, fault="kill-loader 0 7")
    assert status == 1
    assert re.search(
        r"^error: a process of the loader \(pid \d+\) was killed by SIGKILL.*step-000000005$", output, re.M
    )
    assert state(folder)["state"] == "failed"
    assert "was killed by SIGKILL" in state(folder)["reason"]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_damaged_frame_ends_a_run_of_one_process(
    command: str, reference: Path, tiny_config: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    """Changed bytes, found by a worker: one line with shard, tracklet, frame and way out, exit status 1, no process is
    left; a training writes `failed`."""
    folder, damaged = tmp_path / "run", tmp_path / "damaged"
    shutil.copytree(tiny_shards, damaged)
    shard = damaged / "shard-000000.tar"
    changed = bytearray(shard.read_bytes())
    changed[20_000::3_000] = bytes(255 - byte for byte in changed[20_000::3_000])
    shard.write_bytes(changed)
    if command == "evaluate":
        shutil.copytree(reference, folder)
        arguments: list[object] = ["--run", folder, "--data.shards", damaged, "--data.num_workers", 2]
    else:
        arguments = ["--config", tiny_config, "--run", folder, "--data.shards", damaged, "--data.num_workers", 2]
    status, output = run(command, arguments, accelerate=None)
    assert status == 1
    line = rf"^error: {shard}: \S+ frame \d+: its bytes have changed .*`python -m shards verify {damaged}`"
    assert re.search(line, output, re.M), output
    assert "RemoteTraceback" not in output
    if command == "train":
        assert state(folder)["state"] == "failed"
        assert "its bytes have changed" in state(folder)["reason"]


@pytest.mark.parametrize("kind", ["ddp", pytest.param("zero2", marks=pytest.mark.soak)])
def test_a_kill_while_a_checkpoint_is_written(kind: str, reference: Path, tiny_config: Path, tmp_path: Path) -> None:
    """The disk of rank 0 takes nothing for two steps after a save, which are done meanwhile, and rank 0 dies in the
    middle of a file: nothing has claimed that checkpoint, and the run, started again, ends as an undisturbed one."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    status, output = run("train", arguments, accelerate=kind, processes=2, fault="slow-disk 0 7")
    assert status != 0
    assert "there is no checkpoint yet" in output
    assert len(metrics(folder)) >= 6
    assert checkpoints(folder) == [".step-000000005"]
    assert state(folder)["step"] == 0

    status, output = run("train", arguments, accelerate=kind, processes=2)
    assert status == 0, output
    assert_same_losses(folder, reference, rel=1e-5)


def test_what_is_not_finite_stops_every_rank(tiny_config: Path, tmp_path: Path) -> None:
    """A spoiled gradient of one rank under ZeRO-2: all ranks name the same step and the last good checkpoint, and none
    later exists, though every step saves."""
    folder = tmp_path / "run"
    arguments = ["--config", tiny_config, "--run", folder, "--train.save_every", 1]
    status, output = run("train", arguments, accelerate="zero2", processes=2, fault="gradient 1 7")
    assert status != 0
    for rank in ("error: ", "[rank 1] error: "):
        last = f"the last good checkpoint is {folder}/checkpoints/step-000000006"
        assert f"\n{rank}step 7: grad_norm is inf; {last}" in output
    assert checkpoints(folder) == ["step-000000005", "step-000000006"]
    assert state(folder)["state"] == "failed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for one checkpoint and not for two."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_costs_no_checkpoint(reference: Path, tiny_config: Path, small_disk: Path) -> None:
    """The second save does not fit: a clear error, the first one stays, and after room is made the same command ends
    bit for bit like an undisturbed run."""
    folder = small_disk / "run"
    arguments = ["--config", tiny_config, "--run", folder, *NO_SCORES]
    status, output = run("train", arguments, accelerate=None)
    assert status != 0
    assert "No space left on device" in output
    assert "free disk space, and re-run the same command to resume" in output
    assert checkpoints(folder) == ["step-000000005"]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)

    status, output = run("train", arguments, accelerate=None)
    assert status == 0, output
    assert_same_losses(folder, reference, rel=0)


def test_two_trainings_do_not_share_a_folder(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one trains, another one on its folder waits for it, gives up, and says so."""
    monkeypatch.setattr("mstat.runs.folder.LOCK_SECONDS", 1)
    folder = tmp_path / "run"
    first = start("train", ["--config", tiny_config, "--run", folder], accelerate=None, fault="SIGSTOP 0 4")
    try:
        wait_for_step(folder, 3, first)
        with pytest.raises(UserError, match=f"{folder}: another training uses this folder"), locked(folder):
            raise AssertionError("entered")
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
