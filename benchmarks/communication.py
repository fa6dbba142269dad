"""What crosses ranks in a training step, and how long that takes, on 1, 2, 4 CPU processes: `make bench-communication`.

Real training steps of mstat.distributed.engine on drawn frames, started by `accelerate launch`. First undisturbed ones
are timed; then every collective is made to stand alone, behind a barrier that keeps waiting for other ranks apart from
moving data; then the bytes of each are counted at the loopback interface, in a network namespace of their own where the
system allows one. Writes benchmarks/communication_<hardware>_<date>.md.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from record import PROJECT, conditions, save

import mstat.training.task
from mstat.config import BatchConfig, ClipConfig, Config, ModelConfig, changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.distributed.gather import gather, slice_bounds
from mstat.model.randomness import draw_noise
from mstat.training.task import Task

RANKS = (1, 2, 4)
STEPS = {"synthetic": 15, "paper": 3}
CLASSES = {"synthetic": 96, "paper": 625}
# In the order of a step. What has bytes is a collective.
BACKBONE, HEADS, BACKWARD = "backbone forward", "heads and losses, both ways", "backbone backward and update"
WAITING = "waiting for other ranks"
GATHER, GATHER_BACKWARD, GRADIENTS, STOP = "gather forward", "gather backward", "gradient reduction", "stop flag"
PARTS = (BACKBONE, HEADS, BACKWARD, WAITING, GATHER, GATHER_BACKWARD, GRADIENTS, STOP)
COLLECTIVES = (GATHER, GATHER_BACKWARD, GRADIENTS, STOP)


def settings(name: str) -> Config:
    """`synthetic`: configs/synthetic.yaml. `paper`: MSTAT's widths and depths on clips small enough for a CPU."""
    if name == "synthetic":
        return load_config(PROJECT / "configs" / "synthetic.yaml")
    config = Config(model=ModelConfig(image_size=(64, 32)), batch=BatchConfig(12, 2), clip=ClipConfig(num_frames=2))
    return changed(config, {"train.precision": "no"})


