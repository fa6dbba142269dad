"""Spoil inputs of every kind, read them, and count what became of them: `make fuzz`.

    python -m tests.fuzz [--cases N] [--minutes M] [--seed S] [--only WORD] [--record]

Each case is made by (seed, kind, number) alone, so that one which failed can be made again: its line says how.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.cases import FAULTS, Outcome, Result, attempt
from tests.fuzz.targets import TARGETS, Target


def run_target(target: Target, seed: int, numbers: Iterator[int], deadline: float) -> Iterator[tuple[int, Result]]:
    """Each case's number and result, until the numbers or the time are at their end.

    Number -1 is the input as it was made: it must be read, else a refusal of a spoilt one would say nothing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        good, spoilt = Path(scratch) / "good", Path(scratch) / "spoilt"
        good.mkdir()
        target.make(good)
        shutil.copytree(good, spoilt)  # reading may write: a set that is there would refuse every later build
        yield -1, _control(target, spoilt)
        for number in numbers:
            if time.monotonic() > deadline:
                return
            shutil.rmtree(spoilt, ignore_errors=True)
            shutil.copytree(good, spoilt)
            target.spoil(spoilt, random.Random(f"{seed} {target.name} {number}"))
            yield number, attempt(lambda: target.read(spoilt), listed=target.listed)


def _control(target: Target, good: Path) -> Result:
    result = attempt(lambda: target.read(good), listed=target.listed)
    expected = Outcome.WRONG if "verified" in target.name else Outcome.READ  # `verify` finds no fault: its control
    return Result(Outcome.READ if result.outcome == expected else Outcome.WRONG, result.output)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=400, help="of each kind, at most (default 400)")
    parser.add_argument("--minutes", type=float, default=20.0, help="in all, at most (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name has this word")
    parser.add_argument("--number", type=int, help="one case alone, with its output")
    parser.add_argument("--record", action="store_true", help="write the counts to benchmarks/")
    options = parser.parse_args()
    import torch

    import shards.__main__  # noqa: F401 - imported once, before the children
    from benchmarks.harness import save, table

    torch.set_num_threads(1)
    chosen = [target for target in TARGETS if options.only in target.name]
    counts: dict[str, Counter[Outcome]] = {target.name: Counter() for target in chosen}
    start = time.monotonic()
    for place, target in enumerate(chosen, start=1):
        deadline = start + 60 * options.minutes * place / len(chosen)
        numbers = iter(range(options.cases) if options.number is None else [options.number])
        for number, result in run_target(target, options.seed, numbers, deadline):
            counts[target.name][result.outcome] += 1
            if result.outcome in FAULTS or options.number is not None:
                again = f"--seed {options.seed} --only '{target.name}' --number {number}"
                print(f"{result.outcome}: python -m tests.fuzz {again}")
                print("\n".join(result.output.splitlines()[-40 if options.number is not None else -3 :]))
        print(f"{target.name}: " + ", ".join(f"{counts[target.name][outcome]} {outcome}" for outcome in Outcome))
    every = {**counts, "**all**": sum(counts.values(), Counter())}
    rows = [[name, f"{count.total():,}", *(f"{count[one]:,}" for one in Outcome)] for name, count in every.items()]
    outcomes = table(["input", "cases", *Outcome], rows)
    print(outcomes)
    if options.record:
        save("fuzz", f"Mutated inputs, seed {options.seed}: what became of them", outcomes, target="fuzz")
    return int(any(count[outcome] for count in counts.values() for outcome in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
