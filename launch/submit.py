"""Run on a cluster: `python launch/submit.py [options] -- [what launch/train.py takes]`, or with --job another command.

Writes a batch script into the run folder, has Slurm check it, and submits it. Before the time limit, after the loss of
a node or a preemption the job goes on by itself from its newest checkpoint. Afterwards:
  submit.py status RUN ...         where runs stand, and why one failed
  submit.py logs RUN [--follow]    what they write
  submit.py cancel RUN [--now]     save and end; --now does not wait
  submit.py continue RUN [-- sbatch flags]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import report_errors
from mstat.cluster.command import KINDS, seconds, target
from mstat.cluster.job import Job
from mstat.cluster.sites import Site, load_site
from mstat.errors import UserError
from shards.paths import path
from shards.text import printable

COMMANDS = ("status", "logs", "cancel", "continue")


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in COMMANDS:
        return report_errors(lambda: manage(sys.argv[1:]))
    options, rest = arguments(sys.argv[1:])

    def command() -> None:
        site = load_site(options.site)
        job = describe(options, rest)
        if options.scheduler == "kubernetes":
            if not options.dry_run:
                raise UserError(
                    "nothing is sent to Kubernetes from here: --dry-run prints it, for `kubectl apply -f -`"
                )
            from mstat.cluster.kubernetes import render

            print(render(job, site), end="")
        elif options.scheduler == "local":
            from mstat.cluster.ssh import run_local

            run_local(job, site, hosts=options.hosts, remote_shell=options.remote_shell, dry=options.dry_run)
        elif options.dry_run:
            show(job, site)
        else:
            submit(job, site)

    return report_errors(command)


def show(job: Job, site: Site) -> None:
    """Return the job that would be submitted."""
    from mstat.cluster.job import collector
    from mstat.cluster.script import batch_script

    for one in filter(None, [job, collector(job)]):
        print(f"# {one.script}\n{batch_script(one, site)}")


def submit(job: Job, site: Site) -> None:
    """Submit, and say what there is to know."""
    from mstat.cluster import slurm

    ids = slurm.submit(job, site)
    this, folder = f"python {shlex.quote(sys.argv[0])}", shlex.quote(str(job.folder))
    print(f"job {ids[0]}" + (f", and {ids[1]}, which collects" if len(ids) > 1 else "") + f": {job.script}")
    print(f"run folder  {job.folder}")
    print(f"follow      {this} logs {folder} --follow")
    print(f"            {this} status {folder}")
    print(f"stop        {this} cancel {folder}")
    print(f"continue    {this} continue {folder}")


def manage(argv: Sequence[str]) -> None:
    """status, logs, cancel and continue."""
    from mstat.cluster import status

    argv, flags = _cut(argv)
    parser = argparse.ArgumentParser(prog=f"submit.py {argv[0]}", allow_abbrev=False)
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("runs", nargs="+", type=path, metavar="RUN", help="run folder")
    if argv[0] == "logs":
        parser.add_argument("--follow", action="store_true", help="go on, as tail --follow does")
        parser.add_argument("--lines", type=int, default=40, help="of each log (default 40)")
    if argv[0] == "cancel":
        parser.add_argument("--now", action="store_true", help="do not wait for a checkpoint")
    options = parser.parse_args(argv)
    if flags and options.command != "continue":
        parser.error("only `continue` takes flags of sbatch after --")
    runs = [run.resolve() for run in options.runs]
    if options.command == "status":
        status.show(runs)
    elif options.command == "logs":
        status.logs(runs, options.lines, follow=options.follow)
    for run in runs:
        if options.command == "cancel":
            print(printable(status.cancel(run, now=options.now)))
        elif options.command == "continue":
            print(printable(status.go_on(run, flags)))


def describe(options: argparse.Namespace, rest: Sequence[str]) -> Job:
    """The job that a command line asks for.

    Raises:
        ValueError: If options do not fit each other or the command.
    """
    directory = Path("/mstat") if options.scheduler == "kubernetes" else Path.cwd()  # that of the image
    folder, first = target(options.job, rest, directory)
    gpus = 0 if options.job == "shards" else options.gpus_per_node
    processes = options.processes_per_node or max(1, gpus)
    if options.array is not None and options.job in ("evaluate", "pretrain"):
        raise UserError(f"--job {options.job} has no --array")
    limit = seconds(options.time)
    if limit is not None and options.stop_before >= limit:
        raise UserError(f"--stop-before {options.stop_before}: less than --time {options.time} ({limit} s), please")
    name = f"{folder.parents[1].name}-evaluate" if options.job == "evaluate" else folder.name
    return Job(
        kind=options.job,
        folder=folder,
        arguments=tuple(rest),
        directory=directory,
        name=options.name or f"mstat-{name}",
        nodes=options.nodes,
        gpus_per_node=gpus,
        processes_per_node=processes,
        cpus_per_process=options.cpus_per_process or (8 if gpus or options.job == "shards" else 1),
        time=options.time,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        sbatch=tuple(options.sbatch),
        array=None if options.array is None else (first, first + options.array - 1),
        array_limit=options.array_limit,
        stop_before=options.stop_before,
        requeue_limit=options.requeue_limit,
        idle_limit=options.idle_limit,
        preflight=not options.skip_preflight,
        zero=options.zero,
    )


def _cut(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line at the first `--`."""
    argv = list(argv)
    at = argv.index("--") if "--" in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options of this command, and what goes to the other one untouched."""
    parser = argparse.ArgumentParser(
        prog="submit.py",
        usage="%(prog)s [options] -- [arguments of the command]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--job", choices=KINDS, default="train", help="; ".join(f"{kind}: {what}" for kind, what in KINDS.items()))
    what = "local: start it now, here or on --hosts; kubernetes: with --dry-run, a JobSet"
    add("--scheduler", choices=("slurm", "local", "kubernetes"), default="slurm", help=what)
    add("--site", type=path, metavar="YAML", help="what is particular to this cluster, as in configs/sites/")
    add("--dry-run", action="store_true", help="print what would be submitted, and do nothing")
    add("--name", help="of the job (default: the run folder's)")
    add("--nodes", type=_positive, default=1)
    add("--gpus-per-node", type=_natural, default=1, help="0: nodes without GPUs (default 1)")
    add("--processes-per-node", type=_positive, help="default: one for each GPU")
    add("--cpus-per-process", type=_positive, help="CPU cores (default 8 beside a GPU or for shards, else 1)")
    add("--time", default="24:00:00", help="limit, as sbatch takes it (default 24:00:00); a run goes on after it")
    add("--partition")
    add("--account")
    add("--qos")
    add("--sbatch", action="append", default=[], metavar="FLAG", help="any other, as in --sbatch=--exclusive")
    add("--zero", type=int, choices=(0, 1, 2, 3), help="DeepSpeed's stage (default: DDP)")
    add("--array", type=_positive, metavar="N", help="N seeds; of reproduce and shards, N tasks that share the work")
    add("--array-limit", type=_positive, metavar="N", help="elements that run at once")
    add(
        "--stop-before", type=_positive, default=300, metavar="S", help="seconds before the limit to save (default 300)"
    )
    add("--requeue-limit", type=_natural, default=20, metavar="N", help="times to start again (default 20)")
    add("--idle-limit", type=_positive, default=3, metavar="N", help="... in a row without a checkpoint (default 3)")
    add("--skip-preflight", action="store_true", help="do not check the nodes before a training")
    add("--hosts", type=lambda text: text.split(","), help="for local: names, by ssh; this host has none but localhost")
    add("--remote-shell", default="ssh -o BatchMode=yes", help="for local: what runs a command on a host")
    ours, rest = _cut(argv)
    options, unknown = parser.parse_known_args(ours)
    if unknown:
        there = "" if "--" in argv else "; what the command takes stands behind --"
        parser.error(f"unrecognized arguments: {shlex.join(unknown)}{there}")
    return options, rest


def _natural(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return int(text)


def _positive(text: str) -> int:
    return _natural(text, 1)


if __name__ == "__main__":
    sys.exit(main())
