"""Render a training as a Kubernetes JobSet: `launch/submit.py --scheduler kubernetes --dry-run`.

A JobSet needs one controller less than Kubeflow's TrainJob, which becomes a JobSet, and starts the same launcher as
other schedulers. Each pod is a node. If a pod fails, all pods restart from the newest checkpoint; `after` decides by
its exit status whether a restart can help.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mstat.cluster.job import Job
from mstat.cluster.restarts import read_json
from mstat.cluster.script import accelerate_flags, wrapped
from mstat.cluster.sites import Site
from mstat.errors import UserError

PROJECT = Path("/mstat")  # in the image built from Dockerfile
PORT = 29500
CHECKS_PORT = 29499  # not PORT, which a process of the checks might still hold when the training begins
CHECKS_SECONDS = 300
GIVE_UP, RESTART = 3, 75  # exit statuses of a pod
LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
MAX_NAME = 63 - len("-node-0-999")  # so that a pod's host name has at most 63 letters
SHARED_MEMORY = "16Gi"  # size of /dev/shm, which holds the batches of the loader processes


def check(job: Job, site: Site) -> None:
    """Raise UserError for a job that cannot be a JobSet, or that would lose its results."""
    if job.kind != "train" or job.array is not None:
        raise UserError("--scheduler kubernetes runs one training: --array and other values of --job are not possible")
    if slurms := [name for name in ("partition", "account", "qos", "sbatch") if getattr(job, name)]:
        raise UserError(f"--{slurms[0]} is an option of Slurm, not of Kubernetes")
    if site.image is None or site.container or site.srun:
        raise UserError(
            "--site must have an `image` for the pods, and no `container` or `srun`; see configs/sites/kubernetes.yaml"
        )
    if not LABEL.fullmatch(job.name) or len(job.name) > MAX_NAME:
        raise UserError(
            f"--name {job.name}: must be at most {MAX_NAME} lower-case letters, digits and dashes, a letter first"
        )
    if not any(job.folder.is_relative_to(path) for path in site.volumes):
        raise UserError(f"--run {job.folder}: must be in one of the site's `volumes`, which outlive the pods")


def render(job: Job, site: Site) -> str:
    """Return the manifest for `kubectl apply -f -`.

    Raises:
        UserError: See `check`.
    """
    check(job, site)
    head = f"# {job.nodes} x {job.processes_per_node} processes; written by launch/submit.py, for kubectl apply -f FILE"
    return head + "\n" + yaml.dump(manifest(job, site), Dumper=_Dumper, sort_keys=False, width=120)


def manifest(job: Job, site: Site) -> dict[str, Any]:
    """Return the JobSet as JSON values."""
    container: dict[str, Any] = {
        "name": "mstat",
        "image": site.image,
        "workingDir": str(PROJECT),
        "command": ["bash", "-c", script(job, site)],
        "env": [{"name": name, "value": value} for name, value in site.variables().items()],
        "resources": _resources(job, site),
        "volumeMounts": [
            *({"name": f"volume-{number}", "mountPath": path} for number, path in enumerate(site.volumes)),
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.stop_before,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000},
        "containers": [container],
        "volumes": [
            *(
                {"name": f"volume-{number}", "persistentVolumeClaim": {"claimName": claim}}
                for number, claim in enumerate(site.volumes.values())
            ),
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY}},
        ],
    }
    give_up = {"containerName": "mstat", "operator": "In", "values": [GIVE_UP]}
    nodes = {
        "parallelism": job.nodes,
        "completions": job.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # a single pod is not restarted: the JobSet restarts all pods
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
            "failurePolicy": {"maxRestarts": job.requeue_limit, "rules": [failed_for_good]},
            "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": nodes}}],
        },
    }


def script(job: Job, site: Site) -> str:
    """Return the script of a pod: checks, training, and an exit status from the state of the run.

    The launcher exits with 0 after a stop signal too, so that Kubernetes would regard the pod as finished.
    """
    inside = replace(site, project=site.project or str(PROJECT))
    hosts = ",".join(host(job, node) for node in range(job.nodes))
    requested = f"--timeout {CHECKS_SECONDS} --expect-processes {job.num_processes} --hosts {hosts}"
    lines = [
        *site.setup,
        f"MAIN={host(job, 0)}",
        *wrapped("training=(launch/train.py", job.arguments, ")"),
        "# Signal the ranks: they save, and all launchers end. A signalled launcher would leave the others waiting.",
        """trap 'kill -TERM $(cat /proc/$child/task/$child/children) 2>/dev/null || kill -TERM "$child"' TERM""",
        "watch() {",
        '  "$@" & child=$!',
        '  while :; do wait "$child"; status=$?; kill -0 "$child" 2>/dev/null || return "$status"; done',
        "}",
    ]

    def launcher(port: int) -> list[str]:
        flags = accelerate_flags(job, inside, rank="$JOB_COMPLETION_INDEX", port=str(port))
        return [*(f"  {line} \\" for line in flags), '  "${training[@]}"']

    if job.preflight:
        lines += [
            "# The timeout lets nodes pull the image. After failed checks a restart may find other nodes.",
            f"watch python launch/preflight.py {requested} \\",
            *launcher(CHECKS_PORT),
            f'[ "$status" = 0 ] || exit {RESTART}',
        ]
    lines += [
        "watch accelerate launch \\",
        *launcher(PORT),
        f"exec python -m mstat.cluster.kubernetes --after {shlex.quote(str(job.folder))}",
    ]
    return "\n".join(lines) + "\n"


def host(job: Job, node: int) -> str:
    """Return the host name of a pod within the JobSet."""
    return f"{job.name}-node-0-{node}.{job.name}"


def after(run: Path) -> int:
    """Return the exit status of a pod whose launcher has ended: 0 if done, else `RESTART` or `GIVE_UP`.

    A run that fails before its first checkpoint would fail again; a later failure may be cured by a restart.
    """
    state = read_json(run / "state.json")
    if state.get("state") == "done":
        return 0
    has_failed_at_start = not state or (state.get("state") == "failed" and state.get("step") == 0)
    return GIVE_UP if has_failed_at_start else RESTART


def _resources(job: Job, site: Site) -> dict[str, Any]:
    requested = {"cpu": str(job.cpus_per_process * job.processes_per_node)}
    if site.memory is not None:
        requested["memory"] = site.memory
    limits = {"nvidia.com/gpu": str(job.gpus_per_node)} if job.gpus_per_node else {}
    return {"requests": requested, **({"limits": limits} if limits else {})}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Dumper that writes multi-line strings as blocks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mstat.cluster.kubernetes", allow_abbrev=False)
    what = "in a pod: exit with a status that follows from the state of the run"
    parser.add_argument("--after", type=Path, metavar="RUN", required=True, help=what)
    return after(parser.parse_args().after)


if __name__ == "__main__":
    sys.exit(main())
