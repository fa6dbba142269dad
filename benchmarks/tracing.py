"""Tracing of a training step and an evaluation on tensors without data: operations, allocations, memory.

Nothing is computed, so the paper's step takes seconds on any machine; the code is that of `mstat.distributed.engine`
and the model. The counts are meant for CUDA, but PyTorch's CPU build cannot run a backward pass on fake CUDA tensors.
Therefore the tensors are fake CPU tensors, and this module reproduces CUDA's choices:

- Autocast on CUDA computes LayerNorm in fp32 for any input (`_layer_norm`).
- Optimiser and gradient norm work on lists of tensors (`as_on_cuda`).
- Attention is another operation, which keeps the same number of bytes for its backward pass, and allocates memory there
  that no trace shows (`workspace`).
- A step's batch is in host memory, which takes none of the device's; `Tensor.to` copies from it (`Moves`).

tests/benchmarks/test_tracing.py compares the forward pass with one on fake CUDA tensors, operation by operation.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from benchmarks.harness import MARS_IDENTITIES
from mstat.config import Config
from mstat.distributed.engine import Engine
from mstat.distributed.optimizer import make_optimizer
from mstat.model import MSTAT, num_residuals
from mstat.model.stem import patch_grid
from mstat.training import task as task_module
from mstat.training.task import Task

M = TypeVar("M", bound=torch.nn.Module)
BLOCK = 512  # bytes: the CUDA allocator rounds up to it
LAYER_NORM = F.layer_norm
CPU_FLASH = "_scaled_dot_product_flash_attention_for_cpu"
HOST = "host"
COPIES = {"weights": "weights in half precision", HOST: "batch"}  # the label of a copy by that of its source


class HostSyncError(RuntimeError):
    """The host needs a value that the device has not computed yet, so that it would wait for a GPU."""


@dataclass(eq=False)
class Allocation:
    """Memory of one storage; `label` is its purpose, or else the phase that allocated it."""

    bytes: int
    label: str


class Trace(TorchDispatchMode):
    """Counter of operations, and tracker of every storage from its first tensor to its last.

    Attributes:
        phase: Current part of the step; the caller sets it.
        ops: Operations that write memory, each at least one kernel, by name.
        flops: FLOPs of matrix products and attention by phase; a multiply-add counts as 2.
        traffic: Bytes read and written, if each operation touches its arguments and results once.
        peaks: Most bytes alive at a time by phase, including the workspace of the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = "before"
        self.ops: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()
        self.peaks: Counter[str] = Counter()
        self.traffic = self.live = 0
        self._alive: dict[int, Allocation] = {}
        self._at_peaks: dict[str, list[Allocation]] = {}

    def hold(self, label: str, tensors: Iterable[Tensor]) -> None:
        """Label tensors with their purpose; tensors from before the trace begin to count."""
        for tensor in tensors:
            self._allocation(tensor).label = label

    def hold_on_host(self, tensors: Iterable[Tensor]) -> None:
        """Label tensors as host memory: they take no bytes of the device."""
        for tensor in tensors:
            allocation = self._allocation(tensor)
            self.live -= allocation.bytes
            allocation.bytes, allocation.label = 0, HOST

    def is_on_host(self, tensor: Tensor) -> bool:
        allocation = self._alive.get(id(tensor.untyped_storage()))
        return allocation is not None and allocation.label == HOST

    @property
    def peak(self) -> int:
        return max(self.peaks.values())

    def held(self) -> dict[str, int]:
        """Return the bytes alive now, by label."""
        return _by_label(self._alive.values())

    def held_at_peak(self, phase: str | None = None) -> dict[str, int]:
        """Return the bytes alive at the peak of a phase, or at the highest of all, by label."""
        return _by_label(self._at_peaks[phase or max(self.peaks, key=lambda name: self.peaks[name])])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "aten":
            return func(*args, **kwargs)  # queries about tensors, profiler marks
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise HostSyncError(f"{func} needs a value of the device on the host, in the {self.phase} pass") from error
        name = func._schema.name.removeprefix("aten::")
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        fresh = [tensor for tensor in outputs if id(tensor.untyped_storage()) not in self._alive]
        for tensor in outputs:
            self._allocation(tensor)
        if name == "_to_copy" and (label := COPIES.get(self._allocation(inputs[0]).label)):
            self._allocation(outputs[0]).label = label
        if func._schema.is_mutable or (fresh and not name.startswith("empty")):
            self.ops[name] += 1
            self.traffic += sum(_touched(tensor) for tensor in [*inputs, *outputs])
            self.flops[self.phase] += _flops(func, args, kwargs, result)
        needed = self.live + workspace(name, args)
        if needed > self.peaks[self.phase]:
            self.peaks[self.phase], self._at_peaks[self.phase] = needed, list(self._alive.values())
        return result

    def _allocation(self, tensor: Tensor) -> Allocation:
        storage = tensor.untyped_storage()
        result = self._alive.get(id(storage))
        if result is None:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            result = self._alive[id(storage)] = Allocation(size, self.phase)
            self.live += size
            weakref.finalize(storage, self._free, id(storage)).atexit = False
        return result

    def _free(self, key: int) -> None:
        self.live -= self._alive.pop(key).bytes


