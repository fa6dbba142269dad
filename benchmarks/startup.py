"""How long a user waits: for a help, for the first step after a restart, for a checkpoint: `make bench-startup`.

Every command is started as a user starts it; of trainings, startup_launched.py is what is launched. Writes
benchmarks/startup_<hardware>_<date>.md. Needs 12 GB of memory, and as much of disk in $TMPDIR.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import PROJECT, Figure, conditions, save
from startup_launched import CLASSES, PARTS, ROUNDS

LAUNCHED = PROJECT / "benchmarks" / "startup_launched.py"
LAUNCH = [str(Path(sys.executable).with_name("accelerate")), "launch"]
CONFIG = PROJECT / "configs" / "synthetic.yaml"
KINDS = {"single": "one process", "ddp": "DDP, 2 processes", "zero2": "ZeRO-2, 2 processes"}
HELPS = {
    "launch/train.py": "< 1.5 s", "launch/pretrain.py": "", "launch/evaluate.py": "", "launch/robustness.py": "",
    "launch/reproduce.py": "", "launch/preflight.py": "", "launch/submit.py": "", "launch/report.py": "",
    "-m shards": "",
}  # fmt: skip


def seconds_of(*command: str) -> float:
    """Of the middle one of ROUNDS starts of Python, after one that compiles what is not compiled."""
    result = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=PROJECT)
        result.append(time.perf_counter() - began)
    return statistics.median(result[1:])


def launched(kind: str, *arguments: object) -> None:
    flags = ["--config_file", str(PROJECT / "configs" / "accelerate" / f"{kind}.yaml"), "--main_process_port", "0"]
    done = subprocess.run([*LAUNCH, *flags, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def start_parts(kind: str, shards: Path, folder: Path) -> list[list[float]]:
    """Seconds of each of PARTS, of ROUNDS starts of a run with one step behind it."""
    flags = ["--config", CONFIG, "--data.shards", shards, "--train.eval_every", "null", "--train.log_every", 1]
    launched(kind, PROJECT / "launch" / "train.py", *flags, "--run", folder / "first", "--train.steps", 1)
    result = []
    for number in range(ROUNDS):
        shutil.copytree(folder / "first", folder / str(number))
        stamps = folder / f"stamps-{number}"
        began = time.time()
        launched(kind, LAUNCHED, "stamps", stamps, *flags, "--run", folder / str(number), "--train.steps", 2)
        times = [began, *json.loads(stamps.read_text())]
        result.append([after - before for before, after in itertools.pairwise(times)])
        assert len(result[-1]) == len(PARTS), result
    return result


def large_checkpoint(kind: str, folder: Path) -> dict[str, Any]:
    launched(kind, LAUNCHED, "checkpoint", folder / "seconds.json")
    return dict(json.loads((folder / "seconds.json").read_text()))


def main() -> None:
    nothing, package = seconds_of("-c", "pass"), seconds_of("-c", "import shards")
    helps = {command: seconds_of(*command.split(), "--help") for command in HELPS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-m", "shards", "build", "synthetic", "--out", str(folder / "shards")]
        subprocess.run(build, check=True, cwd=PROJECT)
        starts = {}
        for kind in KINDS:
            (folder / kind).mkdir()
            starts[kind] = start_parts(kind, folder / "shards", folder / kind)
            print(f"{kind}: first step after {', '.join(f'{sum(one):.1f}' for one in starts[kind])} s", flush=True)
        saves = {}
        for kind in ("single", "zero2"):
            (folder / f"large-{kind}").mkdir()
            saves[kind] = large_checkpoint(kind, folder / f"large-{kind}")
            shutil.rmtree(folder / f"large-{kind}")
    middle = {kind: sorted(result, key=sum)[len(result) // 2] for kind, result in starts.items()}
    figures = [
        Figure("`import shards`", f"{package:.2f} s", wanted="< 0.3 s", limit=f"Python alone: {nothing:.2f} s"),
        *(
            Figure(
                f"`{command} --help`", f"{result:.2f} s", wanted=HELPS[command], limit=f"Python alone: {nothing:.2f} s"
            )
            for command, result in helps.items()
            if HELPS[command]
        ),
        *(
            Figure(f"first step of a resumed run, {KINDS[kind]}", f"{sum(parts):.1f} s", wanted="< 20 s")
            for kind, parts in middle.items()
        ),
        *(of_save(kind, result) for kind, result in saves.items()),
    ]
    text = record(conditions("bench-startup"), nothing, package, helps, middle, saves)
    save("startup", text, figures)


def of_save(kind: str, result: dict[str, Any]) -> Figure:
    blocked, before, copy = (statistics.median(result[name][-ROUNDS:]) for name in ("blocked", "torch", "copy"))
    return Figure(
        f"training waits for a checkpoint of {result['bytes'] / 1e9:.2f} GB, {KINDS[kind]}",
        f"{blocked:.2f} s",
        rival="saved at once (torch, DeepSpeed)",
        theirs=f"{before:.2f} s",
        ratio=before / blocked,
        wanted="< 2 s",
        limit=f"a copy of the bytes: {copy:.2f} s",
        share=copy / blocked,
    )


def record(
    message: str,
    nothing: float,
    package: float,
    helps: dict[str, float],
    middle: dict[str, list[float]],
    saves: dict[str, dict[str, Any]],
) -> str:
    """The record as Markdown."""
    lines = [
        "# Start and end",
        "",
        message,
        "",
        f"Each figure is the middle one of {ROUNDS}. Files were in the page cache and bytecode was compiled.",
        "",
        "## A help, an import",
        "",
        "| command | s |",
        "|---|---|",
        f'| `python -c "pass"` | {nothing:.2f} |',
        f'| `python -c "import shards"` | {package:.2f} |',
        *(f"| `python {command} --help` | {result:.2f} |" for command, result in helps.items()),
        "",
        "## From the command to the first step of a run that goes on",
        "",
        "`accelerate launch launch/train.py` on `configs/synthetic.yaml`, in seconds of rank 0.",
        "",
        f"| | {' | '.join(PARTS)} | **sum** |",
        "|---" * (len(PARTS) + 2) + "|",
        *(
            f"| {KINDS[kind]} | {' | '.join(f'{part:.1f}' for part in parts)} | **{sum(parts):.1f}** |"
            for kind, parts in middle.items()
        ),
        "",
        "- *Launcher*: until the first line of ours runs; `accelerate` imports torch and all of its own commands.",
        "- *Optimiser*: most of it is torch's compiler, which torch imports for the first optimiser that is made,",
        "  compiled or not; DeepSpeed imports the rest of it, for an optimiser that is not used here.",
        "- *First batch*: what is left to wait for of the workers' fork server, which starts before the model is made.",
        "",
        "## A checkpoint of the paper's size",
        "",
        f"178 M weights and their momentum ({CLASSES} classes, SGD). *Saved at once* is what torch or DeepSpeed do",
        "when called, and fsync. *Training waits* is what a step waits for `checkpoint.Writer.save`; at the first one",
        "the memory of the copy is new. *Whole* is when the checkpoint has its name.",
        "",
        "| | GB | saved at once, s | **training waits, s** | first, s | a copy of the bytes, s | whole after, s "
        "| plain write and fsync, s | short calls of torch meanwhile, of their speed alone | longest of them, ms |",
        "|---" * 10 + "|",
    ]
    for kind, result in saves.items():
        middles = {
            name: statistics.median(result[name][-ROUNDS:]) for name in ("torch", "blocked", "whole", "copy", "disk")
        }
        alone, beside = (statistics.median(result[name]) for name in ("alone", "beside"))
        lines.append(
            f"| {KINDS[kind]} | {result['bytes'] / 1e9:.2f} | {middles['torch']:.2f} | **{middles['blocked']:.2f}** | "
            f"{result['blocked'][0]:.2f} | {middles['copy']:.2f} | {middles['whole']:.2f} | {middles['disk']:.2f} | "
            f"{alone / beside:.0%} | {1000 * max(result['beside']):.0f} |"
        )
    lines += [
        "",
        "The copy's memory is kept between saves: as much again as weights and optimiser state of a rank take (of rank",
        "0 under DDP). On GPUs it is pinned; that has not been measured.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
