"""A real Slurm on one machine: a controller and two nodes, each in namespaces of its own, joined by a bridge.

They share the file system, as the nodes of a cluster do, and nothing else. What is made here ends with the process that
made it: each machine is a process that holds its namespaces (tests/helpers/hosts.py), and killing it is a power cut.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import PROJECT
from tests.helpers import hosts
from tests.helpers.system import install

NODES = ("n1", "n2")
ADDRESSES = {"ctl": "10.77.0.254", "n1": "10.77.0.1", "n2": "10.77.0.2"}
CABLE = "eth0"
START_SECONDS = 60.0
COMMANDS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "pkill")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2", "util-linux", "procps")
# Found by trial: a requeue waits for cred_expire, 120 s by default, and nothing below 5 is taken.
CONF = """\
ClusterName=mstat
SlurmctldHost=ctl({ctl})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
SlurmctldTimeout=30
SlurmdTimeout=15
MinJobAge=3600
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeAddr={n1} CPUs=2 RealMemory=2000 Gres=gpu:1 State=UNKNOWN
NodeName=n2 NodeAddr={n2} CPUs=2 RealMemory=2000 Gres=gpu:1 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=9 MaxTime=INFINITE State=UP
"""


class Cluster:
    """Made by `two_nodes`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.machines: dict[str, subprocess.Popen[str]] = {}
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every start would compile torch anew

    def call(self, *command: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command where users submit their jobs."""
        whole = [*hosts.within(self.machines["ctl"]), *map(str, command)]
        done = subprocess.run(whole, capture_output=True, text=True, env=self.environment, timeout=120, **options)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def submit(self, *arguments: object, check: bool = True, **options: Any) -> str:
        """Run `launch/submit.py` and return its output."""
        done = self.call(sys.executable, PROJECT / "launch" / "submit.py", *arguments, check=check, **options)
        return done.stdout + done.stderr

    def job(self, number: str) -> dict[str, str]:
        """Return the fields of `scontrol show job` for one job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "--oneliner", "show", "job", number).stdout))

    def wait(self, number: str, states: Sequence[str], seconds: float = 400) -> dict[str, str]:
        """Until a job is in one of the states; gives what Slurm then says of it."""
        return wait_until(
            lambda: (about := self.job(number))["JobState"] in states and about, seconds, lambda: self.job(number)
        )

    def wait_for_end(self, number: str, seconds: float = 400) -> dict[str, str]:
        """Until a job is over."""
        return self.wait(number, ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"), seconds)

    def power_off(self, node: str) -> None:
        """At once, and nobody is told."""
        self.machines[node].kill()
        self.machines[node].wait()

    def power_on(self, node: str) -> None:
        """A machine with the address of `node`, and its slurmd."""
        machine = self.machines[node] = hosts.hold(node, ADDRESSES)
        ctl, inside = hosts.within(self.machines["ctl"]), hosts.within(machine)
        subprocess.run([*ctl, "ip", "link", "del", node], capture_output=True)  # of one that was switched off
        # In its network alone: the other machine's number counts outside of its processes.
        network = ["nsenter", f"--net=/proc/{self.machines['ctl'].pid}/ns/net"]
        pair = [node, "type", "veth", "peer", "name", CABLE, "netns", str(machine.pid)]
        hosts.call(*network, "ip", "link", "add", *pair)
        hosts.call(*ctl, "ip", "link", "set", node, "master", "bridge", "up")
        _plug_in(inside, CABLE, ADDRESSES[node])
        # CPUs of its own, and so one thread a process: two nodes that fight for cores spend their time in waiting.
        cpus = sorted(os.sched_getaffinity(0))[NODES.index(node) :: len(NODES)] or [0]
        self._daemon([*inside, "taskset", "--cpu-list", ",".join(map(str, cpus))], "slurmd", "-D", "-N", node)

    def cut(self, node: str) -> None:
        """Pull a node's cable."""
        hosts.call(*hosts.within(self.machines["ctl"]), "ip", "link", "set", node, "down")

    def heal(self, node: str) -> None:
        """Plug it in again."""
        hosts.call(*hosts.within(self.machines["ctl"]), "ip", "link", "set", node, "up")

    def kill(self, node: str, pattern: str, signal: str = "KILL") -> bool:
        """Signal the processes of a node whose command line has the pattern; whether there was one."""
        command = ["pkill", f"-{signal}", "-f", pattern]
        inside = hosts.within(self.machines[node])
        return subprocess.run([*inside, *command], env=self.environment).returncode == 0  # sees that node alone

    def resume(self) -> list[str]:
        """Resume the nodes that Slurm has drained, as an administrator would, and return their names."""
        lines = self.call("sinfo", "-h", "-N", "-p", "debug", "-o", "%N %t", check=False).stdout.splitlines()
        drained = [line.split()[0] for line in lines if line.split()[1].startswith(("drain", "drng"))]
        for node in drained:
            self.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        return drained

    def wait_for_nodes(self) -> None:
        """Until both take jobs."""
        idle = lambda: self.call("sinfo", "-h", "-N", "-p", "debug", "-o", "%t", check=False).stdout.split()  # noqa: E731
        wait_until(lambda: len(states := idle()) == 2 and set(states) <= {"idle", "alloc", "mix"}, START_SECONDS, idle)

    def _daemon(self, inside: Sequence[str], *command: str) -> None:
        log = (self.folder / f"{command[0]}.out").open("ab")
        self.daemons.append(
            subprocess.Popen(
                [*inside, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        )


@contextmanager
def two_nodes(folder: Path) -> Iterator[Cluster]:
    """A Slurm with two nodes of two CPUs; its files lie in `folder`."""
    cluster = Cluster(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    for node in NODES:
        (folder / f"spool-{node}").mkdir()
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, **ADDRESSES))
    # What Slurm hands out as a GPU. No torch will take it for one, so that a process a GPU is a process on CPUs.
    (folder / "gpu").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu\n")
    # Not used, but slurmd loads a plugin: "autodetect" dies where /sys/fs/cgroup is not mounted.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    try:
        cluster.machines["ctl"] = hosts.hold("ctl", ADDRESSES)
        inside = hosts.within(cluster.machines["ctl"])
        _munge(cluster, inside)
        hosts.call(*inside, "ip", "link", "add", "bridge", "type", "bridge")
        _plug_in(inside, "bridge", ADDRESSES["ctl"])
        cluster._daemon(inside, "slurmctld", "-D")
        for node in NODES:
            cluster.power_on(node)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        for machine in cluster.machines.values():
            machine.kill()
            machine.communicate()
        for daemon in cluster.daemons:
            daemon.kill()
            daemon.wait()


def _plug_in(inside: Sequence[str], interface: str, address: str) -> None:
    hosts.call(*inside, "ip", "addr", "add", f"{address}/24", "dev", interface)
    for each in (interface, "lo"):
        hosts.call(*inside, "ip", "link", "set", each, "up")


def _munge(cluster: Cluster, inside: Sequence[str]) -> None:
    """One for all: its socket crosses network namespaces."""
    key, socket = cluster.folder / "munge.key", cluster.folder / "munge.socket"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    files = {"key-file": key, "socket": socket}
    files |= {f"{name}-file": cluster.folder / f"munge.{name}" for name in ("pid", "log", "seed")}
    flags = [f"--{name}={value}" for name, value in files.items()]
    cluster._daemon(inside, "munged", "--foreground", "--force", *flags)
    wait_until(socket.exists, START_SECONDS, (cluster.folder / "munged.out").read_text)


def wait_until(true: Callable[[], Any], seconds: float, about: Callable[[], Any] = str) -> Any:
    """Wait until a condition holds and return its value; fail with the text of `about`."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {about()}"
        time.sleep(0.2)
    return value


def why_not() -> str | None:
    """Return the reason why there can be no Slurm here, or None. Install missing packages where that is allowed."""
    if os.geteuid() != 0:
        return "a Slurm of two nodes needs root: namespaces, and apt-get install " + " ".join(PACKAGES)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if reason := install(COMMANDS, PACKAGES):
        return reason
    return hosts.why_not()
