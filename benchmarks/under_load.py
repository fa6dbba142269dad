"""Slow-down of a training when other programs run on its cores: `make bench-under-load`.

Contenders are processes with different OpenMP settings. They take turns in short rounds, so that other work on the
machine affects all alike. In each round, they run steps of the small synthetic training for a few seconds, while busy
loops load the machine.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import torch

from benchmarks.harness import PROJECT, medians, run_main, save, table
from benchmarks.steps import prepare
from mstat.config.cli import load_config

# The first has default settings.
CONTENDERS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"quiet": (0, 0), "1 at nice 19": (1, 19), "1": (1, 0), "12": (12, 0)}  # busy loops, their niceness
ROUNDS, SECONDS = 5, 4.0


def contender() -> None:
    """Read numbers of seconds; run steps for each, and print steps per second."""
    config = load_config(PROJECT / "configs" / "synthetic.yaml")
    _, step = prepare(config, num_classes=100, threads=torch.get_num_threads())  # as the environment has it
    step()
    print("ready", flush=True)
    for line in sys.stdin:
        begin, number = time.perf_counter(), 0
        while time.perf_counter() - begin < float(line):
            step()
            number += 1
        print(number / (time.perf_counter() - begin), flush=True)


@contextlib.contextmanager
def busy(number: int, niceness: int) -> Iterator[None]:
    """Run busy loops in the background."""
    command = ["nice", "-n", str(niceness), sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(number)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def start(**settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.under_load", "contender"]
    environment = {**os.environ, **settings}
    process = subprocess.Popen(
        command, env=environment, cwd=PROJECT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def steps_per_second(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    print(SECONDS, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def main() -> None:
    average = os.getloadavg()[0]
    processes = {name: start(**settings) for name, settings in CONTENDERS.items()}
    rows = []
    for load, (number, niceness) in LOADS.items():
        with busy(number, niceness):
            rounds = [{name: steps_per_second(process) for name, process in processes.items()} for _ in range(ROUNDS)]
        rates = medians({name: [of_round[name] for of_round in rounds] for name in processes})
        rows.append([load, *(f"{rate:.2f} ({rate / rates['default']:.2f})" for rate in rates.values())])
        print(rows[-1], flush=True)
    for process in processes.values():
        process.communicate()
    save(
        "under-load",
        "A training beside other programs",
        f"Load average at its start: {average:.1f}. Steps a second of the small synthetic training, the median of "
        f"{ROUNDS} rounds of {SECONDS:g} s, and times the first column in brackets.",
        table(["busy loops beside it", *CONTENDERS], rows),
    )


if __name__ == "__main__":
    contender() if sys.argv[1:] == ["contender"] else run_main(main, __doc__)
