"""Operation counts of the paper's training step and evaluation: a check for slower steps that needs no clock.

`python -m benchmarks.counts` traces them (benchmarks/tracing.py) and lists counts outside the tolerance of
benchmarks/counts.json. The tolerances allow for all versions of torch in pyproject.toml. `--write` accepts the new
counts; give the reason in the commit.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.tracing import Trace, evaluation, training_step
from mstat.config import Config, changed

FILE = Path(__file__).with_suffix(".json")
TOLERANCES = {"FLOP": 0.001, "bytes": 0.02, "kernels": 0.05}  # by a count's first word
Counts = dict[str, dict[str, int]]


def counts(trace: Trace) -> dict[str, int]:
    return {
        **{f"FLOP, {phase}": count for phase, count in trace.flops.items() if count},
        "bytes at the peak": trace.peak,
        "bytes read and written": trace.traffic,
        "kernels": sum(trace.ops.values()),
    }


def count_all() -> Counts:
    """Count the paper's configuration with MARS's 625 identities."""
    recomputing = changed(Config(), {"train.activation_checkpointing": True})
    chunks = changed(Config(), {"batch.chunk_size": 12})
    return {
        "training step": counts(training_step(Config())),
        "training step, activation checkpointing": counts(training_step(recomputing)),
        "training step, chunks of 12 clips": counts(training_step(chunks)),
        "evaluation of 8 tracklets, 32 frames": counts(evaluation(Config())),
    }


def differences(expected: Counts, result: Counts) -> list[str]:
    """Return a line for each count that is not within its tolerance."""
    lines = []
    for trace, of_trace in expected.items():
        for name, old in of_trace.items():
            new = result[trace].get(name, 0)
            if abs(new / old - 1) > TOLERANCES[name.replace(",", "").split()[0]]:
                lines.append(f"{trace}: {name}: {old:,} -> {new:,} ({new / old - 1:+.1%})")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="accept the new counts as expected")
    options = parser.parse_args()
    result = count_all()
    if options.write:
        FILE.write_text(json.dumps(result, indent=2) + "\n")
        print(f"written to {FILE}")
        return 0
    lines = differences(json.loads(FILE.read_text()), result)
    if lines:
        print(
            *lines,
            "If this is intended, run python -m benchmarks.counts --write, and give the reason in the commit",
            sep="\n",
        )
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
