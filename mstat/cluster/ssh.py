"""Run a job without a scheduler: one launcher on each host, by ssh or on this host, with the same restarts.

The end of its standard input stops a launcher. So a launcher also stops when this process or the connection dies. The
ranks receive SIGTERM and save first (docs/exactness.md).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from mstat.cluster import restarts
from mstat.cluster.job import LAUNCHED, Job
from mstat.cluster.restarts import FOLDER
from mstat.cluster.script import functions
from mstat.cluster.sites import Site
from mstat.console import print_line
from mstat.errors import UserError
from shards.text import printable

PORT = 29500
HOST = re.compile(r"[\w.:@%\[\]][\w.:@%\[\]-]*", re.ASCII)  # neither an option of ssh nor code of a shell
ANSWER_SECONDS = 20
END_SECONDS = 90  # for the other hosts after one has failed: they detect the loss, and a rank has 30 s to save
WAIT_SECONDS = 15

STOP_AT_END_OF_INPUT = """\
exec 3<&0
set -m  # run the function in its own process group
{function} & id=$!
{{ read -r -u 3; kill -TERM -- -$id 2>/dev/null; }} & watch=$!
set +m  # no messages about ended jobs
wait $id; status=$?
kill -- -$watch 2>/dev/null
exit $status
"""


class Local:
    """A job on hosts without a scheduler.

    Args:
        hosts: Host names for the remote shell; empty if all nodes are this host.
        remote_shell: A command that takes a host and a command line for the host's shell.
    """

    def __init__(self, job: Job, site: Site, hosts: Sequence[str], remote_shell: str) -> None:
        if job.array is not None or job.kind not in LAUNCHED:
            raise UserError("--scheduler local runs one launched job: --array and --job shards are not possible")
        if hosts and len(hosts) != job.nodes:
            raise UserError(f"--hosts has {len(hosts)} names, but --nodes is {job.nodes}")
        if wrong := [host for host in hosts if not HOST.fullmatch(host)]:
            raise UserError(f"--hosts: '{printable(wrong[0])}' is not a host name")
        self.job, self.site, self.hosts, self.remote_shell = job, site, hosts, shlex.split(remote_shell)
        self.log = job.folder / FOLDER / f"local-{socket.gethostname()}-{os.getpid()}.log"
        self.stopped = False
        self.lock = threading.Lock()

    def command(self, node: int, function: str, port: int) -> list[str]:
        """Return the command that starts a function of the script on a node."""
        job, site = self.job, self.site
        names = self.hosts or ["127.0.0.1"] * job.nodes
        lines = [f"cd {shlex.quote(str(job.directory))} || exit 1", *site.setup, *site.exports()]
        lines += [f"export RUN={job.attempts_folder} NODES={','.join(names)} MAIN={names[0]} PORT={port}"]
        lines += [f"export SLURM_NODEID={node} PYTHONUNBUFFERED=1{site.python_path()}"]
        lines += functions(job, site)[function]
        text = "\n".join(lines) + "\n" + STOP_AT_END_OF_INPUT.format(function=function)
        if self.hosts:
            return [*self.remote_shell, self.hosts[node], f"bash -c {shlex.quote(text)}"]
        return ["bash", "-c", text]

    def run(self) -> int:
        """Run attempts until no other one follows, and return the outcome: a key of `restarts.OUTCOMES`."""
        job, folder = self.job, self.job.folder
        about = {"id": os.getpid(), "host": socket.gethostname(), "scheduler": "local"}
        restarts.write_json(folder / FOLDER / "job.json", {**about, "command": shlex.join(sys.argv)})
        (folder / FOLDER / "cancel").unlink(missing_ok=True)
        restarts.append(folder, {"event": "submit"})
        attempts = restarts.Attempts(
            folder, job.kind, str(os.getpid()), self.log, job.requeue_limit, job.idle_limit, self.say
        )
        todo, number = list(functions(job, self.site)), 0
        while True:
            if reason := attempts.begin():
                raise UserError(reason)
            for phase in todo:
                if status := self._on_all_nodes(phase, PORT + number):
                    break
            reachable = status == 0 or self.reachable()
            outcome = attempts.end(phase=phase, status=status, stopped=self.stopped, reachable=reachable)
            if self.stopped or outcome not in (restarts.RESTART, restarts.REQUEUE):
                return outcome
            todo, number = ["work"], number + 1
            while not self.stopped and not self.reachable():
                time.sleep(WAIT_SECONDS)

    def say(self, line: str) -> None:
        """Write a line to the log and to the terminal."""
        with self.lock, self.log.open("a") as log:
            log.write(f"{line}\n")
            print(line, flush=True)  # the output of the nodes as it is, colours included

    def reachable(self) -> bool:
        """Return whether every host answers."""
        for host in self.hosts:
            try:
                command = [*self.remote_shell, host, "true"]
                if subprocess.run(command, stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS).returncode:
                    return False
            except subprocess.TimeoutExpired:
                return False
        return True

    def _on_all_nodes(self, function: str, port: int) -> int:
        """Run a function on all nodes and return the worst exit status; 0 if every node succeeds."""
        nodes = [
            subprocess.Popen(
                self.command(node, function, port),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # this process handles Ctrl-C
            )
            for node in range(self.job.nodes)
        ]
        readers = [threading.Thread(target=self._label, args=(i, node)) for i, node in enumerate(nodes)]
        for reader in readers:
            reader.start()
        deadline = None
        while any(node.poll() is None for node in nodes):
            bad = any(node.returncode for node in nodes)
            if (bad or self.stopped) and deadline is None:
                deadline = time.monotonic() + END_SECONDS
            if self.stopped or (deadline is not None and time.monotonic() > deadline):
                for node in nodes:
                    assert node.stdin
                    node.stdin.close()
            if deadline is not None and time.monotonic() > deadline + END_SECONDS:
                for node in nodes:
                    node.kill()
            time.sleep(0.2)
        for reader in readers:
            reader.join(timeout=END_SECONDS)
        return max(abs(node.returncode) for node in nodes)

    def _label(self, number: int, node: subprocess.Popen[bytes]) -> None:
        """Prefix each line of a node with the node's number, as `srun --label` does."""
        assert node.stdout
        for line in node.stdout:
            self.say(f"{number}: {line.decode(errors='replace').rstrip()}")

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: save and end."""
        self.stopped = True


def run_local(job: Job, site: Site, *, hosts: Sequence[str] | None, remote_shell: str, dry: bool) -> None:
    """Run a job to its end, in the foreground.

    Raises:
        UserError: If the job fails; state.json and the log have the reason.
    """
    local = Local(job, site, hosts or (), remote_shell)
    if dry:
        for node in range(job.nodes):
            # A script, as it is.
            print(f"# on {local.hosts[node] if local.hosts else 'this host'}, node {node}")
            print(local.command(node, "work", PORT)[-1])
        return
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, local.stop)
    print_line(f"log: {local.log}")
    if local.run() == restarts.FAILED:
        state = restarts.read_json(Path(job.folder) / "state.json")
        raise UserError(state.get("reason") or f"see {local.log}")
