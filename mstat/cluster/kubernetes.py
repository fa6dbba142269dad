"""A training as a Kubernetes JobSet: `python -m mstat.cluster.kubernetes … -- <flags of launch/train.py>` prints it.

A JobSet, not Kubeflow's TrainJob: it is what a TrainJob becomes, needs one controller less, and lets the pods start the
same launcher as everywhere else. A pod is a node. All start again together when one fails, and go on from the newest
checkpoint; exit statuses say which failures are worth that (`after`).
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PROJECT = "/mstat"  # in the image that Dockerfile makes
PORT = 29500
CHECKS_PORT = 29499  # another one: the checks' last process may still hold theirs when the training begins
CHECKS_SECONDS = 300
GIVE_UP, GO_ON = 3, 75  # exit statuses of a pod
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = 63 - len("-node-0-999")  # of a pod's host name


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        name: Of the JobSet; lower-case letters, digits and dashes.
        image: What Dockerfile made, where the cluster can pull it from.
        run: The run folder, in a volume that all pods share.
        flags: Of launch/train.py, without `--run`.
        nodes: Pods.
        gpus_per_node: GPUs of each, with a process for each; 0 runs one process on CPUs.
        volumes: Path in the pod -> persistent volume claim. With several nodes, `run` and the shards need claims that
            can be mounted by many (ReadWriteMany).
        environment: More variables.
        restarts: How often all pods may start again.
        checks: Whether launch/preflight.py comes first.
        grace_seconds: For a checkpoint, before a pod that is taken away is killed.
        cpus, memory: Of a pod, as Kubernetes writes them; None leaves it to the cluster.
        shared_memory: Of /dev/shm, where loader workers leave their batches.
    """

    name: str
    image: str
    run: str
    flags: Sequence[str] = ()
    nodes: int = 1
    gpus_per_node: int = 8
    volumes: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 20
    checks: bool = True
    grace_seconds: int = 300
    cpus: str | None = None
    memory: str | None = None
    shared_memory: str = "16Gi"

    def __post_init__(self) -> None:
        if not LABEL.fullmatch(self.name) or len(self.name) > LONGEST_NAME:
            raise ValueError(
                f"--name {self.name}: lower-case letters, digits and dashes, at most {LONGEST_NAME}, a letter first"
            )
        if self.nodes < 1 or self.gpus_per_node < 0:
            raise ValueError("--nodes must be at least 1, --gpus-per-node at least 0")
        if self.nodes > 1 and not any(Path(self.run).is_relative_to(path) for path in self.volumes):
            raise ValueError(f"--run {self.run}: {self.nodes} nodes must share its volume: --volume PATH=CLAIM")


def render(job: Job) -> str:
    """The manifest, for `kubectl apply -f -`."""
    head = (
        f"# {job.nodes} x {max(1, job.gpus_per_node)} processes, by mstat/cluster/kubernetes.py: kubectl apply -f FILE"
    )
    return head + "\n" + yaml.dump(manifest(job), Dumper=_Dumper, sort_keys=False, width=120)


def manifest(job: Job) -> dict[str, Any]:
    """The JobSet as JSON values."""
    container: dict[str, Any] = {
        "name": "mstat",
        "image": job.image,
        "workingDir": PROJECT,
        "command": ["bash", "-c", script(job)],
        "env": [{"name": name, "value": value} for name, value in _environment(job).items()],
        "resources": _resources(job),
        "volumeMounts": [
            *({"name": f"volume-{number}", "mountPath": path} for number, path in enumerate(job.volumes)),
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.grace_seconds,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": [
            *(
                {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
                for number, claim in enumerate(job.volumes.values())
            ),
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": job.shared_memory}},
        ],
    }
    give_up = {"containerName": "mstat", "operator": "In", "values": [GIVE_UP]}
    nodes = {
        "parallelism": job.nodes,
        "completions": job.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a pod does not come back alone: the JobSet starts all of them again
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": give_up}]},
        "template": {"spec": pod},
    }
    failed_for_good = {
        "name": "nothing-to-go-on-from",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": job.name},
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": job.restarts, "rules": [failed_for_good]},
            "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": nodes}}],
        },
    }