class Moves(TorchFunctionMode):
    """Makes `Tensor.to` copy what is on the host, as it does if the device is a GPU."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        moves = func is Tensor.to and self.trace.is_on_host(args[0])
        return func(*args, **{**(kwargs or {}), **({"copy": True} if moves else {})})


def _by_label(allocations: Iterable[Allocation]) -> dict[str, int]:
    held: Counter[str] = Counter()
    for one in allocations:
        held[one.label] += one.bytes
    return dict(held)


def _touched(tensor: Tensor) -> int:
    """Return the bytes of a tensor in memory, where expanded dimensions count once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    aten = torch.ops.aten
    twins = {
        aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
    }
    packet = twins.get(func.overloadpacket, func.overloadpacket)
    if packet not in flop_registry:
        return 0
    if func.overloadpacket in twins and "backward" in func._schema.name:
        return flop_registry[packet](*args[:6], out_val=result)
    return flop_registry[packet](*args, **kwargs, out_val=result)


def workspace(name: str, args: tuple[Any, ...]) -> int:
    """Return the bytes that flash attention's backward pass on CUDA allocates temporarily.

    They hold the queries' gradient in fp32 and a sum per row, for sequences padded to multiples of 128 tokens and heads
    to multiples of 32 (PyTorch's flash_api.cpp, mha_bwd: dq_accum, softmax_d).
    """
    if name != CPU_FLASH + "_backward":
        return 0
    batch, heads, tokens, width = args[1].shape
    rounded = batch * heads * _round_up(tokens, 128) * 4
    return rounded * _round_up(width, 32) + rounded


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _layer_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Compute LayerNorm in fp32, as autocast on CUDA does; on CPUs, autocast keeps half precision."""
    return LAYER_NORM(input.float() if torch.is_autocast_enabled("cpu") else input, *args, **kwargs)


@contextlib.contextmanager
def as_on_cuda() -> Iterator[None]:
    """Treat fake CPU tensors like CUDA tensors."""
    types = [*_foreach_utils._foreach_supported_types, FakeTensor]
    with (
        FakeTensorMode(),
        patch.object(F, "layer_norm", _layer_norm),
        patch.object(_foreach_utils, "_foreach_supported_types", types),
    ):
        yield


def training_step(config: Config, num_classes: int = MARS_IDENTITIES, *, two_chunks: bool = False) -> Trace:
    """Trace a step of `mstat.training.train` after the first, so that momentum is allocated.

    Phases: forward; losses, from the features to their gradient; backward; update.

    Args:
        two_chunks: With `batch.chunk_size`, embed the first chunk and the last one alone. The others, which would be
            embedded one at a time in the memory of the first, give features without a graph. The peak is the same.
    """
    engine = Engine(config)
    engine.device = torch.device("cpu")
    with as_on_cuda():
        task = without_data(lambda: Task(config, num_classes))
        if config.train.activation_checkpointing:
            task.model.recompute_blocks()
        optimizer = make_optimizer(task, config.optim)
        for group in optimizer.param_groups:
            group["foreach"] = not group.get("fused")
        engine.task = engine.wrapped = task
        engine.optimizer, engine.settled = optimizer, True
        for parameter in task.parameters():
            parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        optimizer.zero_grad()
        batch = _batch(config)

        trace = Trace()
        trace.hold("weights", [*task.parameters(), *task.buffers()])
        states = [state.values() for state in optimizer.state.values()]
        trace.hold("optimiser state", [value for state in states for value in state if isinstance(value, Tensor)])
        trace.hold_on_host(batch.values())
        for parameter in task.parameters():
            parameter.register_post_accumulate_grad_hook(lambda owner: trace.hold("gradients", [owner.grad]))
        optimizer.register_step_pre_hook(lambda *_: setattr(trace, "phase", "update"))
        chunks = patch.object(task_module, "checkpoint", _first_alone(sum(task.dims)) if two_chunks else checkpoint)
        with trace, Moves(trace), chunks, patch.object(task, "embed", _marking_losses(trace, task.embed)):
            trace.phase = "forward"
            with engine.autocast():
                losses = engine.losses(batch, metric_weight=1.0)
            engine.update(losses["loss"], lr=1e-3)
    return trace


def _marking_losses(trace: Trace, embed: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `embed` with the phase of the losses between its result and the gradient of that."""

    def embedded(*clips: Tensor) -> Tensor:
        features_BD = embed(*clips)
        trace.hold("features", [features_BD])
        trace.phase = "losses"
        features_BD.register_hook(of_gradient)
        return features_BD

    def of_gradient(gradient_BD: Tensor) -> None:
        trace.hold("features' gradient", [gradient_BD])
        trace.phase = "backward"

    return embedded


