"""Measures how much a training slows when other programs run on its cores: `make bench-under-load`.

Contenders are processes with different settings of OpenMP, all alive at once. They take turns in short rounds, so that
what else the machine does meets all alike; in each round they do steps of the small synthetic training for some
seconds. The load is busy loops beside them. Writes benchmarks/under-load_<hardware>_<date>.md.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

from record import PROJECT, conditions, save

# The first is what a process has that sets nothing.
CONTENDERS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOADS = {"quiet": (0, 0), "1 at nice 19": (1, 19), "1": (1, 0), "12": (12, 0)}  # busy loops, their niceness
CONFIG = PROJECT / "configs" / "synthetic.yaml"


def train() -> None:
    """A contender: for each number of seconds that is read, do steps for so long, and print steps a second."""
    import torch

    from mstat.config.cli import load_config
    from mstat.training.task import Task

    config = load_config(CONFIG)
    torch.manual_seed(0)
    task = Task(config, 100)
    optimizer = torch.optim.AdamW(task.parameters(), fused=True)
    clips = config.batch.num_identities * config.batch.num_tracklets
    size = (clips, config.clip.num_frames, *config.model.image_size, 3)
    frames_BTHWC = torch.randint(0, 256, size, dtype=torch.uint8)
    labels_n = torch.arange(config.batch.num_identities).repeat_interleave(config.batch.num_tracklets)

    def step() -> None:
        task(frames_BTHWC, None, None, labels_n, 1.0)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

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
    """So many busy loops beside what is measured."""
    command = ["nice", "-n", str(niceness), sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command) for _ in range(number)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(contenders: Mapping[str, dict[str, str]], rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Load -> contender -> median steps a second."""
    command = [sys.executable, __file__, "--contender"]
    processes = {
        name: subprocess.Popen(
            command, env={**os.environ, **settings}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name, settings in contenders.items()
    }

    def ask(name: str) -> float:
        process = processes[name]
        assert process.stdin is not None
        assert process.stdout is not None
        print(seconds, file=process.stdin, flush=True)
        return float(process.stdout.readline())

    for process in processes.values():
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    measured = {}
    for load, (number, niceness) in LOADS.items():
        with busy(number, niceness):
            times = [{name: ask(name) for name in processes} for _ in range(rounds)]
        measured[load] = {name: statistics.median(of_round[name] for of_round in times) for name in processes}
        print(load, {name: round(rate, 2) for name, rate in measured[load].items()}, flush=True)
    for process in processes.values():
        process.communicate()
    return measured


def table(measured: Mapping[str, Mapping[str, float]]) -> str:
    """Steps a second as Markdown, a row a load, with the ratio to the first contender."""
    names = list(next(iter(measured.values())))
    lines = [f"| busy loops beside it | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for load, rates in measured.items():
        cells = [f"{rates[name]:.2f} ({rates[name] / rates[names[0]]:.2f})" for name in names]
        lines.append(f"| {load} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--contender", action="store_true", help="be one of those that are measured")
    options = parser.parse_args()
    if options.contender:
        train()
        return
    load = os.getloadavg()[0]
    measured = measure(CONTENDERS, options.rounds, options.seconds)
    text = (
        f"# A training beside other programs\n\n{conditions('bench-under-load')}\n"
        f"Load average at its start: {load:.1f}.\n\n"
        f"Steps a second of the small synthetic training, the median of {options.rounds} rounds of "
        f"{options.seconds:g} s, and times the first column in brackets.\n\n{table(measured)}\n"
    )
    save("under-load", text)


if __name__ == "__main__":
    main()
