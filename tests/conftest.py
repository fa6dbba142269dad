"""Fixtures of several packages: a small shard set, and short runs of the real commands on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

import pytest

PROJECT = Path(__file__).resolve().parents[1]
# `accelerate launch` without the other commands of `accelerate`, which take longer to import than a short run takes.
ACCELERATE_LAUNCH = str(Path(sys.executable).with_name("accelerate-launch"))

# Two test processes and their launches share the cores: threads that spin while they wait would slow each other down.
# libgomp reads it when torch is imported, here and in all that is launched.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

LAUNCH = "MSTAT_TEST_LAUNCH"
launches: dict[int, str] = {}  # pid of a launcher -> the value of LAUNCH in all that it starts

# A model and a run so small that twenty steps take a second, with everything in them that the large one has.
TINY = """
batch: {num_identities: 6, num_tracklets: 2}
clip: {num_frames: 2, crop_padding: 2}
model:
  image_size: [32, 16]
  patch_size: 8
  width: 32
  num_heads: 2
  depths: [1, 1, 1]
  num_attributes: 3
  num_temporal_attributes: 3
  num_prototypes: 4
optim: {name: adamw, lr: 2.0e-3}
train: {steps: 20, precision: "no", save_every: 5, log_every: 1}
eval: {num_frames: 4, batch_size: 4, num_rankings: 3, baselines: true, pictures: false}
data: {num_workers: 0}  # a loader process takes a second or two to start
"""

# The same for pretraining; what it leaves fits the model above.
TINY_ACTIONS = """
data: {shards: SHARDS, num_workers: 0}
batch: {num_identities: 4, num_tracklets: 2}
clip: {num_frames: 3, crop_padding: 1}
model: {image_size: [16, 16], patch_size: 8, width: 32, num_heads: 2, depths: [1, 1, 1]}
optim: {name: adamw, lr: 1.0e-2}
train: {steps: 8, precision: "no", save_every: 4, eval_every: 4, log_every: 1}
eval: {num_frames: 3, batch_size: 4}
"""


def tiny_actions_yaml(shards: Path) -> str:
    """The settings of a short pretraining on these shards."""
    return TINY_ACTIONS.replace("SHARDS", str(shards))


NO_SCORES = ["--train.eval_every", "null"]  # for runs of which losses and weights are compared

LOSSES = {"loss"} | {f"loss/{stage}/{term}" for stage in ("I", "II", "III") for term in ("cross_entropy", "triplet")}


def pytest_addoption(parser: pytest.Parser) -> None:
    """For `make soak`."""
    parser.addoption("--kills", type=int, default=3, help="of tests/soak/test_kills.py, under each kind")
    parser.addoption("--faults", type=int, default=4, help="of tests/soak/test_cluster.py")
    parser.addoption("--record", help="write what tests/soak saw to benchmarks/<RECORD>_<hardware>_<date>.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they start, so that `make test-fast` can leave them out."""
    for item in items:
        folder = item.path.parent.name
        if folder == "launch":
            item.add_marker(pytest.mark.launched)
        elif folder == "benchmarks":
            item.add_marker(pytest.mark.slow)
        fixtures = set(getattr(item, "fixturenames", ()))
        for fixture, mark in {"cluster": "slurm", "browser": "browser", "hosts": "hosts"}.items():
            if fixture in fixtures:
                item.add_marker(getattr(pytest.mark, mark))


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a small synthetic set: 9 training identities, a dozen test identities."""
    from shards.sources import mars
    from shards.synthetic.persons import write_synthetic
    from shards.write import building, write

    folder = tmp_path_factory.mktemp("tiny")
    write_synthetic(folder / "tree", 3, workers=1, num_train=9, num_val=3, num_test=12)
    with building(folder / "shards") as out:
        write(mars.read(folder / "tree", name="synthetic", partial=True), out, workers=1)
    return folder / "shards"


@pytest.fixture(scope="session")
def tiny_actions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a few made-up actions: 4 clips of each of 8 classes to train, 3 held out."""
    from shards.synthetic import build_actions
    from shards.write import building, write

    folder = tmp_path_factory.mktemp("actions")
    with building(folder / "shards") as out:
        write(build_actions.read(folder / "tree", 0, num_train=4, num_test=3), out, workers=1)
    return folder / "shards"


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    """A YAML for short runs on the small set."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY.replace("data: {", f"data: {{shards: {tiny_shards}, "))
    return path


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Path:
    """The run folder of one undisturbed process."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    status, output = run("train", ["--config", tiny_config, "--run", folder])
    assert status == 0, output
    assert "I+II+III" in output
    assert f"report: {folder}/report.html" in output.replace("\n", "")
    return folder


