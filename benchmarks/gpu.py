"""Profile of the training step on a GPU: `make bench-gpu` (training_step.py measures its time).

It lists the kernels of a step by time, checks that the loop never waits for the device, and measures peak memory and
the attention kernels for both lengths of sequences.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Figure, in_turn, run_main, save, table
from benchmarks.training_step import DEVICE, ON_GPU, Ours, finish, finished, paper

CLIPS = 24  # of the paper's batch
STEADY = 5  # steps that must not wait for the device
LARGE = 0.05  # share of a step above which a kernel must be explained
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Kernel(NamedTuple):
    """A kernel's name, share of the step's time on the device, and calls."""

    name: str
    share: float
    calls: int


def kernels(step: Callable[[], None]) -> list[Kernel]:
    """Return the kernels of one step, the longest first."""
    activity = ProfilerActivity.CUDA if ON_GPU else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        finished(step)()
    events = seen.key_averages()
    # On CPUs, operators are listed instead of kernels.
    spent = {event.key: event.self_device_time_total if ON_GPU else event.self_cpu_time_total for event in events}
    total = sum(spent.values())
    result = [Kernel(event.key, spent[event.key] / total, event.count) for event in events if spent[event.key]]
    return sorted(result, key=lambda kernel: -kernel.share)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an error for any call in which the CPU waits for the device."""
    if ON_GPU:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")


def by_matmul(q_FhSd: torch.Tensor, k_FhSd: torch.Tensor, v_FhSd: torch.Tensor) -> torch.Tensor:
    return (q_FhSd @ k_FhSd.mT * q_FhSd.shape[-1] ** -0.5).softmax(-1) @ v_FhSd


def by_sums(q_FhSd: torch.Tensor, k_FhSd: torch.Tensor, v_FhSd: torch.Tensor) -> torch.Tensor:
    """Compute attention without matrix products, which are slow for 8 tokens, so that it compiles to one kernel."""
    scores_FhSS = (q_FhSd[:, :, :, None] * k_FhSd[:, :, None]).sum(-1) * q_FhSd.shape[-1] ** -0.5
    return (scores_FhSS.softmax(-1)[..., None] * v_FhSd[:, :, None]).sum(-2)


def attention_calls() -> dict[str, Attend]:
    calls: dict[str, Attend] = {"as PyTorch chooses": F.scaled_dot_product_attention}
    for backend in BACKENDS if ON_GPU else ():

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, backend: SDPBackend = backend) -> torch.Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        calls[backend.name.lower()] = call
    calls["matrix products"] = by_matmul
    if ON_GPU:
        calls["matrix products, compiled"] = torch.compile(by_matmul)
        calls["sums, compiled"] = torch.compile(by_sums)
    return calls


def attention_rows(clips: int, num_frames: int, num_tokens: int, num_heads: int, width: int) -> list[list[str]]:
    """Return a row for each way of computing temporal and spatial attention, forward and backward."""
    rows = []
    lengths = {"temporal": (clips * (num_tokens - 1), num_frames), "spatial": (clips * num_frames, num_tokens)}
    for (what, (sequences, length)), (name, attend) in itertools.product(lengths.items(), attention_calls().items()):
        shape = (sequences, length, 3, num_heads, width // num_heads)
        qkv = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)

        def call(qkv: torch.Tensor = qkv, attend: Attend = attend) -> None:
            qkv.grad = None
            attend(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2).sum().backward()

        try:
            seconds = min(in_turn({name: finished(call)}, rounds=10, warm_up=1, before=finish)[name])
        except RuntimeError as error:
            rows.append([what, name, f"not here: {str(error).splitlines()[0]}", ""])
            continue
        # Bytes of q, k, v, the result, and their gradients.
        rows.append([what, name, f"{seconds * 1e3:.3f}", f"{qkv.nbytes * 8 / 3 / seconds / 1e9:,.0f}"])
    return rows


def peak(stance: str) -> str:
    """Return the most GiB that torch's allocator held in a step."""
    torch.cuda.reset_peak_memory_stats()
    ours = Ours(CLIPS, "bf16")
    with torch.compiler.set_stance(stance):
        ours.step()
        ours.step()
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"


def main() -> int:
    if not ON_GPU:
        print("make bench-gpu needs a CUDA device: there is none", file=sys.stderr)
        return 2
    config = paper()
    ours = Ours(CLIPS, "bf16")
    for _ in range(3):
        ours.step()
    with no_waiting():
        for _ in range(STEADY):
            ours.step()
    result = kernels(ours.step)
    del ours
    height, width = config.model.image_size
    num_tokens = height * width // config.model.patch_size**2 + 1
    sizes = (CLIPS, config.clip.num_frames, num_tokens, config.model.num_heads, config.model.width)
    largest = result[0]
    save(
        "gpu",
        "Kernels, waits, memory and attention on a GPU",
        f"The paper's model, {CLIPS} clips of {config.clip.num_frames} frames, bf16, compiled blocks. Kernels above "
        f"{LARGE:.0%} of a step are to be explained.",
        table(["kernel", "share", "calls"], [[f"`{k.name[:90]}`", f"{k.share:.1%}", k.calls] for k in result[:25]]),
        f"{STEADY} steps under `torch.cuda.set_sync_debug_mode('error')`: none waited for the device.",
        table(["a step", "peak, GiB"], [["plain", peak("force_eager")], ["compiled blocks", peak("default")]]),
        "Attention, forward and backward:",
        table(["sequence", "kernel", "ms", "GB/s of what must be moved"], attention_rows(*sizes)),
        figures=[Figure("largest kernel", largest.name[:40], wanted="≤ 5 % or explained", share=largest.share)],
    )
    return 0


if __name__ == "__main__":
    run_main(main, __doc__)
