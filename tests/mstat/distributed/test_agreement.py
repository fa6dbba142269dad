"""Facts that the processes of a launch must share are compared before they train."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from mstat.config.cli import load_config, override
from mstat.distributed.agreement import command_name, common_facts, contents
from mstat.distributed.differences import complaint, differing
from mstat.distributed.rendezvous import agree_on_attempt
from mstat.errors import UserError
from tests.conftest import PROJECT

WAIT = timedelta(seconds=120)


def outcomes(sizes: Sequence[int], facts: Sequence[dict[str, object]]) -> dict[int, str]:
    """Return the error of each rank at the start of a launch, given its WORLD_SIZE and facts; empty if it joins."""
    store, errors = dist.HashStore(), dict[int, str]()

    def one(rank: int) -> None:
        errors[rank] = ""
        try:
            agree_on_attempt(store, rank, sizes[rank], WAIT, facts[rank])
        except UserError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=one, args=[rank]) for rank in range(len(facts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_ranks_that_agree_join() -> None:
    assert outcomes([3, 3, 3], [{"seed": 1}] * 3) == {0: "", 1: "", 2: ""}


def test_every_rank_ends_and_names_what_differs() -> None:
    """The keys, each value, and who has it; what is equal is not named."""
    errors = outcomes(
        [3, 3, 3], [{"seed": 1, "optim.lr": 0.1}, {"seed": 1, "optim.lr": 0.2}, {"seed": 1, "optim.lr": 0.1}]
    )
    host = socket.gethostname()
    assert errors[0].startswith(
        f"the processes of this launch differ: optim.lr is 0.1 on {host} (ranks 0, 2), 0.2 on {host} (rank 1): "
    )
    assert errors[0] == errors[1] == errors[2]


@pytest.mark.parametrize("sizes", [[2, 3], [3, 2]])
def test_another_number_of_processes_does_not_wait_for_those_who_never_come(sizes: list[int]) -> None:
    """Both ranks end with the same error, whichever of them expects more processes."""
    errors = outcomes(sizes, [{}, {}])
    assert f"number of processes is {sizes[0]} on" in errors[0]
    assert errors[0] == errors[1]


def test_what_two_hosts_may_and_may_not_have_of_their_own(tiny_shards: Path, tiny_config: Path, tmp_path: Path) -> None:
    """A copy of the shards and of model.init under other paths, and other numbers of workers, are no difference; their
    contents are one, and so is every other setting."""
    config = load_config(tiny_config)
    shutil.copytree(tiny_shards, tmp_path / "copy")
    for name, text in (("a", "weights"), ("b", "weights"), ("c", "others")):
        (tmp_path / name).write_text(text)
    one = common_facts(override(config, {"model.init": str(tmp_path / "a")}))
    same = {"model.init": str(tmp_path / "b"), "data.shards": str(tmp_path / "copy"), "data.num_workers": "7"}
    assert differing({0: one, 1: common_facts(override(config, same))}) == {}
    other = {**same, "model.init": str(tmp_path / "c"), "seed": "5", "loss.margin": "null", "data.split": "b"}
    assert set(differing({0: one, 1: common_facts(override(config, other))})) == {
        "seed", "loss.margin", "data.split", "model.init (checksum)",
    }  # fmt: skip
    assert {
        "torch",
        "mstat",
        "source files (checksum)",
        "data.shards (checksum)",
        "parallelism",
        "device",
    } <= one.keys()


def test_a_command_has_one_name_in_a_clone_and_in_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """launch/train.py and `mstat train` are the same command; `mstat evaluate` is another one."""
    names = []
    for argv in (["/mstat/launch/train.py", "--seed", "1"], ["mstat", "train", "--seed", "1"], ["mstat", "evaluate"]):
        monkeypatch.setattr(sys, "argv", argv)
        names.append(command_name())
    assert names == ["train", "train", "evaluate"]


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    """Bytes of those in it, sizes of those deeper; what is not there is not compared."""
    digests = []
    for name, text, deep in (("a", "1", "22"), ("b", "1", "33"), ("c", "2", "22"), ("d", "1", "333")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "file").write_text(text)
        (tmp_path / name / "deep" / "file").write_text(deep)
        digests.append(contents("x", tmp_path / name)["x (checksum)"])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert contents("x", tmp_path / "none") == {}


def test_a_setting_that_only_one_version_has_is_named() -> None:
    """Of a checksum that is not there, its own error says more."""
    facts = {0: {"a": 1, "b (checksum)": "x"}, 1: {}}
    assert complaint({0: "h", 1: "i"}, facts) is not None
    assert differing(facts) == {"a": [("1", [0]), ("not there", [1])]}


def two(
    script: str, flags: Sequence[Sequence[object]], environment: Sequence[dict[str, str]] = ({}, {})
) -> list[tuple[int, str]]:
    """Exit status and output of two processes that a user started as ranks 0 and 1, each with flags of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                [sys.executable, str(PROJECT / "launch" / f"{script}.py"), *map(str, flags[rank])],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **variables, **environment[rank]},
            )
        )
    try:
        outputs = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            with contextlib.suppress(OSError):
                process.kill()
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of the same size as `tiny_shards`, of other people."""
    from shards.sources import mars
    from shards.synthetic.persons import write_synthetic
    from shards.write import building, write

    folder = tmp_path_factory.mktemp("other")
    write_synthetic(folder / "tree", 4, workers=1, num_train=9, num_val=3, num_test=12)
    with building(folder / "shards") as out:
        write(mars.read(folder / "tree", name="synthetic", partial=True), out, workers=1)
    return folder / "shards"


@pytest.mark.slow
def test_two_processes_with_other_settings_and_data_do_not_train(
    tiny_config: Path, other_shards: Path, tmp_path: Path
) -> None:
    """Learning rate, seed and margin of rank 1, and its set of equal size: exit status 1 of both, one line on rank 0
    that names all of them, and a run folder that is as it was."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "state.json").write_text("{}")
    common = ["--config", tiny_config, "--run", run]
    other = ["--optim.lr", 0.5, "--seed", 3, "--loss.margin", "null", "--data.shards", other_shards]
    (first, output), (second, _) = two("train", [common, [*common, *other]])
    assert (first, second) == (1, 1), output
    (line,) = (line for line in output.splitlines() if line.startswith("error: "))
    for part in ("optim.lr is 0.002 on", "0.5 on", "seed is 0", "loss.margin is 0.3", "data.shards (checksum) is"):
        assert part in line
    assert "batch." not in line
    assert [path.name for path in run.iterdir()] == ["state.json"]
    assert (run / "state.json").read_text() == "{}"


@pytest.mark.slow
def test_two_processes_with_other_zero_stages_do_not_train(tiny_config: Path, tmp_path: Path) -> None:
    """DeepSpeed on one of them, whatever its stage, and another seed: refused before either is made."""
    common = ["--config", tiny_config, "--run", tmp_path / "run"]
    zero = [{"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": stage} for stage in "12"]
    (first, output), (second, _) = two("train", [common, [*common, "--seed", "1"]], zero)
    assert (first, second) == (1, 1), output
    assert "parallelism is zero1 on" in output
    assert "seed is 0 on" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_do_not_score_two_models(reference: Path, tmp_path: Path) -> None:
    """A folder that the other host does not share, with the same settings and other weights."""
    from safetensors.torch import load_file, save_file

    host = tmp_path / "host"
    shutil.copytree(reference, host / "run")
    weights = load_file(host / "run" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, host / "run" / "model.safetensors")
    before = (reference / "evaluation.json").read_bytes()
    (first, output), (second, _) = two("evaluate", [["--run", reference], ["--run", host / "run"]])
    assert (first, second) == (1, 1), output
    assert "model.safetensors (checksum) is" in output
    assert (reference / "evaluation.json").read_bytes() == before