def _first_alone(dim: int) -> Callable[..., Tensor]:
    """Return a `checkpoint` that embeds the chunk of its first call; other chunks give features of length `dim`."""
    calls = itertools.count()

    def checkpoint_first(embed: Callable[..., Tensor], *chunk: Tensor, **settings: Any) -> Tensor:
        if next(calls):
            return torch.empty(len(chunk[0]), dim)
        result: Tensor = checkpoint(embed, *chunk, **settings)
        return result

    return checkpoint_first


def evaluation(config: Config) -> Trace:
    """Trace the features of a batch of `eval.batch_size` tracklets, `eval.num_frames` frames of each."""
    with as_on_cuda():
        model = without_data(lambda: MSTAT(config.model))
        shape = (config.eval.batch_size, config.eval.num_frames, *config.model.image_size, 3)
        frames_BTHWC = torch.empty(shape, dtype=torch.uint8)
        trace = Trace()
        trace.hold("weights", [*model.parameters(), *model.buffers()])
        trace.hold("batch", [frames_BTHWC])
        trace.phase = "evaluation"
        half = torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16")
        with trace, torch.no_grad(), half:
            model(frames_BTHWC)
    return trace


def without_data(make: Callable[[], M], device: str = "cpu") -> M:
    """Make a module of fake tensors; it is built on the meta device, where initialisation reads no values."""
    with torch.device("meta"):
        module = make()
    state = {name: torch.empty_like(tensor, device=device) for name, tensor in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    return module


def _batch(config: Config) -> dict[str, Tensor]:
    clips, frames = config.batch.num_identities * config.batch.num_tracklets, config.clip.num_frames
    rows, columns = patch_grid(config.model)
    return {
        "frames_BTHWC": torch.empty(clips, frames, *config.model.image_size, 3, dtype=torch.uint8),
        "tps_BTN": torch.empty(clips, frames, rows * columns, dtype=torch.int64),
        "keep_BR": torch.empty(clips, num_residuals(config.model)),
        "labels_n": torch.empty(clips, dtype=torch.int64),
    }