@pytest.fixture
def hosts() -> Iterator[Any]:
    """Two hosts for one test: tests.helpers.hosts.Hosts."""
    from tests.helpers.hosts import two_hosts, why_not
    from tests.helpers.system import skip

    if reason := why_not():
        skip(reason)
    with two_hosts() as made:
        yield made


class Processes(TypedDict, total=False):
    """Keyword arguments of `start` that say how many processes share a run, and how."""

    accelerate: str
    processes: int


def start(
    command: str,
    arguments: Sequence[object],
    *,
    accelerate: str | None = "single",
    processes: int | None = None,
    restarts: int = 0,
    fault: str | None = None,
    launcher: Sequence[object] = (),
    within: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[str]:
    """Start `accelerate launch launch/<command>.py` with a YAML of configs/accelerate, as a user does.

    Args:
        accelerate: Name of the YAML; None starts the script itself, which takes half the time.
        restarts: What the launcher does by itself after a rank has died.
        fault: `FAULT RANK STEP` of tests/launch/faults.py, which then takes the place of launch/train.py.
        launcher: More flags of `accelerate launch`.
        within: A command that runs the launcher in another place, as `ip netns exec NAME` does.
        environment: Variables besides those of this process.
    """
    flags = [ACCELERATE_LAUNCH, "--config_file", str(PROJECT / "configs" / "accelerate" / f"{accelerate}.yaml")]
    if accelerate is None:
        flags = [sys.executable]
    if processes is not None:
        flags += ["--num_processes", str(processes), "--main_process_port", "0"]
    if restarts:
        flags += ["--max_restarts", str(restarts)]
    script = [str(PROJECT / "launch" / f"{command}.py")]
    if fault is not None:
        assert command == "train"
        script = [str(PROJECT / "tests" / "launch" / "faults.py"), *fault.split()]
    launch = uuid.uuid4().hex
    variables = {**os.environ, "OMP_NUM_THREADS": "1", LAUNCH: launch, **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # dozens of launches would compile torch anew
    process = subprocess.Popen(
        [*within, *flags, *map(str, launcher), *script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
        start_new_session=True,
    )
    launches[process.pid] = launch
    return process


def members(launcher: int) -> dict[int, str]:
    """Living processes of a launch, also after the death of the launcher: pid -> what it is.

    The launcher puts its ranks into sessions of their own; all of them inherit its environment.
    """
    mark = f"{LAUNCH}={launches[launcher]}".encode()
    processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                processes[int(folder.name)] = "launcher" if int(folder.name) == launcher else _role(command)
    return processes


def _role(command: str) -> str:
    if "bin/accelerate-launch" in command:
        return "launcher"  # on another host, the process that was started is `nsenter`
    if "resource_tracker" in command:
        return "resource tracker"
    if "forkserver" in command:
        return "loader"  # the fork server and the workers that it made
    return "rank" if "launch/" in command else "other"


def run(command: str, arguments: Sequence[object], **options: Any) -> tuple[int, str]:
    """Exit status and all output of a launch."""
    process = start(command, arguments, **options)
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"no end after 300 s: {process.communicate()[0]}") from None
    return process.returncode, output


def metrics(run_folder: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def state(folder: Path) -> dict[str, Any]:
    """state.json."""
    return json.loads((folder / "state.json").read_text())


def assert_same_losses(folder: Path, reference: Path, rel: float) -> None:
    """Every loss of every step, within a relative difference."""
    assert [record["step"] for record in metrics(folder)] == [record["step"] for record in metrics(reference)]
    for ours, one in zip(metrics(folder), metrics(reference), strict=True):
        for name in LOSSES:
            assert ours[name] == pytest.approx(one[name], rel=rel, abs=0), (one["step"], name)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until metrics.jsonl has `step` lines."""
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or len((folder / "metrics.jsonl").read_text().splitlines()) < step:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
