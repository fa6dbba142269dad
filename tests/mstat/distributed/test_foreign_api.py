"""Uses of other packages beyond their documented interface: each test names the file that must follow."""

from __future__ import annotations

import importlib
import inspect
from datetime import timedelta
from multiprocessing import forkserver, resource_tracker
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from mstat.distributed import deepspeed, process_groups
from mstat.distributed.launcher import OFFLOADS, OTHER_KINDS


def test_torch_has_the_timeouts_of_groups() -> None:
    """mstat/distributed/process_groups.py."""
    assert isinstance(dist.distributed_c10d._world.pg_map, dict), "torch: _world.pg_map has gone"
    assert list(inspect.signature(dist.distributed_c10d._set_pg_timeout).parameters) == ["timeout", "group"]


def test_the_timeout_reaches_every_group() -> None:
    """One process with two groups: both wait as long as asked."""
    if dist.is_initialized():
        pytest.skip("this process has a group already")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(minutes=30))
    try:
        groups = [dist.group.WORLD, dist.new_group(backend="gloo")]
        process_groups.set_timeouts(timedelta(seconds=7))
        backends = [group._get_backend(torch.device("cpu")) for group in groups if group is not None]
        assert [backend.options._timeout for backend in backends] == [timedelta(seconds=7)] * 2
    finally:
        dist.destroy_process_group()


def test_torch_has_the_stager_of_checkpoints() -> None:
    """mstat/runs/checkpoint.py."""
    staging = importlib.import_module("torch.distributed.checkpoint.staging")
    options = set(inspect.signature(staging.StagingOptions).parameters)
    assert options >= {"use_pinned_memory", "use_shared_memory", "use_async_staging", "use_non_blocking_copy"}
    assert callable(staging.DefaultStager.stage)


def test_torch_has_the_convolution_of_onednn() -> None:
    """mstat/model/cpu.py."""
    x_1KR1, kernel_DK11 = torch.randn(1, 3, 5, 1), torch.randn(2, 3, 1, 1)
    out_1DR1 = torch.mkldnn_convolution(x_1KR1, kernel_DK11, None, (0, 0), (1, 1), (1, 1), 1)
    torch.testing.assert_close(out_1DR1, torch.nn.functional.conv2d(x_1KR1, kernel_DK11))


def test_deepspeed_has_its_table_of_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """mstat/distributed/deepspeed.py: `use_cpu` switches one of them off."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    ops = importlib.import_module("deepspeed.ops")
    assert "deepspeed_shm_comm" in ops.__compatible_ops__, "deepspeed: its shared-memory collectives have another name"


def test_deepspeed_hands_its_files_to_a_checkpoint_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """mstat/distributed/deepspeed.py: `collecting` puts two methods in the place of its own, and takes them away."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    module = importlib.import_module("deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine")
    kind = module.TorchCheckpointEngine
    assert list(inspect.signature(kind.save).parameters) == ["self", "state_dict", "path"]
    assert list(inspect.signature(kind.preserves_storage_sharing).parameters) == ["self"]

    class Holder:
        checkpoint_engine = kind.__new__(kind)

    with deepspeed.collecting(Holder, dict) as files:
        Holder.checkpoint_engine.save({"weight": 1}, "folder/file.pt")
        assert Holder.checkpoint_engine.preserves_storage_sharing() is False
    assert files == [(Path("folder/file.pt"), {"weight": 1})]
    assert Holder.checkpoint_engine.save.__func__ is kind.save
    assert not vars(Holder.checkpoint_engine)


def test_deepspeed_frees_and_gathers_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """mstat/distributed/deepspeed.py: `release` and `gathered`."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    stage3 = importlib.import_module("deepspeed.runtime.zero.stage3").DeepSpeedZeroOptimizer_Stage3
    assert list(inspect.signature(stage3.checkpoint_event_prologue).parameters) == ["self"]
    with deepspeed.gathered(torch.nn.Linear(1, 1)):
        pass


def test_accelerate_passes_these_variables_on() -> None:
    """mstat/distributed/launcher.py and engine.py read them."""
    source = inspect.getsource(importlib.import_module("accelerate.utils.launch"))
    names = ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_CONFIG_DS_FIELDS", *OTHER_KINDS]
    names += [*OFFLOADS, "ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"]
    names += ["ACCELERATE_DEEPSPEED_CONFIG_FILE"]
    dynamo = inspect.getsource(importlib.import_module("accelerate.utils.dataclasses"))
    assert "DYNAMO" in source + dynamo
    missing = [name for name in names if name not in source]
    assert not missing, f"accelerate: its launcher sets {missing} no more"


def test_python_has_the_fork_server_and_its_tracker() -> None:
    """mstat/data/workers.py and mstat/distributed/signals.py start both before anything else does."""
    assert callable(forkserver.ensure_running)
    assert callable(resource_tracker.ensure_running)
