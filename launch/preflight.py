"""Launch checks on every node, in seconds: replace `accelerate launch` by `python launch/preflight.py`.

    accelerate launch          --config_file FILE --machine_rank 1 ... launch/train.py --config configs/mars.yaml
    python launch/preflight.py --config_file FILE --machine_rank 1 ... launch/train.py --config configs/mars.yaml

For an installed mstat: `mstat preflight --config_file FILE --machine_rank 1 ... -m mstat train --config mars.yaml`.
The checks also accept launch/pretrain.py, evaluate.py, robustness.py and reproduce.py. They name the machines that are
missing, for which the launcher alone would wait for 15 minutes. Under the launcher itself, run
`accelerate launch ... launch/preflight.py [options] -- <flags of launch/train.py>`; then no missing machine is named.
Exit status: 0 all good, 1 a fault, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import SYNTHETIC_CONFIG, config_of_run, report_errors, run_of, run_parser
from mstat.config.cli import parse
from shards.terminal import print_line

if TYPE_CHECKING:
    from mstat.config import Config

SCRIPTS = ("train", "pretrain", "evaluate", "robustness", "reproduce")
SCORING = ("evaluate", "robustness")
MODULE = ("-m", "--module")  # flag of `accelerate launch`, before `mstat train`


def main(argv: Sequence[str], prog: str = "launch/preflight.py") -> int:
    options, launcher, settings = arguments(argv, prog)
    good = False

    def command() -> None:
        nonlocal good
        config = settings_of(options.script, settings)
        if launcher is not None:
            from mstat.preflight.launcher import launch

            program = [__file__] if __spec__ is None else ["-m", "mstat", "preflight"]  # as this process was started
            good = launch(program, options, launcher, settings)
            return
        from mstat.preflight.launcher import report

        report(None)
        from mstat.preflight.checks import check
        from mstat.preflight.table import Expectations

        clips = config.batch.num_identities * config.batch.num_tracklets if options.script not in SCORING else None
        hosts = tuple(filter(None, options.hosts.split(",")))
        expected = Expectations(options.expect_processes, hosts, options.min_bandwidth, clips)
        good = report(check(config, options.script, expected, options.timeout))

    status = report_errors(command) or int(not good)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # An orderly exit would wait for a collective that hangs in its thread, or abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def settings_of(script: str, words: Sequence[str]) -> Config:
    """Return the configuration that the script would read from its command line."""
    if script == "evaluate":
        from launch import evaluate

        scoring, overrides = evaluate.arguments(words)
        if len(scoring.shards) > 1 and os.environ.get("RANK", "0") == "0":
            note = f"the checks open {scoring.shards[0]} alone; launch/evaluate.py opens all data sets before it begins"
            print_line(f"data.shards: {note}", file=sys.stderr)
        of_set = ["--data.shards", scoring.shards[0]] if scoring.shards else []
        return config_of_run(run_of(scoring), [*overrides, *of_set])
    if script == "robustness":
        parser = run_parser(f"launch/{script}.py", None, "")
        parser.add_argument("--quick", action="store_true")
        options, overrides = parser.parse_known_args(words)
        return config_of_run(options.run, overrides)
    if script == "reproduce":
        from launch import reproduce

        experiment, rest = reproduce.arguments(words)
        config = reproduce.settings_of(experiment, rest)
        return replace(config, run=str(reproduce.folder_of(experiment, config)))
    from launch.pretrain import ACTIONS_CONFIG

    return parse(words, ACTIONS_CONFIG if script == "pretrain" else SYNTHETIC_CONFIG, prog=f"launch/{script}.py")


def arguments(
    argv: Sequence[str], prog: str = "launch/preflight.py"
) -> tuple[argparse.Namespace, list[str] | None, list[str]]:
    """Return this command's options, the launcher's flags (None under a launcher), and the script's flags."""
    parser = argparse.ArgumentParser(
        prog=prog,
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--expect-processes", type=int, metavar="N", help="expected number of processes on all nodes")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for other nodes at each stage (60)")
    add("--hosts", default="", metavar="A,B", help="names of the nodes by machine rank, to name missing ones")
    add("--min-bandwidth", type=float, default=0.0, metavar="MB/S", help="minimum bandwidth of the all-reduce (any)")
    add("--script", choices=SCRIPTS, default="train", help="script whose flags follow, if the command names none")
    words = list(argv)
    if "--" in words:
        at = words.index("--")
        return parser.parse_args(words[:at]), None, words[at + 1 :]
    start = next((number for number, word in enumerate(words) if word.endswith(".py") or word in MODULE), None)
    if start is None:
        options, settings = parser.parse_known_args(words)
        return options, None, settings
    options, launcher = parser.parse_known_args(words[:start])
    is_module = words[start] in MODULE
    end = start + (3 if is_module else 1)
    command = " ".join(words[start:end])
    options.script = command.removeprefix(f"{words[start]} mstat ") if is_module else Path(command).stem
    if options.script not in SCRIPTS:
        shape = "-m mstat {}" if is_module else "launch/{}.py"
        parser.error(f"{command}: the checks accept {', '.join(map(shape.format, SCRIPTS))}")
    return options, launcher, words[end:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
