"""Two hosts on one machine: namespaces of their own, joined by a veth pair as by a cable.

They share the file system, as hosts with a network folder do, and nothing else: each has its own name, interfaces,
ports and processes. Nothing of them has a name outside, so that any number of pairs may live at once, and nothing can
be left behind: a host is the process that holds its namespaces, waits for the end of a pipe from here, and takes all
that runs on it along.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tests.conftest import start

NAMES = ("mstat-0", "mstat-1")
ADDRESSES = ("10.231.7.1", "10.231.7.2")
PORT = 29500
CABLE = "cable"
END_SECONDS = 300.0


class Hosts:
    """Made by `two_hosts`."""

    def __init__(self, holders: Sequence[subprocess.Popen[str]]) -> None:
        self.holders = holders
        self.launches: list[subprocess.Popen[str]] = []

    def launch(
        self, command: str, arguments: Sequence[object], *, processes: int = 2, launcher: Sequence[object] = ()
    ) -> list[subprocess.Popen[str]]:
        """Start `accelerate launch` with configs/accelerate/multinode.yaml on each host, as for one run.

        Args:
            processes: Of both hosts together.
            launcher: More flags of `accelerate launch`.
        """
        launched = []
        for rank in range(len(NAMES)):
            flags = ["--machine_rank", rank, "--main_process_ip", ADDRESSES[0], "--main_process_port", PORT]
            launched.append(
                start(
                    command,
                    arguments,
                    accelerate="multinode",
                    launcher=[*flags, "--num_machines", len(NAMES), "--num_processes", processes, *launcher],
                    within=self.on(rank),
                    environment={"GLOO_SOCKET_IFNAME": CABLE},
                )
            )
        self.launches += launched
        return launched

    def run(self, command: str, arguments: Sequence[object], **options: Any) -> list[tuple[int, str]]:
        """Exit status and output of each host's launch."""
        launched = self.launch(command, arguments, **options)
        outputs = [process.communicate(timeout=END_SECONDS)[0] for process in launched]
        return [(process.returncode, output) for process, output in zip(launched, outputs, strict=True)]

    def cut(self) -> None:
        """Pull the cable: nothing crosses any more, and nobody is told."""
        call(*self.on(0), "ip", "link", "set", CABLE, "down")

    def heal(self) -> None:
        """Plug it in again."""
        call(*self.on(0), "ip", "link", "set", CABLE, "up")

    def on(self, host: int) -> list[str]:
        """Return the prefix of a command that runs on a host."""
        return within(self.holders[host])


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Two hosts that reach each other. What still runs on them at the end is killed.

    Raises:
        RuntimeError: Where they cannot be made; see `why_not`.
    """
    holders: list[subprocess.Popen[str]] = []
    hosts = Hosts(holders)
    try:
        for name in NAMES:
            holders.append(hold(name, dict(zip(NAMES, ADDRESSES, strict=True))))
        first, second = (str(holder.pid) for holder in holders)
        call("ip", "link", "add", CABLE, "netns", first, "type", "veth", "peer", "name", CABLE, "netns", second)
        for rank, address in enumerate(ADDRESSES):
            call(*hosts.on(rank), "ip", "addr", "add", f"{address}/24", "dev", CABLE)
            for interface in (CABLE, "lo"):
                call(*hosts.on(rank), "ip", "link", "set", interface, "up")
        yield hosts
    finally:
        for process in [*holders, *hosts.launches]:
            with process:  # closes its pipes, for whose end a holder waits, and waits for it
                pass


def why_not() -> str | None:
    """Return the reason why two hosts cannot be made here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for command, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if shutil.which(command) is None:
            return f"there is no `{command}` command: apt-get install {package}"
    try:
        with two_hosts():
            return None
    except RuntimeError as error:
        return f"namespaces cannot be made here: {error}"


def hold(name: str, hosts: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process in namespaces of its own, at whose end the kernel ends all others in them.

    It has an /etc/hosts of its own, which knows `hosts` by name: c10d and Slurm look machines up.
    """
    names = "".join(f"{address} {other}\\n" for other, address in hosts.items())
    known = f"mount -t tmpfs tmpfs /mnt && printf '127.0.0.1 localhost\\n{names}' > /mnt/hosts"
    known += " && mount --bind /mnt/hosts /etc/hosts && umount /mnt"
    unshare = ["unshare", "--net", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
    holder = subprocess.Popen(
        [*unshare, "sh", "-c", f"hostname {name} && {known} && echo up && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    if holder.stdout.readline() != "up\n":
        raise RuntimeError(f"unshare: {holder.communicate()[1].strip()}")
    return holder


def within(holder: subprocess.Popen[str]) -> list[str]:
    """Return the prefix of a command that runs in the namespaces of a holder."""
    namespaces = f"/proc/{holder.pid}/ns"
    flags = [f"--{flag}={namespaces}/{kind}" for flag, kind in (("net", "net"), ("uts", "uts"), ("mount", "mnt"))]
    return ["nsenter", *flags, f"--pid={namespaces}/pid_for_children", "--wd=.", "--"]


def call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
