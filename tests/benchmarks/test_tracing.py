"""The counter behind benchmarks/counts.py and memory.py: against torch's own counters, and against CUDA's choices."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.overrides import TorchFunctionMode

from benchmarks import steps, tracing
from launch.model import count
from mstat.config import BatchConfig, Config, TrainConfig
from mstat.model import MSTAT, feature_dims
from tests.mstat.model.small import SMALL

# Attention in a block over frames and over patches, and of proxies: sequences, heads, queries, keys, width of a head.
PAPERS_ATTENTION = [(2352, 12, 8, 8, 64), (192, 12, 99, 99, 64), (192, 12, 24, 98, 64), (24, 12, 24, 785, 64)]


def small_config(clips: int = 6, chunk_size: int | None = None) -> Config:
    """fp32, as all engines of the test process."""
    return Config(model=SMALL, batch=BatchConfig(clips // 2, 2, chunk_size), train=TrainConfig(precision="no"))


def test_storages_are_followed_to_their_end() -> None:
    """Two tensors of 4 KiB and one of 3.5, of which two live at a time; a view is no memory; 3 KiB and 4 bytes are
    rounded up."""
    with FakeTensorMode(), tracing.Trace() as trace:
        first = torch.ones(1024) * 2  # with its argument: 8 KiB
        view = first.view(32, 32)
        del first
        short = torch.ones(3 * 256 + 1)  # and 3.5 KiB; the argument above is gone
        assert trace.live == 4096 + 3584
        del view
        assert trace.live == 3584
        del short
    assert trace.live == 0
    assert trace.peak == 8192
    assert trace.ops == {"ones": 2, "mul": 1}
    assert trace.traffic == 4096 + 8192 + 4 * (3 * 256 + 1)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_peak_is_that_of_torchs_own_tracker(recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward pass of a small MSTAT: what torch.distributed's MemTracker finds, to the byte."""
    monkeypatch.setattr(tracing, "BLOCK", 1)  # on CPUs it does not round up
    monkeypatch.setattr(tracing, "workspace", lambda *_: 0)
    with FakeTensorMode():
        model = tracing.without_data(lambda: MSTAT(SMALL))
        if recompute:
            model.recompute_blocks()
        frames = torch.empty(4, 4, *SMALL.image_size, 3, dtype=torch.uint8)
        theirs, ours = MemTracker(), tracing.Trace()
        theirs.track_external(model, frames)
        ours.hold("weights", [*model.parameters(), *model.buffers(), frames])
        with theirs, ours:
            sum((feature.sum() for feature in model(frames)), torch.zeros(())).backward()
    assert ours.peak == theirs.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def test_the_peak_of_a_real_step_is_flat_in_chunks() -> None:
    """Steps with real numbers, by torch's MemTracker: in chunks of 8, a clip more costs less than 8 times its features,
    and no activations; all at once, it costs a hundred times as much."""

    def peak(clips: int, chunk_size: int | None) -> int:
        config = small_config(clips, chunk_size)
        engine, step = steps.prepare(config, num_classes=24, threads=1)
        step()  # momentum is allocated
        on_host = sum(part.nbytes for part in steps.drawn_batch(config, engine).values())
        tracker = MemTracker()
        tracker.track_external(engine.task, engine.optimizer)
        with tracker:
            step()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] - on_host

    features = 4 * sum(feature_dims(SMALL)) * (48 - 16)
    assert 0 <= peak(48, 8) - peak(16, 8) < 8 * features
    assert peak(48, None) - peak(16, None) > 100 * features


def test_two_chunks_stand_for_all() -> None:
    """The peak of each phase with all 6 chunks, and with the first and the last alone, to the byte."""
    config = small_config(24, 4)
    everything, two = (tracing.training_step(config, two_chunks=flag) for flag in (False, True))
    assert two.peaks == everything.peaks
    assert sum(two.ops.values()) < 0.5 * sum(everything.ops.values())


def test_the_host_takes_no_memory_of_the_device() -> None:
    """A batch on the host counts as nothing; what is moved from it is a copy, and is moved once."""
    with FakeTensorMode():
        batch, trace = torch.empty(12, 1024), tracing.Trace()
        trace.hold_on_host([batch])
        with trace, tracing.Moves(trace):
            assert trace.live == 0
            moved = batch[4:8].to(torch.device("cpu"), non_blocking=True)
            assert trace.held() == {"host": 0, "batch": moved.nbytes}
            assert moved.to("cpu") is moved


def test_operations_are_those_of_the_model() -> None:
    """FLOP of an evaluation: as `python -m mstat.model` counts it, with torch's own counter and attention in pieces."""
    config = small_config()
    sizes = count(config.model, config.eval.num_frames)
    expected = config.eval.batch_size * sum(size.flops for size in sizes.values())
    assert tracing.evaluation(config).flops == {"evaluation": expected}


