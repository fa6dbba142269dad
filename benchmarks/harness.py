"""The harness of all benchmarks: timing of calls in turn, new processes, and records with their conditions.

`make bench-NAME` runs a module of this folder. It prints its record, writes it to
benchmarks/<name>_<hardware>_<date>.md, and leaves its figures in benchmarks/.figures/ for table.py.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from mstat import provenance

PROJECT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MSTAT_SHARED") or PROJECT.parent / "shared")  # the real video, MARS's metadata
FIGURES = PROJECT / "benchmarks" / ".figures"
MARS_IDENTITIES = 625  # classes of a training on MARS


class Figure(NamedTuple):
    """A row of the table of `make bench`.

    Attributes:
        what: Measured quantity and its conditions.
        ours, theirs: Both values, with their units.
        rival: Name of the rival, which `theirs` belongs to.
        ratio: Our improvement over the rival; below 1, the rival is better.
        wanted: Goal of the project, as a ratio or an amount.
        limit: Limit of the machine, measured or counted in the same run.
        share: Share of the limit that is reached, 0 to 1.
    """

    what: str
    ours: str
    rival: str = ""
    theirs: str = ""
    ratio: float | None = None
    wanted: str = ""
    limit: str = ""
    share: float | None = None


# --- time ---------------------------------------------------------------------------------------------------------


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    warm_up: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; every call runs once in a round.

    Args:
        warm_up: Earlier rounds, which do not count.
        before: Function to call before each call, outside the measured time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, rounds):
        for name, call in calls.items():
            before()
            began = clock()
            call()
            if number >= 0:
                seconds[name].append(clock() - began)
    return seconds


def medians(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(of_rounds) for name, of_rounds in values.items()}


def ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over rounds of the ratio of two calls: other load slows both calls of a round."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def load_file(package: str, pattern: str) -> ModuleType:
    """Load one file of an installed package without importing the package, which has many imports."""
    package_spec = importlib.util.find_spec(package)
    if package_spec is None or package_spec.submodule_search_locations is None:
        raise SystemExit(
            f"{package} is missing: use make bench-accuracy, bench-evaluation, bench-reranking or bench-shards"
        )
    (path,) = Path(package_spec.submodule_search_locations[0]).glob(pattern)
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = None  # type: ignore[assignment]  # its imports from the package fail, and are optional
    try:
        with warnings.catch_warnings(action="ignore"):
            spec.loader.exec_module(module)
    finally:
        del sys.modules[package]
    return module


# --- processes ----------------------------------------------------------------------------------------------------


def run(*command: object, **environment: str) -> None:
    """Run a command in the project's folder; its output goes to stderr."""
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    subprocess.run([str(word) for word in command], check=True, cwd=PROJECT, env=variables, stdout=sys.stderr)


def launch(kind: str, ranks: int | None = None) -> list[str]:
    """Return the words of `accelerate launch` for a file of configs/accelerate."""
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    words += ["--config_file", f"configs/accelerate/{kind}.yaml", "--main_process_port", "0"]
    return words if ranks is None else [*words, "--num_processes", str(ranks)]


def call_elsewhere(
    function: Callable[..., Any], *arguments: Any, launcher: Sequence[str] = (), **environment: str
) -> Any:
    """Call a function of a benchmark in a new process, or in each rank of a launch, and return rank 0's result.

    Arguments and result are JSON values.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        name = json.dumps([Path(function.__code__.co_filename).stem, function.__name__, arguments])
        python = launcher or [sys.executable]
        run(*python, "-m", "benchmarks.harness", name, out, **environment)
        return json.loads(out.read_text())


def _called(name: str, out: str) -> None:
    module, function, arguments = json.loads(name)
    result = getattr(importlib.import_module(f"benchmarks.{module}"), function)(*arguments)
    if os.environ.get("RANK", "0") == "0":
        Path(out).write_text(json.dumps(result))


def resident(key: str) -> int:
    """Return bytes of this process's memory: VmRSS, or VmHWM, the highest VmRSS since `forget_peak`."""
    return int(re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def run_main(main: Callable[[], int | None], description: str | None) -> None:
    """Run a module's `main`, whose command has no options but `--help`: the module's docstring."""
    argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sys.exit(main())


# --- the record ---------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; all columns but the first are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def commit() -> str:
    """Return the commit of this tree, with `-dirty` if files other than records differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/*.md")
    return git("rev-parse", "--short", "HEAD") + "-dirty" * bool(changed)


def conditions(target: str) -> str:
    """Return the sentence under a record's title: command, machine, date, commit, versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "accelerate", "numpy"))
    return f"`make {target}` on {provenance.hardware()}, {datetime.now(UTC):%Y-%m-%d}, commit {commit()}; {versions}."


def hardware() -> str:
    """Return the machine's name for a file name."""
    if torch.cuda.is_available():
        return "-".join([str(torch.cuda.device_count()), *torch.cuda.get_device_name().lower().split()])
    return f"{os.cpu_count()}-cpu-{platform.machine()}"


def save(name: str, title: str, *parts: str, figures: Sequence[Figure] = (), target: str | None = None) -> None:
    """Print a record and write it.

    Args:
        parts: Markdown.
        target: Make target, if it is not bench-NAME.
    """
    text = "\n\n".join([f"# {title}", conditions(target or f"bench-{name}"), *parts]) + "\n"
    path = PROJECT / "benchmarks" / f"{name}_{hardware()}_{datetime.now(UTC):%Y-%m-%d}.md"
    path.write_text(text)
    if figures:
        FIGURES.mkdir(exist_ok=True)
        (FIGURES / f"{name}.json").write_text(json.dumps([figure._asdict() for figure in figures], indent=2) + "\n")
    print(text)
    print(f"written to {path.relative_to(PROJECT)}")


if __name__ == "__main__":
    _called(*sys.argv[1:])
