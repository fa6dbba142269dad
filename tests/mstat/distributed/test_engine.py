"""The engine trains a module on one process as plain torch does, and on two as on one."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mstat.config import Config
from mstat.distributed import signals
from mstat.distributed.engine import Engine
from mstat.distributed.lost_rank import LostRankError, RollCall
from mstat.errors import UserError
from mstat.weights.checkpoint_files import AVERAGE_FILE, OPTIMIZER_FILE
from tests.helpers.distributed import run_distributed

LR = 0.5
INPUTS_BD = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


class Regression(nn.Module):
    """A linear model with a batch norm, whose loss is the mean over all clips; a rank returns its share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)

    def forward(self, inputs_BD: torch.Tensor, metric_weight: float) -> dict[str, torch.Tensor]:
        self.norm(self.linear(inputs_BD).detach())  # for its statistics
        return {"loss": metric_weight * self.linear(inputs_BD).square().sum() / len(INPUTS_BD)}


def settings(**changes: Any) -> Config:
    """fp32 and SGD without momentum or decay: a step is the weights less LR times the gradient."""
    config = Config()
    precision, ema = changes.pop("precision", "no"), changes.pop("ema", None)
    return dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, precision=precision, ema=ema),
        optim=dataclasses.replace(config.optim, **{"momentum": 0.0, "weight_decay": 0.0, **changes}),
    )


def make_engine(**changes: Any) -> Engine:
    engine = Engine(settings(**changes))
    engine.prepare(Regression())
    return engine


def gradient() -> torch.Tensor:
    """The gradient of the whole batch, by plain torch."""
    task = Regression()
    task(INPUTS_BD, 2.0)["loss"].backward()
    return torch.cat([p.grad.flatten() for p in task.linear.parameters() if p.grad is not None])


def weights(task: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.linear.parameters()])


def test_an_update_is_a_step_down_the_gradient() -> None:
    """At the rate that it is given, not at that of the settings; gradients do not add up over steps."""
    engine = make_engine()
    before = weights(engine.task)
    norm = engine.update(engine.losses({"inputs_BD": INPUTS_BD}, metric_weight=2.0)["loss"], LR)
    torch.testing.assert_close(weights(engine.task), before - LR * gradient())
    torch.testing.assert_close(norm, gradient().norm())
    before = weights(engine.task)
    engine.update(engine.losses({"inputs_BD": INPUTS_BD}, metric_weight=0.0)["loss"], LR)
    torch.testing.assert_close(weights(engine.task), before)


def test_clipping_bounds_the_step_and_tells_the_norm_before() -> None:
    engine = make_engine(clip_grad_norm=0.1)
    before = weights(engine.task)
    norm = engine.update(engine.losses({"inputs_BD": INPUTS_BD}, metric_weight=2.0)["loss"], LR)
    torch.testing.assert_close((weights(engine.task) - before).norm(), torch.tensor(LR * 0.1))
    torch.testing.assert_close(norm, gradient().norm())


def test_autocast_is_the_precision_of_the_run() -> None:
    engine = Engine(settings())
    for precision, expected in (("no", torch.float32), ("bf16", torch.bfloat16)):
        engine.config = settings(precision=precision)  # Accelerate takes one precision in a process
        with engine.autocast():
            assert (INPUTS_BD @ INPUTS_BD.T).dtype == expected


def write(engine: Engine, folder: Path) -> None:
    folder.mkdir()
    for path, content in engine.snapshot(folder, lambda state: state):
        torch.save(content, path)


@pytest.mark.parametrize("rates", [{}, {"bias_lr": 3.0, "freeze_steps": 1}], ids=["alike", "apart"])
@pytest.mark.parametrize("name", ["sgd", "adamw", "adam"])
def test_a_snapshot_brings_weights_and_moments_back(name: str, rates: dict[str, Any], tmp_path: Path) -> None:
    """Two engines that load the same files make the same next step; without moments they would not."""
    config = settings(name=name, momentum=0.9, **rates)

    def step(engine: Engine) -> torch.Tensor:
        engine.update(engine.losses({"inputs_BD": INPUTS_BD}, metric_weight=1.0)["loss"], 0.01)
        return weights(engine.task)

    first = Engine(config)
    first.prepare(Regression())
    step(first)
    write(first, tmp_path / "checkpoint")
    second = Engine(config)
    second.prepare(Regression())
    second.load(tmp_path / "checkpoint")
    assert torch.equal(weights(second.task), weights(first.task))
    assert torch.equal(step(second), step(first))


def test_a_snapshot_of_an_older_version(tmp_path: Path) -> None:
    """Its two groups have no keys of rates: the engine goes on as from its own."""
    first, second = make_engine(momentum=0.9), make_engine(momentum=0.9)
    first.update(first.losses({"inputs_BD": INPUTS_BD}, metric_weight=1.0)["loss"], LR)
    write(first, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / OPTIMIZER_FILE
    state = torch.load(file, weights_only=True)
    groups = state["optimizer"]["param_groups"]
    assert [(group.pop("heads"), group.pop("factor")) for group in groups] == [(False, 1)] * 2
    torch.save(state, file)
    second.load(tmp_path / "checkpoint")
    for engine in (first, second):
        engine.update(engine.losses({"inputs_BD": INPUTS_BD}, metric_weight=1.0)["loss"], LR)
    assert torch.equal(weights(first.task), weights(second.task))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", {"task": {}, "optimizer": {}}, {"optimizer": {}}], ids=repr)
def test_a_damaged_state_is_refused_by_file(content: Any, tmp_path: Path) -> None:
    file = tmp_path / OPTIMIZER_FILE
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=rf"{OPTIMIZER_FILE}: does not fit this run"):
        make_engine().load(tmp_path)


