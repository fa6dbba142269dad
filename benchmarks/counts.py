"""What the paper's training step and evaluation cost in counts, which no clock can disturb: a guard for CI.

`python benchmarks/counts.py` traces them (benchmarks/tracing.py), compares with benchmarks/counts.json, and says what
has changed; exit status 1 if anything has. `--write` takes the new counts: say in the commit why they changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tracing import Trace, evaluation, kinds, training_step

from mstat.config import Config, changed

FILE = Path(__file__).with_suffix(".json")
REWRITE = "If that is meant, write them anew and say why in the commit: python benchmarks/counts.py --write"


def counts(trace: Trace) -> dict[str, Any]:
    """A trace as JSON values: operations that launch kernels, FLOP, and bytes."""
    return {
        "FLOP": {phase: count for phase, count in trace.flops.items() if count},
        "kernels": {"all": sum(trace.ops.values()), **kinds(trace.ops)},
        "kernels by operation": dict(sorted(trace.ops.items())),
        "bytes read and written": trace.traffic,
        "allocations": len(trace.allocations),
        "bytes allocated": sum(one.bytes for one in trace.allocations),
        "bytes at the peak": {"all": trace.peak, **dict(sorted(trace.held(trace.peak_at).items()))},
    }


def count_all() -> dict[str, Any]:
    """Counts of the paper's configuration with MARS's 625 identities, and the torch that they hold for."""
    recomputing = changed(Config(), {"train.activation_checkpointing": True})
    return {
        "torch": torch_version(),
        "training step": counts(training_step(Config())),
        "training step, activation checkpointing": counts(training_step(recomputing)),
        "evaluation of 8 tracklets, 32 frames": counts(evaluation(Config())),
    }


def torch_version() -> str:
    """Without what it was built for."""
    return torch.__version__.partition("+")[0]


def differences(expected: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """A line for each count that is another one, or is new, or is gone."""
    before, after = dict(_leaves(expected)), dict(_leaves(result))
    lines = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, 0), after.get(name, 0)
        if old != new:
            change = f" ({new / old - 1:+.1%})" if old and isinstance(old, int) else ""
            lines.append(f"{name}: {_shown(old)} -> {_shown(new)}{change}")
    return lines


def _leaves(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{name}: ")
        else:
            yield path + name, value


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="take the counts found as those that are expected")
    options = parser.parse_args()
    result = count_all()
    if options.write:
        FILE.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written to {FILE}")
        return 0
    changed = differences(json.loads(FILE.read_text()), result)
    if changed:
        print(f"Counts of the traced step are not those of {FILE.name}:", *changed, REWRITE, sep="\n")
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
