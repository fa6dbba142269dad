"""Parsing of Slurm's output; tests/launch/test_submit.py has them with a Slurm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mstat.cluster import restarts, slurm
from mstat.cluster.slurm import JobState, SlurmError, parse_accounting, parse_job

# A line of `scontrol --oneliner show job` of Slurm 22.05, without what stands between and after these fields.
LINE = (
    "JobId={id} {array}JobName={name} UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0 "
    "Account=(null) QOS=(null) JobState={state} Reason={reason} Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 "
    "Reboot=0 ExitCode=0:0 RunTime={run_time} TimeLimit={limit} TimeMin=N/A SubmitTime=2026-11-26T13:50:48 "
    "Scheduler=Main Partition=debug AllocNode:Sid=ctl:0 ReqNodeList=(null) NodeList=n1 NumNodes=1 NumCPUs=1 "
    "CPUs/Task=1 ReqB:S:C:T=0:0:*:* TRES=cpu=1,node=1,billing=1 Command=/runs/mars/job/job.sh WorkDir=/home/reid "
    "StdErr=/dev/null StdIn=/dev/null StdOut=/dev/null Power= \n"
)


def line(state: str, array: str = "", name: str = "mstat", reason: str = "None") -> str:
    return LINE.format(
        id=7, array=array, name=name, state=state, reason=reason, run_time="00:11:12", limit="1-00:00:00"
    )


def test_a_running_job() -> None:
    state = parse_job(line("RUNNING"))
    assert state == JobState("RUNNING", "None", run_time="00:11:12", time_limit="1-00:00:00")
    assert state.active
    assert not state.failed


def test_a_waiting_job_has_its_reason() -> None:
    state = parse_job(line("PENDING", reason="ReqNodeNotAvail,_UnavailableNodes:n[1-2]"))
    assert state is not None
    assert (state.state, state.reason) == ("PENDING", "ReqNodeNotAvail,_UnavailableNodes:n[1-2]")


def test_a_name_with_spaces_hides_nothing() -> None:
    """Slurm does not quote it."""
    assert parse_job(line("FAILED", name="my run JobState=RUNNING")) == parse_job(line("FAILED"))


def test_the_state_of_an_array_is_that_of_what_still_runs() -> None:
    """Elements come in any order, those that have not begun in one line. The end of one is not that of the array."""
    waiting = line("PENDING", "ArrayJobId=7 ArrayTaskId=6-9%1 ArrayTaskThrottle=1 ", reason="JobArrayTaskLimit")
    ended, running = (line(state, "ArrayJobId=7 ArrayTaskId=4 ") for state in ("CANCELLED", "RUNNING"))
    for text, expected in (
        (waiting + ended + running, "RUNNING"),
        (ended + waiting, "PENDING"),
        (ended + ended, "CANCELLED"),
    ):
        state = parse_job(text)
        assert state is not None
        assert state.state == expected


@pytest.mark.parametrize("text", ["", "\n", "No jobs in the system\n", "slurm_load_jobs error: Invalid job id\n"])
def test_no_job(text: str) -> None:
    assert parse_job(text) is None


@pytest.mark.parametrize(
    ("state", "is_active", "has_failed"),
    [
        *((state, True, False) for state in ("RUNNING", "PENDING", "REQUEUE_HOLD", "SUSPENDED", "COMPLETING")),
        # For a moment after `submit.py cancel`, and at times on clusters with burst buffers or resized jobs.
        *((state, True, False) for state in ("SIGNALING", "STAGE_OUT", "RESIZING", "STOPPED", "SPECIAL_EXIT")),
        *((state, False, False) for state in ("COMPLETED", "CANCELLED", "GONE")),
        *((state, False, True) for state in ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL")),
    ],
)
def test_what_states_mean(state: str, is_active: bool, has_failed: bool) -> None:
    assert (JobState(state).active, JobState(state).failed) == (is_active, has_failed)


def test_which_states_can_save() -> None:
    """Of the states of an active job, those in which its processes run."""
    assert [state for state in slurm.IN_QUEUE if JobState(state).running] == ["RUNNING", "SIGNALING", "RESIZING"]


def test_the_state_in_accounting() -> None:
    """Accounting, which outlives the job in Slurm: a cancellation names the user; steps follow in further lines."""
    assert parse_accounting("COMPLETED|1-02:03:04\n") == JobState("COMPLETED", run_time="1-02:03:04")
    assert parse_accounting("CANCELLED by 1000|00:00:07\nFAILED|00:00:01\n") == JobState("CANCELLED", "", "00:00:07")
    assert parse_accounting("") is None


def test_where_there_is_no_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command is named, with the way out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r"scontrol: command not found: .*--scheduler local"):
        slurm.ask("7")
    with pytest.raises(SlurmError, match="sbatch: command not found"):
        slurm.check(tmp_path / "job.sh")
    assert not slurm.knows("7")


def test_a_complaint_is_one_line() -> None:
    """All lines of a command's standard error without its name; else of its output, else the exit status."""
    for code, message in (
        ("print('sh: error: invalid partition\\nsh: no', file=sys.stderr)", "invalid partition; no"),
        ("print('Job 2_77 not found')", "Job 2_77 not found"),
        ("", "exit status 3"),
    ):
        script = f"import sys; {code}\nsys.exit(3)"
        with pytest.raises(SlurmError) as caught:
            slurm._call("sh", "-c", 'exec "$0" -c "$1"', sys.executable, script)
        assert str(caught.value) == f"sh: {message}"


def test_the_environment_of_a_job_does_not_reach_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submission from within a job: its variables would count more than the script. The cluster stays the same."""
    for name in ("SBATCH_PARTITION", "SLURM_JOB_ID", "SLURM_CONF", "KEPT"):
        monkeypatch.setenv(name, "value")
    names = {entry.partition("=")[0] for entry in slurm._call("env").splitlines()}
    assert {"SLURM_CONF", "KEPT"} <= names
    assert not {"SBATCH_PARTITION", "SLURM_JOB_ID"} & names


def test_a_folder_without_a_job_takes_one(tmp_path: Path) -> None:
    """Slurm is not asked for a run that is new, or that ran without a scheduler."""
    slurm.refuse_second(tmp_path)
    restarts.write_json(tmp_path / "job" / "job.json", {"scheduler": "local", "id": 4000, "host": "here"})
    slurm.refuse_second(tmp_path)
