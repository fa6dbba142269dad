"""The JobSet against its published schema; and its pods' script, which tests/soak/test_kubernetes.py runs on two hosts.

The schema is that of the package kubeflow-trainer-api, which Kubeflow generates from the API's own Go types: JobSet
v1alpha2 and the Kubernetes objects in it. Rules that only an API server checks (CEL, webhooks) are not in it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from pydantic import ValidationError

from mstat.cluster.kubernetes import GIVE_UP, GO_ON, Job, after, manifest, render, script
from mstat.run import write_state
from tests.conftest import PROJECT

TWO = Job(
    name="mars-1",
    image="registry.example/mstat:1",
    run="/data/runs/mars it's",
    flags=["--config", "configs/mars.yaml", "--optim.lr", "1e-3"],
    nodes=2,
    volumes={"/data": "shared"},
    environment={"NCCL_DEBUG": "INFO"},
    cpus="64",
    memory="500Gi",
)


@pytest.mark.parametrize("job", [TWO, Job(name="a", image="i", run="r", gpus_per_node=0, checks=False)])
def test_the_published_schema_knows_every_key(job: Job) -> None:
    """Read by its models, of which no field is lost: they drop what they do not know, and refuse wrong types."""
    written = yaml.safe_load(render(job))
    assert written == manifest(job)
    assert JobsetV1alpha2JobSet.from_dict(written).to_dict() == written


def test_the_schema_finds_faults() -> None:
    """A key that does not exist is lost on the way, a wrong type refused: the test above can fail."""
    written = manifest(TWO)
    pod = written["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["restartPolice"] = "Never"
    assert JobsetV1alpha2JobSet.from_dict(written).to_dict() != written
    pod["terminationGracePeriodSeconds"] = "5 minutes"
    with pytest.raises(ValidationError, match="terminationGracePeriodSeconds"):
        JobsetV1alpha2JobSet.from_dict(written)


def test_the_script() -> None:
    """bash takes it; quotes hold; checks come first unless they are skipped."""
    text = script(TWO)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "--num_machines 2 --num_processes 16" in text
    assert "--main_process_ip mars-1-node-0-0.mars-1" in text
    assert "--hosts mars-1-node-0-0.mars-1,mars-1-node-0-1.mars-1" in text
    echoed = subprocess.run(
        ["bash", "-c", f'{text.splitlines()[1]}; printf "%s\\n" "${{training[@]}}"'], capture_output=True, text=True
    )
    assert echoed.stdout.splitlines() == ["launch/train.py", *TWO.flags, "--run", TWO.run]
    assert text.index("launch/preflight.py") < text.index("accelerate launch")
    assert "preflight" not in script(dataclasses.replace(TWO, checks=False))


@pytest.mark.parametrize(("change", "message"), [
    ({"name": "Mars_1"}, "--name Mars_1: lower-case letters"),
    ({"name": "m" * 60}, "at most 52"),
    ({"nodes": 0}, "--nodes must be at least 1"),
    ({"run": "runs/mars"}, "2 nodes must share its volume"),
])  # fmt: skip
def test_what_cannot_run_is_refused(change: dict[str, object], message: str) -> None:
    """Before anything is sent to a cluster."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TWO, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "step", "status"), [
    ("done", 20, 0), ("requeue", 7, GO_ON), ("running", 0, GO_ON), ("failed", 5, GO_ON), ("failed", 0, GIVE_UP),
])  # fmt: skip
def test_a_pod_ends_as_its_run_did(state: str, step: int, status: int, tmp_path: Path) -> None:
    """0 done, another start where there is something to go on from, none where nothing was ever reached."""
    write_state(tmp_path, state, step)  # type: ignore[arg-type]
    assert after(tmp_path) == status
    assert after(tmp_path / "none") == GIVE_UP


def test_the_command() -> None:
    """As a user types it: the manifest on stdout, exit status 2 for what cannot be."""
    command = [sys.executable, "-m", "mstat.cluster.kubernetes", "--name", "m", "--image", "i", "--run", "/data/r"]
    command += ["--nodes", "2", "--volume", "/data=c", "--env", "A=b=c", "--", "--optim.lr", "1e-3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    job = Job(name="m", image="i", run="/data/r", flags=["--optim.lr", "1e-3"], nodes=2, volumes={"/data": "c"})
    assert yaml.safe_load(done.stdout) == json.loads(
        json.dumps(manifest(dataclasses.replace(job, environment={"A": "b=c"})))
    )
    bad = subprocess.run([*command[:8], "x/r", *command[9:]], capture_output=True, text=True, cwd=PROJECT)
    assert bad.returncode == 2
    assert "2 nodes must share its volume" in bad.stderr