def test_recomputing_costs_the_forward_pass_of_the_blocks_and_saves_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With activation checkpointing the backward pass has the FLOP of all blocks' forward pass more; the peak falls."""
    monkeypatch.setattr(tracing, "workspace", lambda *_: 0)  # of whole tiles: more than all of so small a model
    config = small_config()
    plain = tracing.training_step(config)
    again = tracing.training_step(
        dataclasses.replace(config, train=dataclasses.replace(config.train, activation_checkpointing=True))
    )
    blocks = sum(size.flops for part, size in count(config.model, config.clip.num_frames).items() if "blocks" in part)
    assert again.flops["forward"] == plain.flops["forward"]
    # Of a block's last matrix product nothing is needed but that it was there: it may be left out.
    assert 0.8 * 6 * blocks < again.flops["backward"] - plain.flops["backward"] <= 6 * blocks
    assert again.peak < 0.6 * plain.peak


@pytest.mark.parametrize("sync", [lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any())])
def test_a_wait_for_the_device_is_refused(sync: Any) -> None:
    """Reading a value, choosing by a mask, deciding by a value: each would stop the host until a GPU is done."""
    with FakeTensorMode():
        x = torch.ones(3)
        with tracing.Trace(), pytest.raises(tracing.HostSyncError, match="on the host"):
            sync(x)


class CudaAttention(TorchFunctionMode):
    """CUDA's flash attention by name, in autocast's precision: a build for CPUs has nobody who would choose it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            return torch.ops.aten._scaled_dot_product_flash_attention(*(x.bfloat16() for x in args))[0]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def cuda_guard() -> Iterator[None]:
    """Lets fake CUDA tensors be indexed where torch was built for CPUs: the guard of the meta device, which does
    nothing, stands for CUDA's. A build for CUDA does the same by itself, through FakeTensorMode."""
    if torch.version.cuda is not None:
        yield
        return
    libc10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 21).in_dll(libc10, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # c10/core/DeviceType.h
    guards[cuda] = guards[meta]
    yield
    guards[cuda] = None


@pytest.mark.usefixtures("cuda_guard")
def test_the_forward_pass_is_that_of_cuda() -> None:
    """Under bf16 autocast, on fake CUDA tensors and on those that stand for them: the same operations on as many bytes,
    and the same peak; no operation takes what is on the device to the host."""
    traces = []
    frames_shape = (2, 4, *SMALL.image_size, 3)
    for device in ("cuda", "cpu"):
        context = contextlib.ExitStack()
        for part in (FakeTensorMode(), CudaAttention()) if device == "cuda" else (tracing.as_on_cuda(),):
            context.enter_context(part)
        with context, torch.no_grad():
            model = tracing.without_data(lambda: MSTAT(SMALL), device)
            frames = torch.empty(frames_shape, dtype=torch.uint8, device=device)
            trace = tracing.Trace()
            enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            torch.set_autocast_enabled(device, True)  # torch.autocast turns itself off where there is no CUDA
            torch.set_autocast_dtype(device, torch.bfloat16)
            try:
                with trace:
                    features = model(frames)
            finally:
                torch.set_autocast_enabled(device, enabled)
                torch.set_autocast_dtype(device, dtype)
                torch.clear_autocast_cache()
            assert all(feature.device.type == device for feature in features)
        traces.append((Counter({name.removesuffix("_for_cpu"): n for name, n in trace.ops.items()}), trace))
    (cuda_ops, cuda), (cpu_ops, cpu) = traces
    assert cuda_ops == cpu_ops
    assert cuda.flops == cpu.flops
    seeds = cuda_ops["_scaled_dot_product_flash_attention"] * 3 * tracing.BLOCK  # of dropout, and an empty tensor
    assert 0 <= cuda.traffic - cpu.traffic <= seeds
    assert 0 <= cuda.peak - cpu.peak <= seeds


@pytest.mark.parametrize("shape", PAPERS_ATTENTION)
def test_attention_keeps_what_cudas_keeps(shape: tuple[int, ...]) -> None:
    """At the paper's shapes CUDA's flash attention gives an output and a sum a row, as large as the one for CPUs does,
    and the seeds of a dropout that is not used."""
    sequences, heads, queries, keys, width = shape
    aten = torch.ops.aten
    with FakeTensorMode():
        cpu, cuda = (
            operation(*(torch.empty(sequences, heads, n, width, dtype=torch.bfloat16, device=device) for n in tokens))
            for operation, device in (
                (aten._scaled_dot_product_flash_attention_for_cpu, "cpu"),
                (aten._scaled_dot_product_flash_attention, "cuda"),
            )
            for tokens in [(queries, keys, keys)]
        )
    kept = [tensor for tensor in cuda if isinstance(tensor, Tensor) and tensor.numel() > 2]
    assert [(t.shape, t.dtype, t.stride()) for t in kept[:1]] == [(t.shape, t.dtype, t.stride()) for t in cpu[:1]]
    assert [t.nbytes for t in kept] == [t.nbytes for t in cpu]


def test_the_workspace_is_that_of_whole_tiles() -> None:
    """8 tokens need as much as 128 would: a gradient in fp32 for each, and a sum a row."""
    with FakeTensorMode():
        q = torch.empty(2352, 12, 8, 64, dtype=torch.bfloat16)
    name = "_scaled_dot_product_flash_attention_for_cpu"
    assert tracing.workspace(name + "_backward", (q, q)) == 2352 * 12 * 128 * (64 + 1) * 4
    assert tracing.workspace(name, (q, q)) == 0
    assert math.isclose(2352 * 12 * 128 * 65 * 4, 0.94e9, rel_tol=0.01)
