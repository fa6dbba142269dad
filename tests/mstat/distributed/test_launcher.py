"""Variables that launchers leave in the environment are followed, refused by name, or reported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mstat.config import Config
from mstat.distributed.launcher import MPI_RANKS, MPI_SIZES, check_launcher
from mstat.errors import UserError
from tests.conftest import PROJECT

PLACE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
DEEPSPEED = {**PLACE, "ACCELERATE_USE_DEEPSPEED": "true"}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PLACE, *MPI_SIZES, *MPI_RANKS, *(name for name in os.environ if name.startswith("ACCELERATE_"))):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"WORLD_SIZE": "4"},
            "WORLD_SIZE is 4 in the environment, but there is no RANK, MASTER_ADDR, MASTER_PORT: left",
        ),
        ({**PLACE, "RANK": ""}, "WORLD_SIZE is 2 in the environment, but there is no RANK: "),
        ({**PLACE, "RANK": "2"}, "RANK is 2 and WORLD_SIZE 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment, but must be a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0"),
        ({**PLACE, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "PMI_SIZE is 2 in the environment, as if MPI or srun"),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, "OMPI_COMM_WORLD_SIZE is 3"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "ACCELERATE_USE_DEEPSPEED is true in the environment, but there is no"),
        ({"ACCELERATE_USE_FSDP": "true"}, "selects FSDP .* zero3.yaml"),
        ({"ACCELERATE_USE_MEGATRON_LM": "1"}, "selects Megatron-LM"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "True"}, "selects parallelism_config"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend inductor.*train.compile is false"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "DeepSpeed configuration .ds.json."),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "4"}, "zero_stage is 4"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the variable or the launcher's name of it, and a way out."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        check_launcher(Config())


@pytest.mark.parametrize(
    ("environment", "note"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "mixed_precision fp16 is not used: train.precision is bf16"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "gradient_clipping 1.0 is not used: optim.clip_grad_norm is null"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "offload_param_device cpu is not used"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "gradient_accumulation_steps 4 is not used: a step"),
    ],
)
def test_what_our_settings_decide_is_told(
    environment: dict[str, str], note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sentence that has both values."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (message,) = check_launcher(Config())
    assert note in message


def test_what_launchers_usually_say_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their defaults, and a precision that is ours; MPI's variables, which Accelerate would follow, are gone after."""
    usual = {
        **DEEPSPEED,
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_GRADIENT_CLIPPING": "none",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
        "ACCELERATE_DEEPSPEED_CONFIG_FILE": "none",
        "PMI_SIZE": "1",
        "PMI_RANK": "0",
    }
    for name, value in usual.items():
        monkeypatch.setenv(name, value)
    assert check_launcher(Config()) == []
    assert "PMI_SIZE" not in os.environ
    assert os.environ["LOCAL_RANK"] == "0"


def test_a_local_rank_alone_is_no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate would look for other processes."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert check_launcher(Config()) == []
    assert "LOCAL_RANK" not in os.environ


@pytest.mark.slow
def test_a_plain_start_with_a_world_size_left_over(tiny_config: Path, tmp_path: Path) -> None:
    """One line and exit status 1 at once, and no run folder."""
    command = [sys.executable, PROJECT / "launch" / "train.py", "--config", tiny_config, "--run", tmp_path / "run"]
    environment = {**os.environ, "WORLD_SIZE": "4"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("error: WORLD_SIZE is 4 in the environment")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
