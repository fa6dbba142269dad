"""The batch script, as text that bash accepts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mstat.cluster.job import Job
from mstat.cluster.script import batch_script
from mstat.cluster.sites import Site, load_site
from tests.conftest import PROJECT

SUBMIT = [sys.executable, str(PROJECT / "launch" / "submit.py")]
SITES = sorted((PROJECT / "configs" / "sites").glob("*.yaml"))


def dry(*arguments: object) -> str:
    done = subprocess.run([*SUBMIT, "--dry-run", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What would be run: a syntax error would show.
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0
    return done.stdout


def test_the_requested_resources(tmp_path: Path) -> None:
    """The script has every resource and quotes the arguments; a dry run writes nothing."""
    options = ["--nodes", 2, "--gpus-per-node", 8, "--time", "12:00:00", "--partition", "gpu", "--account", "reid"]
    run = tmp_path / "it's mine"
    text = dry(*options, "--requeue-limit", 5, "--zero", 2, "--", "--config", "configs/mars.yaml", "--run", run)
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=8",
        "#SBATCH --cpus-per-task=64",
        "#SBATCH --time=12:00:00",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=reid",
        "#SBATCH --signal=B:USR1@300",
        "#SBATCH --requeue",
        '    --num_machines 2 --num_processes 16 --machine_rank "$SLURM_NODEID" \\',
        "    --use_deepspeed --zero_stage 2 \\",
    ):
        assert f"\n{line}\n" in text, line
    assert "--requeue-limit 5" in text
    text = re.sub(r" \\\n +", " ", text)  # on one line
    assert f"""launch/train.py --config configs/mars.yaml --run '{tmp_path}/it'"'"'s mine' || {{""" in text
    assert not run.exists()


def test_arrays_and_their_collectors(tmp_path: Path) -> None:
    """Each seed is a run; tasks share shards; a second job collects."""
    text = dry("--gpus-per-node", 1, "--array", 3, "--", "--run", tmp_path / "sweep", "--seed", 4)
    text = re.sub(r" \\\n +", " ", text)
    assert "#SBATCH --array=4-6\n" in text
    # SLURM_JOB_ID of the last element is that of all: it must not requeue, signal or cancel the others.
    assert "\njob=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" in text
    assert not re.search(r"(scontrol|scancel)[^\n]*SLURM_JOB_ID", text)
    assert f"""export RUN={tmp_path}/sweep/seed-"$SLURM_ARRAY_TASK_ID"\n""" in text
    assert '--seed 4 --run "$RUN" --seed "$SLURM_ARRAY_TASK_ID" || {' in text
    assert f"-m mstat.cluster.collect {tmp_path}/sweep\n" in text

    text = dry(
        "--job", "shards", "--array", 8, "--array-limit", 2, "--", "build", "mars", "--source", "M", "--out", "O"
    )
    assert "#SBATCH --array=1-8%2\n" in text
    assert '-m shards build mars --source M --out O --array-task "$SLURM_ARRAY_TASK_ID/8"\n' in text
    assert "-m shards build mars --source M --out O --join\n" in text
    assert "gpus" not in text


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_the_sites_of_the_project(path: Path, tmp_path: Path) -> None:
    """The script contains the set-up of each site."""
    site = load_site(path)
    text = dry("--site", path, "--nodes", 2, "--gpus-per-node", 8, "--", "--run", tmp_path)
    for line in site.setup:
        assert f"\n{line}\n" in text
    assert len(SITES) >= 3


def test_from_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a clone, the nodes start the mstat that is installed for their Python; `project` names a clone there."""
    monkeypatch.setattr("mstat.cluster.sites.IS_CLONE", False)
    job = Job("train", tmp_path / "run", ("--config", "mars.yaml"), tmp_path, nodes=2)
    text = re.sub(r" \\\n +", " ", batch_script(job, Site(python="python", container="apptainer exec a.sif")))
    python = "apptainer exec a.sif python"
    configs = f'--config_file "$({python} -m mstat configs accelerate/multinode.yaml)" --num_machines 2'
    assert f"  {python} -m mstat preflight --expect-processes 16 " in text
    assert f"  {python} -m accelerate.commands.launch {configs}" in text
    assert text.count(configs) == 2
    assert text.count(" -m mstat train --config mars.yaml || {") == 2
    assert "PYTHONPATH" not in text
    assert "launch/train.py" not in text
    text = batch_script(job, Site(project="/opt/my mstat"))
    assert "--config_file '/opt/my mstat/configs/accelerate/multinode.yaml'" in text
    assert "'/opt/my mstat'/launch/train.py" in text
    assert "PYTHONPATH='/opt/my mstat'${PYTHONPATH:+:$PYTHONPATH}" in text
    assert "-m mstat " not in text


def test_a_tilde_in_a_site_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In paths and variables, which the script quotes; lines of shell stay unchanged."""
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "site.yaml"
    path.write_text(
        "{python: ~/venv/bin/python, host_python: ~/python3, project: ~/mstat, accelerate: ~/ddp.yaml, setup: "
        "[source ~/venv/bin/activate], environment: {MSTAT_CACHE: ~/cache, NAME: a~b}}"
    )
    site = load_site(path)
    assert (site.python, site.host_python) == (f"{tmp_path}/venv/bin/python", f"{tmp_path}/python3")
    assert (site.project, site.accelerate) == (f"{tmp_path}/mstat", f"{tmp_path}/ddp.yaml")
    assert site.environment == {"MSTAT_CACHE": f"{tmp_path}/cache", "NAME": "a~b"}
    assert site.setup == ["source ~/venv/bin/activate"]


def test_a_site_with_a_wrong_key(tmp_path: Path) -> None:
    """The message names file and key."""
    path = tmp_path / "site.yaml"
    path.write_text("modules: [cuda]\n")
    with pytest.raises(ValueError, match=r"site\.yaml: .*modules"):
        load_site(path)


def test_a_time_limit_that_leaves_no_time(tmp_path: Path) -> None:
    """A limit below --stop-before would restart the job forever."""
    command = [*SUBMIT, "--dry-run", "--time", "5", "--", "--run", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: --stop-before 300 must be less than --time 5 (300 s)" in done.stderr


def test_invalid_flags() -> None:
    """Flags of the other command before `--` are refused with a hint, and so are negative counts."""
    for flags, message in (
        (
            ["--config", "a b.yaml"],
            "unrecognized arguments: --config 'a b.yaml'; arguments of the command go after --",
        ),
        (["--gpus-per-node", "-1"], "'-1' is not an integer of at least 0"),
    ):
        done = subprocess.run([*SUBMIT, "--dry-run", *flags], capture_output=True, text=True)
        assert done.returncode == 2
        assert message in done.stderr


def test_special_characters_in_names_of_logs(tmp_path: Path) -> None:
    """Slurm expands a percent sign in names of logs; a slash in a job's name must not become a folder."""
    text = dry("--name", "a/50%", "--", "--run", tmp_path / "50%j")
    assert f"#SBATCH --output={tmp_path}/50%%j/job/a-50--%j.log\n" in text
    assert f'log={tmp_path}/50%j/job/a-50--"$job.log"\n' in text
