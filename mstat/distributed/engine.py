"""The engine: processes, precision, backward pass and update, over Accelerate and DeepSpeed.

`accelerate launch` and its YAML select one process, DDP, or DeepSpeed ZeRO-0 to 3; `train.precision` selects the
precision. docs/exactness.md lists the traps of both libraries that this file avoids.
"""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs, broadcast_object_list
from torch import nn

from mstat.config import Config
from mstat.console import console
from mstat.distributed import deepspeed, signals
from mstat.distributed.agreement import common_facts
from mstat.distributed.average import Average
from mstat.distributed.launcher import check_launcher, is_on
from mstat.distributed.lost_rank import LostRankError, RollCall, failed_collective
from mstat.distributed.optimizer import make_optimizer, set_rates
from mstat.distributed.process_groups import set_timeouts
from mstat.distributed.rendezvous import join, launcher_keeps_store
from mstat.errors import UserError
from mstat.model.cpu import use_cpu_kernels
from mstat.weights.checkpoint_files import AVERAGE_FILE, OPTIMIZER_FILE, WEIGHTS_FILE, not_finite
from mstat.weights.safe_load import load_state, reason
from shards.text import markup
from shards.workers import available_cpus

M = TypeVar("M", bound=nn.Module)
START_UP = timedelta(minutes=5)  # ranks start at different times; a cold start of torch took 40 s


