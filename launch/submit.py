"""Run on a cluster: `python launch/submit.py [options] -- [arguments of launch/train.py]`; --job runs another command.

Writes a batch script into the run folder, lets Slurm check it, and submits it. The job restarts by itself from its
newest checkpoint at the time limit, after a preemption, and after the loss of a node. To manage submitted runs:
  submit.py status RUN ...         state and progress of runs, and the cause of failures
  submit.py logs RUN [--follow]    the end of their logs
  submit.py cancel RUN [--now]     save a checkpoint and end; --now ends without a checkpoint
  submit.py continue RUN [-- FLAGS OF SBATCH]
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file, not by `mstat`
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import report_errors
from mstat.cluster.command import KINDS, seconds, target
from mstat.cluster.job import Job
from mstat.cluster.sites import Site, load_site
from mstat.errors import UserError
from shards.paths import path
from shards.terminal import print_line

COMMANDS = ("status", "logs", "cancel", "continue")


def main(argv: Sequence[str], prog: str = "launch/submit.py") -> int:
    if argv and argv[0] in COMMANDS:
        return report_errors(lambda: manage(argv, prog))
    options, rest = arguments(argv, prog)

    def command() -> None:
        site = load_site(options.site)
        job = describe(options, rest)
        if options.scheduler == "kubernetes":
            if not options.dry_run:
                raise UserError("--scheduler kubernetes needs --dry-run; pipe the output to `kubectl apply -f -`")
            from mstat.cluster.kubernetes import render

            print(render(job, site), end="")  # YAML for kubectl
        elif options.scheduler == "local":
            from mstat.cluster.ssh import run_local

            run_local(job, site, hosts=options.hosts, remote_shell=options.remote_shell, dry=options.dry_run)
        elif options.dry_run:
            show(job, site)
        else:
            submit(job, site, prog)

    return report_errors(command)


def show(job: Job, site: Site) -> None:
    """Print the scripts that would be submitted."""
    from mstat.cluster.job import collector
    from mstat.cluster.script import batch_script

    for one in filter(None, [job, collector(job)]):
        print(f"# {one.script}\n{batch_script(one, site)}")  # as it is


def submit(job: Job, site: Site, prog: str) -> None:
    """Submit a job, and print its id and the commands to manage it."""
    from mstat.cluster import slurm

    ids = slurm.submit(job, site)
    this = f"python {shlex.quote(sys.argv[0])}" if prog.endswith(".py") else prog
    folder = shlex.quote(str(job.folder))
    print_line(f"{slurm.named(ids)}: {job.script}")
    print_line(f"run folder  {job.folder}")
    print_line(f"follow      {this} logs {folder} --follow")
    print_line(f"            {this} status {folder}")
    print_line(f"stop        {this} cancel {folder}")
    print_line(f"continue    {this} continue {folder}")


def manage(argv: Sequence[str], prog: str) -> None:
    """Run status, logs, cancel or continue."""
    from mstat.cluster import status

    argv, flags = _cut(argv)
    parser = argparse.ArgumentParser(prog=f"{prog} {argv[0]}", allow_abbrev=False)
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("runs", nargs="+", type=path, metavar="RUN", help="run folder")
    if argv[0] == "logs":
        parser.add_argument("--follow", action="store_true", help="print new lines as they come, as tail --follow does")
        parser.add_argument("--lines", type=int, default=40, help="number of lines of each log (default 40)")
    if argv[0] == "cancel":
        parser.add_argument("--now", action="store_true", help="end without a checkpoint")
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
            print_line(status.cancel(run, now=options.now))
        elif options.command == "continue":
            print_line(status.continue_run(run, flags))


def describe(options: argparse.Namespace, rest: Sequence[str]) -> Job:
    """Return the job that a command line describes.

    Raises:
        UserError: If the options contradict each other or the command.
    """
    directory = Path("/mstat") if options.scheduler == "kubernetes" else Path.cwd()  # the project's folder in the image
    folder, first = target(options.job, rest, directory)
    gpus = 0 if options.job == "shards" else options.gpus_per_node
    processes = options.processes_per_node or max(1, gpus)
    if options.array is not None and options.job in ("evaluate", "pretrain"):
        raise UserError(f"--array is not possible with --job {options.job}")
    limit = seconds(options.time)
    if limit is not None and options.stop_before >= limit:
        raise UserError(f"--stop-before {options.stop_before} must be less than --time {options.time} ({limit} s)")
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


def arguments(argv: Sequence[str], prog: str) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the unchanged arguments of the other one."""
    parser = argparse.ArgumentParser(
        prog=prog,
        usage="%(prog)s [options] -- [arguments of the command]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--job", choices=KINDS, default="train", help="; ".join(f"{kind}: {what}" for kind, what in KINDS.items()))
    what = "local: start it now, on this host or on --hosts; kubernetes: print a JobSet, with --dry-run"
    add("--scheduler", choices=("slurm", "local", "kubernetes"), default="slurm", help=what)
    add("--site", type=path, metavar="YAML", help="description of the cluster, such as configs/sites/venv.yaml")
    add("--dry-run", action="store_true", help="print the scripts and submit nothing")
    add("--name", help="name of the job (default: mstat- and the name of the run folder)")
    add("--nodes", type=_positive, default=1)
    add("--gpus-per-node", type=_natural, default=1, help="0 for nodes without GPUs (default 1)")
    add("--processes-per-node", type=_positive, help="default: one per GPU")
    add("--cpus-per-process", type=_positive, help="CPU cores (default 8 with GPUs and for shards, else 1)")
    add(
        "--time",
        default="24:00:00",
        help="time limit, as for sbatch (default 24:00:00), after which the run is requeued",
    )
    add("--partition")
    add("--account")
    add("--qos")
    add(
        "--sbatch",
        action="append",
        default=[],
        metavar="FLAG",
        help="further flag of sbatch, such as --sbatch=--exclusive",
    )
    add("--zero", type=int, choices=(0, 1, 2, 3), help="ZeRO stage of DeepSpeed (default: DDP)")
    add(
        "--array",
        type=_positive,
        metavar="N",
        help="N seeds; with --job reproduce or shards, N tasks that share the work",
    )
    add("--array-limit", type=_positive, metavar="N", help="elements of the array that run at once")
    add(
        "--stop-before",
        type=_positive,
        default=300,
        metavar="S",
        help="seconds before the time limit at which to save (default 300)",
    )
    add("--requeue-limit", type=_natural, default=20, metavar="N", help="maximum number of restarts (default 20)")
    add(
        "--idle-limit",
        type=_positive,
        default=3,
        metavar="N",
        help="maximum number of consecutive attempts without a checkpoint (default 3)",
    )
    add("--skip-preflight", action="store_true", help="do not run the launch checks first")
    add("--hosts", type=lambda text: text.split(","), help="for local: host names for ssh (default: this host)")
    add(
        "--remote-shell",
        default="ssh -o BatchMode=yes",
        help="for local: command that runs a command on a host (default: ssh -o BatchMode=yes)",
    )
    ours, rest = _cut(argv)
    options, unknown = parser.parse_known_args(ours)
    if unknown:
        hint = "" if "--" in argv else "; arguments of the command go after --"
        parser.error(f"unrecognized arguments: {shlex.join(unknown)}{hint}")
    return options, rest


def _natural(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return int(text)


def _positive(text: str) -> int:
    return _natural(text, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