class Meter:
    """Seconds of each part of a step, and sent bytes of all steps; `begin` and `end` stand around a collective."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.sent = 0

    def start(self, counting: bool) -> None:
        """A new step, in which bytes are counted too: that costs time."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counting = counting
        self.part, self.last = BACKBONE, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now

    def begin(self) -> None:
        self.lap(self.part)
        if dist.is_initialized():
            dist.barrier()
            if self.counting:
                self.sent = sent_bytes()
                dist.barrier()  # none may send before it is read
        self.lap(WAITING)

    def end(self, name: str, part: str) -> None:
        """`part` is what comes after the collective."""
        self.lap(name)
        if self.counting and dist.is_initialized():
            dist.barrier()
            self.bytes[name] += sent_bytes() - self.sent
        self.part = part

    def gather(self, local_BD: torch.Tensor, total: int) -> torch.Tensor:
        """mstat.distributed.gather.gather, with a hook on either side of its backward."""
        local_BD.register_hook(lambda _: self.end(GATHER_BACKWARD, BACKWARD))
        self.begin()
        features_nD = gather(local_BD, total)
        self.end(GATHER, HEADS)
        # On a view: with one rank the gather gives its input, and the order of hooks on one tensor is not ours.
        features_nD = features_nD.view_as(features_nD)
        features_nD.register_hook(lambda _: self.begin())
        return features_nD

    def reduce(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """DDP's reduction of a bucket, one at a time: a communication hook."""
        part = self.part
        self.begin()
        gradients = bucket.buffer().div_(dist.get_world_size())
        dist.all_reduce(gradients)
        self.end(GRADIENTS, part)
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(gradients)
        return future


def sent_bytes() -> int:
    """Bytes that all processes of this network namespace have sent over loopback."""
    (line,) = (text for text in Path("/proc/net/dev").read_text().splitlines() if text.strip().startswith("lo:"))
    return int(line.split()[9])


def worker(name: str, out: Path) -> None:
    """One rank: measure, and write what rank 0 knows of all."""
    config = settings(name)
    engine = Engine(config)
    torch.set_num_threads(1)  # the same on any number of ranks
    torch.manual_seed(0)
    task = Task(config, CLASSES[name])
    num_weights = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    engine.prepare(task)
    batch = drawn_batch(config, engine)

    def step() -> None:
        losses = engine.losses(batch, 1.0)
        engine.update(losses["loss"], 1e-5)
        engine.stop_if_asked()

    for _ in range(2):  # DDP rearranges its buckets after the first
        step()
    engine.barrier()
    sent = sent_bytes()
    engine.barrier()
    seconds = [timed(step) for _ in range(STEPS[name])]
    engine.barrier()
    result: dict[str, Any] = {
        "step": statistics.median(seconds),
        "sent": (sent_bytes() - sent) / len(seconds) / engine.world_size,
    }
    if not engine.is_deepspeed:
        result |= in_parts(engine, batch, STEPS[name])
    result |= {"weights": num_weights, "dims": sum(task.dims), "clips": len(batch["labels_n"])}
    if engine.is_main:
        out.write_text(json.dumps(result))
    engine.barrier()


def timed(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def in_parts(engine: Engine, batch: dict[str, torch.Tensor], count: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of each part of a step on a rank: medians over the steps, then means over the ranks."""
    meter = Meter()
    mstat.training.task.gather = meter.gather
    if engine.world_size > 1:
        engine.wrapped.register_comm_hook(None, lambda _, bucket: meter.reduce(bucket))
    seconds = []
    for number in range(2 * count):
        meter.start(counting=number >= count)
        losses = engine.losses(batch, 1.0)
        engine.update(losses["loss"], 1e-5)
        meter.begin()
        engine.stop_if_asked()
        meter.end(STOP, BACKBONE)
        if not meter.counting:
            seconds.append(meter.seconds)
    own = {part: statistics.median(one[part] for one in seconds) for part in PARTS}
    every = engine.gather_objects(own)
    return {
        "seconds": {part: statistics.mean(one[part] for one in every) for part in PARTS},
        "bytes": {part: meter.bytes[part] / count / engine.world_size for part in COLLECTIVES},
    }


def drawn_batch(config: Config, engine: Engine) -> dict[str, torch.Tensor]:
    """This rank's part of a batch of noise: what it shows changes nothing of what it costs."""
    labels_n = torch.arange(config.batch.num_identities).repeat_interleave(config.batch.num_tracklets)
    start, stop = slice_bounds(len(labels_n), engine.world_size, engine.rank)
    shape = (stop - start, config.clip.num_frames, *config.model.image_size, 3)
    noise = [draw_noise(np.random.default_rng(i), config.model, config.clip.num_frames) for i in range(start, stop)]
    tps, keep = (torch.from_numpy(np.stack(parts)) for parts in zip(*noise, strict=True))
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    return {"frames_BTHWC": frames, "tps_BTN": tps, "keep_BR": keep, "labels_n": labels_n}


def measure(name: str, ranks: int, kind: str = "ddp") -> dict[str, Any]:
    """Start the ranks and read what they found."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        config = f"configs/accelerate/{'single' if ranks == 1 else kind}.yaml"
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
        launch += ["--num_processes", str(ranks), "--main_process_port", "0"] if ranks > 1 else []
        command = [*namespace(), *launch, str(Path(__file__)), "--worker", name, str(out)]
        print(f"{name}, {kind}, {ranks} ranks", file=sys.stderr, flush=True)
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(command, check=True, cwd=PROJECT, env=environment, stdout=sys.stderr)
        return json.loads(out.read_text())


def namespace() -> list[str]:
    """Words before a command that give it a loopback interface of its own; none where the system refuses."""
    words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    return words if subprocess.run([*words, "true"], capture_output=True).returncode == 0 else []


def ring(ranks: int, clips: int, dims: int, weights: int) -> dict[str, float]:
    """Bytes that a rank sends in a step by ring collectives in fp32, by collective."""
    share = (ranks - 1) / ranks
    longest = -(-clips // ranks)
    return {
        GATHER: 4 * (ranks - 1) * longest * dims,
        GATHER_BACKWARD: 4 * 2 * share * clips * dims,
        GRADIENTS: 4 * 2 * share * weights,
        STOP: 8 * 2 * share,
    }


def amount(count: float) -> str:
    return f"{count / 1e6:,.2f} MB" if count >= 1e4 else f"{count:,.0f} B"


def time_table(result: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    """Milliseconds and share of the step of each part."""
    lines = ["| a step | " + " | ".join(f"{name}, {ranks}" for name, ranks in result) + " |"]
    lines.append("|---|" + "---:|" * len(result))
    for part in PARTS:
        cells = []
        for one in result.values():
            seconds = one["seconds"][part]
            cells.append(f"{1e3 * seconds:,.1f} ms ({seconds / sum(one['seconds'].values()):.1%})")
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    whole = [f"{1e3 * sum(one['seconds'].values()):,.1f} ms" for one in result.values()]
    lines.append("| **whole step, collectives one by one** | " + " | ".join(whole) + " |")
    lines.append(
        "| **whole step, undisturbed** | "
        + " | ".join(f"{1e3 * one['step']:,.1f} ms" for one in result.values())
        + " |"
    )
    return lines


def byte_table(result: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    """Bytes of each collective by the ring's formula, and as counted."""
    several = {key: one for key, one in result.items() if key[1] > 1}
    lines = ["| sent by a rank in a step | " + " | ".join(f"{name}, {ranks}" for name, ranks in several) + " |"]
    lines.append("|---|" + "---:|" * len(several))
    formulas = {key: ring(key[1], one["clips"], one["dims"], one["weights"]) for key, one in several.items()}
    for part in COLLECTIVES:
        cells = [f"{amount(formulas[key][part])} / {amount(one['bytes'][part])}" for key, one in several.items()]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    cells = [f"{amount(sum(formulas[key].values()))} / {amount(one['sent'])}" for key, one in several.items()]
    return [*lines, "| **whole step, undisturbed** | " + " | ".join(cells) + " |"]


def zero_table(result: dict[tuple[str, int], dict[str, Any]], zero: dict[tuple[str, int], dict[str, Any]]) -> list[str]:
    """Bytes of gradients and weights by kind of run: formula, and as counted less the gather."""
    lines = ["| | formula, times the weights | " + " | ".join(f"synthetic, {r}" for r in RANKS[1:])]
    lines[0] += " | " + " | ".join(f"paper, {r} (formula)" for r in RANKS[1:]) + " |"
    lines.append("|---|---|" + "---:|" * 2 * len(RANKS[1:]))
    kinds = {"ddp": ("DDP", 2), "zero2": ("ZeRO-2", 2), "zero3": ("ZeRO-3", 3)}
    for kind, (title, factor) in kinds.items():
        cells = [title, f"{factor} (R-1)/R"]
        for name in ("synthetic", "paper"):
            for ranks in RANKS[1:]:
                one = result[name, ranks]
                formula = 4 * factor * (ranks - 1) / ranks * one["weights"]
                if name == "paper":
                    cells.append(amount(formula))
                    continue
                others = sum(one["bytes"][part] for part in (GATHER, GATHER_BACKWARD, STOP))
                sent = (one if kind == "ddp" else zero[kind, ranks])["sent"] - others
                cells.append(f"{amount(formula)} / {amount(sent)}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def meaning(result: dict[tuple[str, int], dict[str, Any]]) -> str:
    """The shares that the tables are for, in a sentence for each setting."""
    sentences = []
    for name in STEPS:
        one = result[name, RANKS[-1]]
        both, whole = one["bytes"][GATHER] + one["bytes"][GATHER_BACKWARD], sum(one["bytes"].values())
        seconds, step = one["seconds"], sum(one["seconds"].values())
        sentences.append(
            f"On {RANKS[-1]} ranks of {name}, the gather is {both / whole:.1%} of the bytes and "
            f"{(seconds[GATHER] + seconds[GATHER_BACKWARD]) / step:.1%} of the time, the reduction of gradients "
            f"{one['bytes'][GRADIENTS] / whole:.1%} and {seconds[GRADIENTS] / step:.1%}."
        )
    return " ".join([*sentences, "What this says of GPUs, and what it does not: docs/scaling.md."])


def record(result: dict[tuple[str, int], dict[str, Any]], zero: dict[tuple[str, int], dict[str, Any]]) -> str:
    """The record as Markdown."""
    facts = {name: result[name, 1] for name in STEPS}
    sizes = {
        name: f"{one['clips']} clips a step, {one['dims']:,} floats a clip, {one['weights']:,} trained weights"
        for name, one in facts.items()
    }
    where = "of a network namespace of its own" if namespace() else "of this machine, with whatever else used it"
    return "\n".join(
        [
            "# Communication of a training step on CPU processes",
            "",
            conditions("bench-communication"),
            "",
            f"- **synthetic**: configs/synthetic.yaml; {sizes['synthetic']}.",
            f"- **paper**: MSTAT's widths, depths and 625 classes, so its bytes, on 2 frames of 64 × 32 pixels instead "
            f"of 8 of 224 × 112, so 1/49 of its tokens; {sizes['paper']}.",
            "",
            "Plain DDP in fp32 over gloo, all ranks on this machine; loading of data left out. One thread a "
            "rank; more ranks than cores take turns, so read the shares, not the speed-up.",
            "",
            "## Time",
            "",
            "Each collective stands alone behind a barrier; what the barrier takes is waiting. Medians over "
            f"{STEPS['synthetic']} and {STEPS['paper']} steps, means over ranks; in brackets the share of the step. "
            "The last row is the step as it is trained, where DDP reduces gradients during the backward pass.",
            "",
            *time_table(result),
            "",
            "## Bytes",
            "",
            f"By the formula of ring collectives / as counted by the loopback interface {where}, headers of "
            "TCP and IP and barriers included.",
            "",
            *byte_table(result),
            "",
            "## Bytes of gradients and weights with ZeRO",
            "",
            "Sent by a rank in a step, by formula / as counted: the whole step less the gather and the stop flag.",
            "",
            *zero_table(result, zero),
            "",
            "DeepSpeed's ZeRO-2 all-reduces each bucket of gradients and keeps its part of the result "
            "(`use_multi_rank_bucket_allreduce`, on by default), where ZeRO's paper has a reduce-scatter: 3 times the "
            "weights instead of 2.",
            "",
            "## What it means",
            "",
            meaning(result),
            "",
        ]
    )


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], Path(sys.argv[3]))
        return
    result = {(name, ranks): measure(name, ranks) for name in STEPS for ranks in RANKS}
    zero = {(kind, ranks): measure("synthetic", ranks, kind) for kind in ("zero2", "zero3") for ranks in RANKS[1:]}
    save("communication", record(result, zero))


if __name__ == "__main__":
    main()
