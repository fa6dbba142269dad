"""Thin wrappers around Slurm's commands: submit, query, signal, cancel. Nothing is cached."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mstat.cluster import restarts
from mstat.cluster.about import read_about
from mstat.cluster.job import COLLECT, Job, collector, elements
from mstat.cluster.restarts import FOLDER
from mstat.cluster.script import batch_script
from mstat.cluster.sites import Site
from mstat.errors import UserError
from mstat.foreign_messages import UNKNOWN_JOB

# States of a job that runs or may run, as `job_state_string` in Slurm's source names them, running states first.
IN_QUEUE = (
    *("RUNNING", "SIGNALING", "RESIZING", "STOPPED", "PENDING", "CONFIGURING", "COMPLETING", "STAGE_OUT", "SUSPENDED"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT", "PREEMPTED"),
)
CLIENT_SECONDS = 60


class SlurmError(UserError):
    """An error of a Slurm command."""


@dataclass(frozen=True)
class JobState:
    """State of a job in Slurm, the reason for the state, the run time so far, and the time limit."""

    state: str
    reason: str = ""
    run_time: str = ""
    time_limit: str = ""

    @property
    def active(self) -> bool:
        """Return whether the job runs or may run."""
        return self.state in IN_QUEUE

    @property
    def running(self) -> bool:
        """Return whether the processes of the job run, so that they can save. SIGNALING lasts for a moment."""
        return self.state in ("RUNNING", "SIGNALING", "RESIZING")

    @property
    def failed(self) -> bool:
        """Return whether the job has ended, neither successfully nor cancelled."""
        return not self.active and self.state not in ("COMPLETED", "CANCELLED", "GONE")


GONE = JobState("GONE")  # ended so long ago that Slurm has deleted its record


def submit(job: Job, site: Site) -> list[str]:
    """Write, check and submit the scripts of a job and of the job that collects from its array.

    Returns:
        The ids of the jobs.

    Raises:
        SlurmError: If Slurm refuses a script. Then no job is in the queue.
        UserError: If a job of this folder is already in the queue.
    """
    refuse_second(job.folder)
    for one in filter(None, [job, collector(job)]):
        one.script.parent.mkdir(parents=True, exist_ok=True)
        one.script.write_text(batch_script(one, site))
        check(one.script)
    about = {"scheduler": "slurm", "kind": job.kind, "array": job.array, "script": str(job.script), "name": job.log}
    return start(job.folder, about)


def refuse_second(folder: Path) -> None:
    """Raise UserError if a job of this folder is in the queue."""
    about = read_about(folder)
    if about.get("scheduler") == "slurm" and "id" in about and (state := ask(about["id"])) and state.active:
        raise UserError(f"{folder}: job {about['id']} is {state.state}: cancel it or wait for its end")


def start(folder: Path, about: dict[str, Any], flags: Sequence[str] = ()) -> list[str]:
    """Submit the scripts in a folder. The limits on restarts count from here, and a cancellation is cleared.

    Args:
        about: The content of job.json without the ids.
        flags: Further flags of sbatch for the first script.

    Returns:
        The id of the job, and for an array the id of the job that collects from it.
    """
    for one in [folder, *elements(folder, about), folder / FOLDER / COLLECT]:
        (one / FOLDER / "cancel").unlink(missing_ok=True)
        if one == folder or (one / FOLDER).is_dir():
            restarts.append(one, {"event": "submit"})
    script = Path(about["script"])
    ids = [_sbatch(script, flags)]
    log = script.with_name(f"{about.get('name', 'mstat')}-{ids[0]}.log")
    about = {**about, "id": ids[0], "log": str(log)}
    if about.get("array"):
        # The results of the other elements count even if one element has failed.
        when = "afterok" if about.get("kind") == "shards" else "afterany"
        after = [f"--dependency={when}:{ids[0]}", "--kill-on-invalid-dep=yes"]
        try:
            ids.append(_sbatch(script.with_name(f"{COLLECT}.sh"), after))
        except SlurmError:
            cancel(ids[0])
            raise
        about["collector"] = ids[1]
    restarts.write_json(folder / FOLDER / "job.json", about)
    return ids


def named(ids: Sequence[str]) -> str:
    """Return the ids of `start` as text for a message."""
    return f"job {ids[0]}" + (f" (job {ids[1]} collects its results)" if len(ids) > 1 else "")


def check(script: Path) -> None:
    """Check a script by `sbatch --test-only`; raise SlurmError if Slurm would refuse it."""
    try:
        _call("sbatch", "--test-only", str(script))
    except SlurmError as error:
        raise SlurmError(f"{script}: {error}") from None


def _sbatch(script: Path, flags: Sequence[str]) -> str:
    return _call("sbatch", "--parsable", *flags, str(script)).strip().split(";")[0]


def ask(job: str) -> JobState | None:
    """Return the state of a job, or None if Slurm has no record of it."""
    try:
        return parse_job(_call("scontrol", "--oneliner", "show", "job", job))
    except SlurmError as error:
        if not UNKNOWN_JOB.search(str(error)):
            raise
        return _from_accounting(job)


def parse_job(text: str) -> JobState | None:
    """Return the state of a job from `scontrol --oneliner show job`; None if the text has none.

    The state of an array is that of a running element, or else of a waiting one.
    """
    result = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in text.splitlines() if line.startswith("JobId=")]
    if not result:
        return None
    result.sort(key=lambda one: IN_QUEUE.index(one["JobState"]) if one["JobState"] in IN_QUEUE else len(IN_QUEUE))
    one = result[0]
    return JobState(one["JobState"], one.get("Reason", ""), one.get("RunTime", ""), one.get("TimeLimit", ""))


def knows(job: str) -> bool:
    """Return whether Slurm answers and has a record of the job."""
    try:
        return ask(job) is not None
    except SlurmError:
        return False


def _from_accounting(job: str) -> JobState | None:
    if shutil.which("sacct") is None:
        return None
    try:
        text = _call("sacct", "--noheader", "--allocations", "--parsable2", "--format=State,Elapsed", f"--jobs={job}")
    except SlurmError:  # a cluster without accounting
        return None
    return parse_accounting(text)


def parse_accounting(text: str) -> JobState | None:
    """Return the state of a job from `sacct --parsable2 --format=State,Elapsed`; None if the text is empty."""
    words = text.split("\n")[0].split("|")
    return JobState(words[0].split()[0], run_time=words[-1]) if words[0] else None


def signal(job: str) -> None:
    """Send USR1 to the batch script, which forwards it to the ranks: they save and end."""
    _call("scancel", "--batch", "--signal=USR1", job)


def cancel(job: str, *, pending: bool = False) -> None:
    """Cancel a job or all elements of an array; with `pending`, only those that have not begun."""
    _call("scancel", *(["--state=PENDING"] if pending else []), job)


def _call(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]}: command not found: run this on a login node, or use --scheduler local")
    # Inside a job, these variables would override the directives of the script.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SBATCH_", "SLURM_")) or k == "SLURM_CONF"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=CLIENT_SECONDS)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: no answer within {CLIENT_SECONDS} s") from None
    if done.returncode:
        message = "; ".join(
            line.removeprefix(f"{command[0]}: ").removeprefix("error: ")
            for line in (done.stderr or done.stdout).splitlines()
        )
        raise SlurmError(f"{command[0]}: {message or f'exit status {done.returncode}'}")
    return done.stdout
