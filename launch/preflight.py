"""Launch checks on every node, in seconds: `preflight.py` in place of `accelerate launch`, all else as for training.

    accelerate launch          --config_file FILE --machine_rank 1 ... launch/train.py --config configs/mars.yaml
    python launch/preflight.py --config_file FILE --machine_rank 1 ... launch/train.py --config configs/mars.yaml

Started like this it also tells which machines have not come, for whom the launcher itself would wait for 15 minutes.
It is what the launcher starts on each process, too: `accelerate launch ... launch/preflight.py [options] -- <flags of
launch/train.py>`. Exit status: 0 all good, 1 something is wrong, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import SYNTHETIC_CONFIG, report_errors
from mstat.configure import parse


def main() -> int:
    options, launcher, settings = arguments(sys.argv[1:])
    config = parse(settings, SYNTHETIC_CONFIG, prog="launch/preflight.py")
    good = False

    def command() -> None:
        nonlocal good
        if launcher is not None:
            from mstat.cluster.outside import launch

            good = launch(Path(__file__), options, launcher, settings)
            return
        from mstat.cluster.outside import tell

        tell(None)
        from mstat.cluster.preflight import check
        from mstat.cluster.verdict import Asked

        clips = config.batch.num_identities * config.batch.num_tracklets
        hosts = tuple(filter(None, options.hosts.split(",")))
        asked = Asked(options.expect_processes, hosts, options.max_skew, options.min_bandwidth, clips)
        good = tell(check(config, asked, options.timeout))

    status = report_errors(command) or int(not good)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # A collective that hangs in its thread would abort an orderly exit, or wait in it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str] | None, list[str]]:
    """Options of this command; flags for the launcher, None where it is there already; settings of the training."""
    parser = argparse.ArgumentParser(
        prog="launch/preflight.py",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--expect-processes", type=int, metavar="N", help="processes of all nodes together")
    add("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait for the others, at each stage (60)")
    add("--hosts", default="", metavar="A,B", help="names of the nodes by machine rank, for those who do not come")
    add("--max-skew", type=float, default=1.0, metavar="S", help="largest difference of clocks, in seconds (1)")
    add("--min-bandwidth", type=float, default=0.0, metavar="MB/S", help="least bandwidth of the all-reduce (any)")
    words = list(argv)
    if "--" in words:
        at = words.index("--")
        return parser.parse_args(words[:at]), None, words[at + 1 :]
    script = next((number for number, word in enumerate(words) if word.endswith(".py")), None)
    if script is None:
        options, settings = parser.parse_known_args(words)
        return options, None, settings
    options, launcher = parser.parse_known_args(words[:script])
    if Path(words[script]).name != "train.py":
        parser.error(f"{words[script]}: only launch/train.py can be checked for")
    return options, launcher, words[script + 1 :]


if __name__ == "__main__":
    sys.exit(main())
