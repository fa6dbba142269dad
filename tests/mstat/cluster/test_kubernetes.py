"""The JobSet against its published schema; and its pods' script, which tests/soak/test_kubernetes.py runs on two hosts.

The schema is that of the package kubeflow-trainer-api, which Kubeflow generates from the API's own Go types: JobSet
v1alpha2 and the Kubernetes objects in it. Rules that only an API server checks (CEL, webhooks) are not in it.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from pydantic import ValidationError

from mstat.cluster.job import Job
from mstat.cluster.kubernetes import GIVE_UP, RESTART, after, manifest, render, script
from mstat.cluster.sites import Site, load_site
from mstat.runs.folder import write_state
from tests.conftest import PROJECT

SITE = Site(
    image="registry.example/mstat:1",
    volumes={"/data": "shared"},
    interface="eth0",
    environment={"NCCL_DEBUG": "INFO"},
    memory="500Gi",
)
RUN = "/data/runs/mars it's"
TWO = Job(
    kind="train",
    folder=Path(RUN),
    arguments=("--config", "configs/mars.yaml", "--optim.lr", "1e-3", "--run", RUN),
    directory=Path("/mstat"),
    name="mars-1",
    nodes=2,
)
SMALL = replace(TWO, nodes=1, gpus_per_node=0, processes_per_node=1, preflight=False)
SUBMIT = [sys.executable, str(PROJECT / "launch" / "submit.py"), "--scheduler", "kubernetes"]


@pytest.mark.parametrize(("job", "site"), [(TWO, SITE), (SMALL, Site(image="i", volumes={"/data": "c"}))])
def test_the_published_schema_knows_every_key(job: Job, site: Site) -> None:
    """Read by its models, of which no field is lost: they drop what they do not know, and refuse wrong types."""
    written = yaml.safe_load(render(job, site))
    assert written == manifest(job, site)
    assert JobsetV1alpha2JobSet.from_dict(written).to_dict() == written


def test_the_schema_finds_faults() -> None:
    """A key that does not exist is lost on the way, a wrong type refused: the test above can fail."""
    written = manifest(TWO, SITE)
    pod = written["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["restartPolice"] = "Never"
    assert JobsetV1alpha2JobSet.from_dict(written).to_dict() != written
    pod["terminationGracePeriodSeconds"] = "5 minutes"
    with pytest.raises(ValidationError, match="terminationGracePeriodSeconds"):
        JobsetV1alpha2JobSet.from_dict(written)


def test_the_script() -> None:
    """bash takes it; quotes hold; checks come first unless they are skipped, on another port."""
    text = script(TWO, SITE)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert text.count('--num_machines 2 --num_processes 16 --machine_rank "$JOB_COMPLETION_INDEX"') == 2
    assert "MAIN=mars-1-node-0-0.mars-1\n" in text
    assert "--hosts mars-1-node-0-0.mars-1,mars-1-node-0-1.mars-1" in text
    assert text.index('--main_process_port "29499"') < text.index('--main_process_port "29500"')
    array = text[text.index("training=(") : text.index("# Signal the ranks")]
    echoed = subprocess.run(
        ["bash", "-c", f'{array}\nprintf "%s\\n" "${{training[@]}}"'], capture_output=True, text=True
    )
    assert echoed.stdout.splitlines() == ["launch/train.py", *TWO.arguments]
    assert text.index("launch/preflight.py") < text.index("accelerate launch")
    assert "preflight" not in script(SMALL, SITE)
    assert "--use_deepspeed --zero_stage 2" in script(replace(TWO, zero=2), SITE)


@pytest.mark.parametrize(("change", "site", "message"), [
    ({"name": "Mars_1"}, SITE, "--name Mars_1: must be at most 52 lower-case letters"),
    ({"name": "m" * 60}, SITE, "at most 52"),
    ({"folder": Path("/mstat/runs/mars")}, SITE, "must be in one of the site's `volumes`"),
    ({"kind": "evaluate"}, SITE, "runs one training"),
    ({"qos": "high"}, SITE, "--qos is an option of Slurm"),
    ({}, Site(), "must have an `image`"),
    ({}, replace(SITE, container="apptainer exec image.sif"), "no `container`"),
])  # fmt: skip
def test_invalid_jobs_are_refused(change: dict[str, object], site: Site, message: str) -> None:
    """The message names the option."""
    with pytest.raises(ValueError, match=message):
        render(replace(TWO, **change), site)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "step", "status"), [
    ("done", 20, 0), ("requeue", 7, RESTART), ("running", 0, RESTART), ("failed", 5, RESTART), ("failed", 0, GIVE_UP),
])  # fmt: skip
def test_the_exit_status_of_a_pod(state: str, step: int, status: int, tmp_path: Path) -> None:
    """0 if done; a restart if there may be a checkpoint; no restart if the run failed at its start."""
    write_state(tmp_path, state, step)  # type: ignore[arg-type]
    assert after(tmp_path) == status
    assert after(tmp_path / "none") == GIVE_UP


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """As a user types it: the manifest on stdout, by the site that comes along; what follows `--` untouched; a run
    folder as the pods see it; nothing is sent."""
    path = PROJECT / "configs" / "sites" / "kubernetes.yaml"
    options = ["--site", str(path), "--nodes", "2", "--gpus-per-node", "8", "--name", "mars-1"]
    done = subprocess.run([*SUBMIT, "--dry-run", *options, "--", *TWO.arguments], capture_output=True, text=True)
    assert yaml.safe_load(done.stdout) == manifest(TWO, load_site(path)), done.stderr
    for flags, message in (
        ([*options, "--"], "--scheduler kubernetes needs --dry-run"),
        (["--dry-run", *options, "--", "--run", "runs/a"], "--run /mstat/runs/a: must be in"),
    ):
        bad = subprocess.run([*SUBMIT, *flags], capture_output=True, text=True, cwd=tmp_path)
        assert bad.returncode == 1
        assert message in bad.stderr