class Engine:
    """One process of a run: its rank, its device, and the training of its module.

    The engine is a context manager. An error that leaves the context is reported to the other ranks. If a collective
    failed because of another rank, a LostRankError that names this rank is raised instead.

    Args:
        start_up: Minimum time that ranks wait for each other at the start; `train.timeout_minutes` may be longer.
        also: Facts that must be equal on every rank besides `agreement.common_facts`; None compares nothing.

    Raises:
        UserError: If the ranks were started differently, or the launcher requests something unsupported.
    """

    def __init__(
        self, config: Config, start_up: timedelta = START_UP, also: Mapping[str, Any] | None = MappingProxyType({})
    ) -> None:
        for note in check_launcher(config, dist.is_initialized()):
            if os.environ.get("RANK", "0") == "0":
                console().print(f"[yellow]{markup(note)}[/]", highlight=False, soft_wrap=True)
        on_cpu = not torch.cuda.is_available()
        self.is_deepspeed = is_on("ACCELERATE_USE_DEEPSPEED")
        plugin, stage = None, 0
        if self.is_deepspeed:
            if on_cpu:
                deepspeed.use_cpu()
            stage = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))
            # The launcher lists the fields of its YAML; Accelerate refuses them together with a whole configuration.
            os.environ.pop("ACCELERATE_CONFIG_DS_FIELDS", None)
            warnings.filterwarnings("ignore", "`torch.distributed.", FutureWarning)  # DeepSpeed calls it
            plugin = DeepSpeedPlugin(hf_ds_config=deepspeed.configuration(stage, config))
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        # A named backend makes Accelerate expect a process group; without one, DeepSpeed on CPUs sees one process.
        backend = None if launched == 1 else "gloo" if on_cpu else "nccl"
        self.timeout = timedelta(minutes=config.train.timeout_minutes)
        attempt = None
        if backend is not None and not dist.is_initialized():
            attempt = join(backend, max(self.timeout, start_up), {} if also is None else common_facts(config, also))
        self.accelerator = Accelerator(
            cpu=on_cpu and not self.is_deepspeed,  # DS_ACCELERATOR selects CPUs for DeepSpeed; `cpu` would select DDP
            # DeepSpeed's precision is in its torch_autocast section.
            mixed_precision="no" if self.is_deepspeed else config.train.precision,
            deepspeed_plugin=plugin,
            kwargs_handlers=[
                InitProcessGroupKwargs(backend=backend, timeout=max(self.timeout, start_up)),
                # Buffers are equal on all ranks by construction: BNNeck sees the gathered batch.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
        if on_cpu:
            # `accelerate launch` sets one thread per process.
            torch.set_num_threads(max(1, available_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        if launched != self.accelerator.num_processes:
            raise UserError(
                f"{launched} processes were launched, but Accelerate sees {self.accelerator.num_processes}: launch "
                "with --multi_gpu or --use_deepspeed (also on CPUs), as configs/accelerate/ddp.yaml does"
            )
        if self.accelerator.device.type not in ("cpu", "cuda"):
            raise UserError(
                f"the launcher selects {self.accelerator.device.type}, but mstat runs on CUDA GPUs and on CPUs"
            )
        self.config = config
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        # Each kind stores weights and optimiser state differently, so a resume needs the same kind.
        self.kind = f"zero{stage}" if self.is_deepspeed else "ddp"
        # Groups for objects, on CPUs, so that no collective waits for a GPU. The threads that write checkpoints have
        # their own, because all ranks must call the collectives of a group in the same order.
        self.control = dist.new_group(backend="gloo") if self.world_size > 1 else None
        self.writers = dist.new_group(backend="gloo") if self.world_size > 1 else None
        # If rank 0 hosts the store, the store dies with it, so failures cannot be diagnosed: skip the detector.
        self.roll_call = RollCall(self.rank, self.world_size, attempt) if attempt and launcher_keeps_store() else None
        set_timeouts(self.timeout)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.accelerator.end_training()
        elif (explained := self.explain(error)) is not error:
            raise explained from None

    def place(self, model: M) -> M:
        """Move a module to the device, in place, with the kernels that are fastest there; return it."""
        if self.device.type == "cpu":
            use_cpu_kernels(model)
        return model.to(self.device)

    def prepare(self, task: nn.Module) -> None:
        """Prepare a module for training: place weights, average gradients over ranks, make the optimiser."""
        self.accelerator.free_memory()  # of an earlier run in this process
        self.task = self.place(task)
        optimizer = make_optimizer(task, self.config.optim)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # Accelerate's name for it
            self.wrapped, self.optimizer = self.accelerator.prepare(task, optimizer)
        if self.is_deepspeed:
            clipping = self.wrapped.gradient_clipping()
            assert clipping == (self.config.optim.clip_grad_norm or 0.0), f"DeepSpeed clips gradients at {clipping}"
        set_timeouts(self.timeout)  # also for the groups that DeepSpeed has made
        self.settled = self.is_deepspeed or self.world_size == 1
        decay = self.config.train.ema
        self.average = None if decay is None else Average(task, decay)

    def losses(self, batch: dict[str, torch.Tensor], metric_weight: float) -> dict[str, torch.Tensor]:
        """Return this rank's share of the losses of a batch, computed in the run's precision.

        The shares of all ranks add up to the losses. The module moves the batch to the device, in chunks if it likes.
        """
        inputs: dict[str, Any] = {**batch, "metric_weight": metric_weight}
        if not self.settled:
            self._settle(inputs)
        return self.wrapped(**inputs)

    def _settle(self, inputs: dict[str, Any]) -> None:
        """Do one backward pass and discard it, because DDP reorders its buckets after the first one of a process.

        With three or more ranks, the order of summation depends on the position in a bucket. Without this pass, the
        first step after a restart would differ in the last bits from the same step of an uninterrupted run.
        """
        buffers = [buffer.clone() for buffer in self.task.buffers()]  # BNNeck's statistics
        self.wrapped(**inputs)["loss"].backward()
        self.optimizer.zero_grad()
        for buffer, before in zip(self.task.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.settled = True

    def update(self, loss: torch.Tensor, lr: float, *, heads_only: bool = False) -> torch.Tensor:
        """Do the backward pass and one optimiser step at rate `lr`; return the gradient's norm before clipping.

        DDP and DeepSpeed average gradients over ranks, but the loss is the sum of the ranks' shares: so a rank's share
        is multiplied by their number. This is the one place with such a factor.

        Args:
            loss: This rank's share of the loss.
            heads_only: Move the weights of the heads alone (`optim.freeze_steps`).
        """
        set_rates(self.optimizer.param_groups, lr, heads_only=heads_only)
        loss = self.world_size * loss
        if self.is_deepspeed:
            # accelerator.backward would also step; DeepSpeed's engine has separate calls.
            self.wrapped.backward(loss)
            gradients = [p.grad for p in self.task.parameters() if p.grad is not None]
            # ZeRO-0's engine computes no norm.
            norm = torch.nn.utils.get_total_norm(gradients) if self.kind == "zero0" else None
            self.wrapped.step()
            return torch.as_tensor(self.wrapped.get_global_grad_norm()) if norm is None else norm
        loss.backward()  # accelerator.backward would divide by the environment's gradient accumulation
        limit = self.config.optim.clip_grad_norm
        if limit is None:
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.task.parameters() if p.grad is not None])
        else:
            norm = torch.nn.utils.clip_grad_norm_(self.task.parameters(), limit)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def update_average(self, step: int) -> None:
        """Add the weights after `step` to their average, with `train.ema`."""
        if self.average is not None:
            self.average.update(step)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the average in the place of the task's weights in this context, with `train.ema`. Every rank enters."""
        self._swap_average()
        try:
            yield
        finally:
            self._swap_average()

    def _swap_average(self) -> None:
        if self.average is not None:
            if self.kind == "zero3":
                deepspeed.release(self.wrapped)
            self.average.swap()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the run's precision, for a forward pass outside training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.train.precision == "bf16")

    def uncompiled(self) -> contextlib.AbstractContextManager[Any]:
        """Disable torch.compile in this context, so that scores do not depend on whether training was compiled."""
        # Only if needed: importing the compiler takes seconds.
        return torch.compiler.set_stance("force_eager") if self.config.train.compile else contextlib.nullcontext()

    # --- checkpoints -------------------------------------------------------------------------------------------

    def snapshot(self, folder: Path, copy: Callable[[Any], Any]) -> list[tuple[Path, Any]]:
        """Copy weights and optimiser state; return the files that this rank must write into `folder`, with content.

        Every rank calls it. `torch.save` writes the content.
        """
        files: list[tuple[Path, Any]] = []
        if self.is_deepspeed:
            with deepspeed.collecting(self.wrapped, copy) as files:
                self.wrapped.save_checkpoint(str(folder), tag="deepspeed", save_latest=False)
            # Also save the whole weights: DeepSpeed's files are split by rank, and are pickles, unsafe for others.
            files += self._whole(folder / WEIGHTS_FILE, copy)
        elif self.is_main:
            state = {"task": self.task.state_dict(), "optimizer": self.optimizer.state_dict()}
            files.append((folder / OPTIMIZER_FILE, copy(state)))
        if self.average is not None:
            with self.averaged():
                files += self._whole(folder / AVERAGE_FILE, copy)
        return files

    def _whole(self, file: Path, copy: Callable[[Any], Any]) -> list[tuple[Path, Any]]:
        """Return a file with a copy of the whole weights, on the main process."""
        whole = self.weights() if self.kind == "zero3" else copy(self.task.state_dict()) if self.is_main else None
        return [(file, {"task": whole})] if self.is_main else []

    def load(self, folder: Path) -> None:
        """Restore the state from the files of `snapshot`. DDP's file is read without running code.

        Raises:
            UserError: If the files do not have the content that `snapshot` returns.
        """
        if self.is_deepspeed:
            path, _ = self.wrapped.load_checkpoint(str(folder), tag="deepspeed")
            if path is None:
                raise UserError(f"{folder}: DeepSpeed finds no checkpoint in it")
            return
        file = folder / OPTIMIZER_FILE
        try:
            state = load_state(file)
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
        except Exception as error:  # damaged files raise any error; torch's message advises to run code from the file
            raise UserError(f"{file}: does not fit this run: {reason(file, error)}") from None

    def load_average(self, folder: Path | None) -> None:
        """Restore the average from the file of `snapshot`; None begins it at the task's weights.

        Raises:
            UserError: If the file does not have the content that `snapshot` returns.
        """
        if self.average is None:
            return
        if folder is None:
            self.average.restart()
            return
        file = folder / AVERAGE_FILE
        gathered = deepspeed.gathered(self.task) if self.kind == "zero3" else contextlib.nullcontext()
        try:
            state = load_state(file)
            with self.averaged(), gathered:
                self.task.load_state_dict(state["task"])
        except Exception as error:
            raise UserError(f"{file}: does not fit this run: {reason(file, error)}") from None

    def not_finite(self) -> list[str]:
        """Return the names of weights that are not finite; under ZeRO-3, only this rank's parts are checked."""
        parameters = {name: getattr(value, "ds_tensor", value) for name, value in self.task.named_parameters()}
        return not_finite({**parameters, **dict(self.task.named_buffers())})

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the task's whole weights on the main process. Every rank calls it: ZeRO-3 gathers them."""
        state = self.accelerator.get_state_dict(self.wrapped) if self.is_deepspeed else self.task.state_dict()
        return {name: tensor.detach().cpu() for name, tensor in (state or {}).items()}

    # --- communication -----------------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.accelerator.wait_for_everyone()

    def barrier_of_writers(self) -> None:
        """Wait for all ranks, in a thread that writes checkpoints; only one such thread may run at a time."""
        self.gather_from_writers(None)

    def gather_from_writers(self, value: Any) -> list[Any]:
        """Return every rank's value, in rank order, in a thread that writes checkpoints."""
        return self._gather(value, self.writers)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over ranks, in place."""
        if dist.is_initialized():
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            tensor.copy_(on_device)
        return tensor

    def from_main(self, value: Any) -> Any:
        """Return the main process's value on every rank."""
        return broadcast_object_list([value])[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's value, in rank order; for small objects."""
        return self._gather(value, self.control)

    def _gather(self, value: Any, group: dist.ProcessGroup | None) -> list[Any]:
        if group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=group)
        return values

    def stop_if_asked(self) -> None:
        """Stop all ranks if a signal asked one of them to. Every rank calls it at the same point of its work.

        Raises:
            StopRequested: On all ranks.
        """
        requested = torch.tensor(signals.asked())
        if self.control is not None:
            dist.all_reduce(requested, dist.ReduceOp.MAX, group=self.control)
        if requested:
            raise signals.StopRequested(signal.Signals(int(requested)).name)

    def explain(self, error: BaseException) -> BaseException:
        """Report an error to the other ranks and return it, or return an error that names the failed rank."""
        if self.roll_call is None or isinstance(error, LostRankError):
            return error
        if failed_collective(error):
            return LostRankError(self.roll_call.find())
        if isinstance(error, Exception):
            self.roll_call.leave_error(f"{type(error).__name__}: {error}")
        return error