@pytest.mark.parametrize("content", [b"", {"task": {}}, {}], ids=repr)
def test_a_damaged_average_is_refused_by_file(content: Any, tmp_path: Path) -> None:
    """The weights of the task stay."""
    engine, file = make_engine(ema=0.5), tmp_path / AVERAGE_FILE
    before = weights(engine.task)
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=rf"{AVERAGE_FILE}: does not fit this run"):
        engine.load_average(tmp_path)
    assert torch.equal(weights(engine.task), before)


def test_weights_that_are_not_finite_are_named() -> None:
    """Buffers too, as the statistics of a batch norm."""
    engine = make_engine()
    assert engine.not_finite() == []
    engine.task.get_parameter("linear.bias").data[1] = float("nan")
    engine.task.get_buffer("norm.running_mean")[0] = float("inf")
    assert sorted(engine.not_finite()) == ["linear.bias", "norm.running_mean"]


def test_a_signal_stops_the_run_by_its_name() -> None:
    engine = Engine(settings())
    with signals.listening():
        engine.stop_if_asked()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(signals.StopRequested, match=r"^SIGUSR1$"):
            engine.stop_if_asked()
    with signals.listening():
        engine.stop_if_asked()  # a signal of an earlier run is forgotten


def test_one_process_is_a_group_of_one() -> None:
    """The same calls as on several, without a process group; errors leave the engine as they are."""
    engine = Engine(settings())
    assert (engine.rank, engine.world_size, engine.is_main, engine.kind) == (0, 1, True, "ddp")
    assert engine.gather_objects("a") == engine.gather_from_writers("a") == ["a"]
    assert engine.from_main({"a": 1}) == {"a": 1}
    assert engine.sum(torch.tensor([2.0])).tolist() == [2.0]
    error = ValueError("ours")
    with pytest.raises(ValueError, match=r"^ours$") as caught, engine:
        raise error
    assert caught.value is error


def on_each_rank() -> dict[str, Any]:
    """Return the results of one of two ranks: a step on its half of the batch, and values from other ranks."""
    rank = dist.get_rank()
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", MASTER_ADDR="x")
    engine = make_engine(ema=0.999)
    half = {"inputs_BD": INPUTS_BD.chunk(2)[rank]}
    norm = engine.update(engine.losses(half, metric_weight=2.0)["loss"], LR)
    engine.update_average(0)
    result: dict[str, Any] = {"norm": norm, "weights": weights(engine.task)}
    with engine.averaged():
        result["average"] = weights(engine.task)
    engine.config = settings(ema=0.999, bias_lr=3.0, freeze_steps=1)
    engine.prepare(Regression())
    engine.update(engine.losses(half, metric_weight=2.0)["loss"], LR, heads_only=True)
    result["frozen"] = weights(engine.task)
    engine.update(engine.losses(half, metric_weight=2.0)["loss"], LR)
    result["rates apart"] = weights(engine.task)
    result["batches"] = int(engine.task.get_buffer("norm.num_batches_tracked"))
    result["gathered"] = engine.gather_objects({"rank": rank})
    result["written"] = engine.gather_from_writers(rank)
    result["from main"] = engine.from_main(f"of {rank}")
    result["sum"] = engine.sum(torch.tensor([rank + 1])).tolist()
    result["files"] = [path.name for path, _ in engine.snapshot(Path("folder"), lambda state: state)]
    with signals.listening():
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            engine.stop_if_asked()
        except signals.StopRequested as stop:
            result["stop"] = str(stop)
            return result
    return result


def test_two_processes_are_one() -> None:
    """The step of the whole batch and its average on both; a signal to one stops both; the main process writes."""
    first, second = run_distributed(on_each_rank, 2)
    initial = weights(Regression())
    of_bias = torch.tensor([1.0] * 12 + [3.0] * 3)  # of weights and biases
    for result in (first, second):
        torch.testing.assert_close(result["weights"], initial - LR * gradient())
        torch.testing.assert_close(result["average"], initial - 0.9 * LR * gradient())
        assert torch.equal(result["average"], first["average"])
        assert torch.equal(result["frozen"], initial)
        torch.testing.assert_close(result["rates apart"], initial - LR * of_bias * gradient())
        torch.testing.assert_close(result["norm"], gradient().norm())
        assert result["batches"] == 2, "the discarded pass leaves no trace in the statistics"
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert result["written"] == [0, 1]
        assert result["from main"] == "of 0"
        assert result["sum"] == [3]
        assert result["stop"] == "SIGTERM"
    assert (first["files"], second["files"]) == ([OPTIMIZER_FILE, AVERAGE_FILE], [])


def test_a_failed_collective_is_explained_by_the_roll_call(launcher: list[dist.TCPStore]) -> None:
    """Each other error is left for the other ranks to find, and stays what it is."""
    engines = [Engine(settings()) for _ in range(2)]
    for rank, engine in enumerate(engines):
        engine.roll_call = RollCall(rank, 2, "attempt")
    fault = KeyError("weights")
    assert engines[1].explain(fault) is fault
    lost = engines[0].explain(RuntimeError("gloo/transport/tcp/pair.cc: Connection closed by peer"))
    assert isinstance(lost, LostRankError)
    assert "rank 1 (host " in str(lost)
    assert str(lost).endswith(": KeyError: 'weights'")
    assert engines[0].explain(lost) is lost