def script(job: Job) -> str:
    """What bash does in a pod: checks, training, and an exit status by what the run folder says.

    The launcher ends with 0 after a stop signal, too, and Kubernetes would take the pod for finished.
    """
    processes = job.nodes * max(1, job.gpus_per_node)
    which = "multinode" if job.nodes > 1 else "ddp" if processes > 1 else "single"
    launcher = ["--config_file", f"configs/accelerate/{which}.yaml"]
    if processes > 1:
        launcher += ["--num_machines", str(job.nodes), "--num_processes", str(processes)]
    told = shlex.join(launcher)
    if job.nodes > 1:
        told += f' --machine_rank "$JOB_COMPLETION_INDEX" --main_process_ip {host(job, 0)}'
    hosts = ",".join(host(job, node) for node in range(job.nodes))
    asked = f"--timeout {CHECKS_SECONDS} --expect-processes {processes} --hosts {hosts}"
    lines = [
        f"launcher=({told})",
        f"training=({shlex.join(['launch/train.py', *job.flags, '--run', job.run])})",
        "# To the ranks: they save, and all launchers end. One that is told itself leaves the others waiting for it.",
        """trap 'kill -TERM $(cat /proc/$child/task/$child/children) 2>/dev/null || kill -TERM "$child"' TERM""",
        "watch() {",
        '  "$@" & child=$!',
        '  while :; do wait "$child"; status=$?; kill -0 "$child" 2>/dev/null || return "$status"; done',
        "}",
    ]
    if job.checks:
        lines += [
            "# The time is for nodes to pull the image. Failed checks are worth a new start: perhaps on other nodes.",
            f"watch python launch/preflight.py {asked} \\",
            f'  "${{launcher[@]}}" --main_process_port {CHECKS_PORT} "${{training[@]}}" || exit {GO_ON}',
        ]
    lines += [
        f'watch accelerate launch "${{launcher[@]}}" --main_process_port {PORT} "${{training[@]}}"',
        f"exec python -m mstat.cluster.kubernetes --after {shlex.quote(job.run)}",
    ]
    return "\n".join(lines) + "\n"


def host(job: Job, node: int) -> str:
    """The name by which a JobSet's pods find that one."""
    return f"{job.name}-node-0-{node}.{job.name}"


def after(run: Path) -> int:
    """Exit status of a pod whose launcher has ended: 0 done, `GO_ON`, or `GIVE_UP` where no step was ever saved.

    A bug at the start fails in the same way each time; whatever happens later is worth a new start.
    """
    try:
        state = json.loads((run / "state.json").read_text())
    except (OSError, ValueError):
        return GIVE_UP
    if state["state"] == "done":
        return 0
    return GIVE_UP if state["state"] == "failed" and state["step"] == 0 else GO_ON


def _environment(job: Job) -> dict[str, str]:
    # eth0: what Kubernetes calls a pod's network; where it has others, the environment says so.
    interfaces = {"NCCL_SOCKET_IFNAME": "=eth0", "GLOO_SOCKET_IFNAME": "eth0"} if job.nodes > 1 else {}
    return {**interfaces, **job.environment}


def _resources(job: Job) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(job.gpus_per_node)} if job.gpus_per_node else {}
    asked = {name: value for name, value in (("cpu", job.cpus), ("memory", job.memory)) if value is not None}
    return {name: value for name, value in (("limits", limits), ("requests", asked)) if value}


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks that people can read."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mstat.cluster.kubernetes", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--after", type=Path, metavar="RUN", help="in a pod: end with the exit status that the run's state asks for")
    add("--name")
    add("--image")
    add("--run", help="run folder, in the pods")
    add("--nodes", type=int, default=1)
    add("--gpus-per-node", type=int, default=8)
    add("--volume", action="append", default=[], metavar="PATH=CLAIM", help="a volume claim and where it is seen")
    add("--env", action="append", default=[], metavar="NAME=VALUE")
    add("--restarts", type=int, default=20)
    add("--skip-preflight", action="store_true")
    add("flags", nargs="*", help="of launch/train.py, behind --")
    options = parser.parse_args()
    if options.after is not None:
        return after(options.after)
    if not (options.name and options.image and options.run):
        parser.error("--name, --image and --run are needed")
    if wrong := [pair for pair in options.volume + options.env if "=" not in pair]:
        parser.error(f"{wrong[0]}: wants NAME=VALUE")
    try:
        job = Job(
            name=options.name,
            image=options.image,
            run=options.run,
            flags=options.flags,
            nodes=options.nodes,
            gpus_per_node=options.gpus_per_node,
            volumes=dict(pair.split("=", 1) for pair in options.volume),
            environment=dict(pair.split("=", 1) for pair in options.env),
            restarts=options.restarts,
            checks=not options.skip_preflight,
        )
    except ValueError as error:
        parser.error(str(error))
    print(render(job), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
