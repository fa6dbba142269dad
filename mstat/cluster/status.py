"""Status, logs, cancellation and continuation of runs, from the scheduler and the run folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from mstat.cluster import restarts, slurm
from mstat.cluster.about import read_about
from mstat.cluster.job import COLLECT, elements
from mstat.cluster.logs import last_failure, last_slurm_error, tail
from mstat.cluster.restarts import FOLDER
from mstat.console import console, print_line
from mstat.errors import UserError
from mstat.report.progress import by_stage, clock
from shards.text import markup

ABSENT = "–"
TABLE_LINES = 40  # at the end of a log, which hold the table of the launch checks
NARROW = 100  # columns
# Minimum widths: the longest word of each column, so that no word is cut.
WIDTHS = {"job": 10, "state": 9, "step": 8, "loss": 6, "by stage": 9, "clips/s": 7, "left": 5, "restarts": 8, "run": 8}
RECENT = 20  # records of metrics.jsonl in the mean speed
TAIL_BYTES = 1 << 16
LARGEST = 1e15  # metrics.jsonl of an untrusted run may have numbers too large to format


def show(runs: Sequence[Path]) -> None:
    """Print a table of runs, and below it the cause of each failure.

    Raises:
        UserError: If a folder is not a run, after the table of the others.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("run", "job", "state", "step", "loss", "by stage", "clips/s", "left", "restarts"):
        is_number = column not in ("run", "job", "state", "by stage")
        # On 80 columns text wraps between words; only names of folders wrap within a word.
        table.add_column(column, justify="right" if is_number else "left", min_width=WIDTHS[column], overflow="fold")
    failed = []
    for run, about in (part for given in runs if is_run(given) for part in expand(given)):
        row, failure = describe(run, about)
        table.add_row(*(markup(cell) for cell in row))
        if failure:
            failed.append((run, failure))
    out = console()
    table.padding = (0, 1) if out.width > NARROW else 0
    if table.rows:
        out.print(table)
    for run, failure in failed:
        out.print(f"[bold red]{markup(run)}[/]", soft_wrap=True, highlight=False)
        print_line(failure, keep="\n\t")
    if missing := [str(run) for run in runs if not is_run(run)]:
        raise UserError(f"{', '.join(missing)}: not a run folder, and no job was submitted for it")


def is_run(folder: Path) -> bool:
    """Return whether a run or a job was ever started in a folder."""
    return (folder / "state.json").is_file() or (folder / FOLDER).is_dir()


def expand(run: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder and job.json of a run, or of an array's elements and the job that collects from them."""
    about = read_about(run)
    for element, number in elements(run, about).items():
        yield element, _part(element, f"{about['id']}_{number}", about)
    if "collector" in about:
        name = {**about, "name": f"{about.get('name', 'mstat')}-{COLLECT}"}
        yield run / FOLDER / COLLECT, _part(run / FOLDER / COLLECT, about["collector"], name)
    if not about.get("array"):
        yield run, about
    evaluation = run / FOLDER / "evaluate"
    if evaluation.is_dir():
        yield evaluation, read_about(evaluation)


def _part(folder: Path, job: str, about: dict[str, Any]) -> dict[str, Any]:
    """Return job.json of an array's element, or the facts that are known before the element begins."""
    own = read_about(folder)
    log = Path(about.get("script", folder)).with_name(f"{about.get('name', 'mstat')}-{job}.log")
    # The record may be of another job, if this one does not repeat the element (`continue RUN -- --array=6`).
    is_own = own.get("id") == job or ("id" in own and not slurm.knows(job))
    return own if is_own else {"scheduler": "slurm", "id": job, "log": str(log)}


def describe(run: Path, about: dict[str, Any]) -> tuple[list[str], str]:
    """Return a row of the table and the cause of the failure, which is empty without one."""
    state = read_state(run)
    job, queue = _job(about)
    begins = restarts.begun_since_submission(run)
    status = state.get("state") or _last_outcome(restarts.read(run))
    if queue is not None and not queue.active and status != "failed":
        if queue.failed or (status == "running" and queue.state != "CANCELLED"):
            status = "cut off"  # the job died before it could record an outcome
        elif queue.state == "CANCELLED" and status in ("running", "not begun"):
            status = "cancelled"
    last = _tail(run / "metrics.jsonl")
    newest = last[-1] if last else {}
    total = num_steps(run)
    steps = newest.get("step", state.get("step"))
    row = [
        _short(run),
        job,
        status,
        ABSENT if steps is None else f"{steps:,}" + (f" / {total:,}" if total else ""),
        f"{newest['loss']:.3f}" if "loss" in newest else ABSENT,
        ", ".join(f"{stage} {value:.3f}" for stage, value in by_stage(newest).items()) or ABSENT,
        f"{speed(last):.1f}" if last else ABSENT,
        _left(last, total, run) if status in ("running", "requeue") else ABSENT,
        str(max(0, len(begins) - 1)),
    ]
    return row, _failure(run, about, state) if status in ("failed", "cut off") else ""


def read_state(run: Path) -> dict[str, Any]:
    """Return the content of state.json, without values of types that no run writes."""
    kinds = {"state": str, "step": int, "reason": str}
    state = restarts.read_json(run / "state.json")
    return {key: state[key] for key, kind in kinds.items() if type(state.get(key)) is kind}


def _last_outcome(events: Sequence[dict[str, Any]]) -> str:
    """Return the status of a job whose command writes no state.json."""
    kinds = [event for event in events if event["event"] != "submit"]
    return str(kinds[-1].get("outcome", "running")) if kinds else "not begun"


def _failure(run: Path, about: dict[str, Any], state: dict[str, Any]) -> str:
    log = Path(about.get("log", run / "no log"))
    failure = last_failure(log) or last_slurm_error(log)
    ends = [event for event in restarts.read(run) if event["event"] == "end"]
    reason = state.get("reason") or (str(ends[-1].get("reason", "")) if ends else "")
    if reason.startswith(restarts.CHECKS):
        failure = "\n".join(tail(log)[-TABLE_LINES:])
    # The reason of a run that failed by itself is the last line of the traceback.
    is_repeated = reason.split(": ", 1)[-1].split(";")[0] in failure
    return "\n".join(filter(None, [None if is_repeated else reason, failure])) or "its log has no error message"


def _job(about: dict[str, Any]) -> tuple[str, slurm.JobState | None]:
    """Return the scheduler's state of a job, as text and as an object."""
    if about.get("scheduler") == "local":
        if about.get("host") != socket.gethostname():
            return f"local {about.get('id', '?')}, on {about.get('host', 'an unknown host')}", None
        alive = local_is_alive(about)
        return f"local {about['id']}, {'runs' if alive else 'ended'}", None if alive else slurm.GONE
    if "id" not in about:
        return ABSENT, None
    try:
        queue = slurm.ask(about["id"])
    except slurm.SlurmError as error:
        return f"{about['id']} ({error})", None
    if queue is None:
        return f"{about['id']}, not in Slurm", slurm.GONE
    text = f"{about['id']} {queue.state}"
    if queue.state == "PENDING" and queue.reason:
        return f"{text} ({queue.reason})", queue
    return (f"{text} {queue.run_time} of {queue.time_limit}" if queue.running else text), queue


def local_is_alive(about: dict[str, Any]) -> bool:
    """Return whether the process of a local job runs on this host."""
    if about.get("host") != socket.gethostname() or "id" not in about:
        return False
    try:
        return b"submit.py" in Path(f"/proc/{about['id']}/cmdline").read_bytes()
    except OSError:
        return False


def num_steps(run: Path) -> int | None:
    """Return the total number of steps of a run; None if it is unknown."""
    if not (run / "config.yaml").is_file():
        return None
    from mstat.config.cli import load_config

    try:
        config = load_config(run / "config.yaml")
        if config.train.steps is not None:
            return config.train.steps
        import shards
        from mstat.runs.relocate import find_shards
        from mstat.training.train import training_sampler

        place = find_shards(run, config.data.shards)
        if "://" in place or not Path(place).is_dir():
            return None  # `status` opens no address that the settings of an untrusted run name
        reader = shards.open(place)
        return config.train.epochs * training_sampler(reader, config).steps_per_epoch
    except (OSError, ValueError, SystemExit):
        return None


def speed(records: Sequence[dict[str, Any]]) -> float:
    """Return the mean of clips per second over the last records."""
    recent = [record["clips_per_s"] for record in records[-RECENT:] if record.get("clips_per_s")]
    return len(recent) / sum(1 / value for value in recent) if recent else 0.0


def _left(records: Sequence[dict[str, Any]], total: int | None, run: Path) -> str:
    from mstat.config.cli import load_config

    if not records or not total or not (clips := speed(records)):
        return ABSENT
    batch = load_config(run / "config.yaml").batch
    return clock((total - records[-1]["step"]) * batch.num_identities * batch.num_tracklets / clips)


def _tail(path: Path) -> list[dict[str, Any]]:
    """Return the last records of a JSON-lines file."""
    if not path.is_file():
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue  # the first line is partial, and a crash may have truncated the last one
        if isinstance(record, dict) and type(record.get("step")) is int:
            records.append({key: value for key, value in record.items() if _is_number(value)})
    return records


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LARGEST


def _short(run: Path) -> str:
    try:
        return str(run.relative_to(Path.cwd()))
    except ValueError:
        return str(run)


def logs(runs: Sequence[Path], lines: int, *, follow: bool) -> None:
    """Print the end of each run's newest log. With `follow`, wait for a log that does not exist yet.

    Raises:
        UserError: If there is no log.
    """
    named = [about.get("log") for given in runs for _, about in expand(given)]
    paths = [log for log in named if log is not None and (Path(log).is_file() or (follow and not Path(log).exists()))]
    if not paths:
        raise UserError(f"{', '.join(map(str, runs))}: no log yet, since no job has begun")
    command = ["tail", f"--lines={lines}", *(["--follow=name", "--retry"] if follow else []), *paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="backslashreplace") as process:
        assert process.stdout
        try:
            for line in process.stdout:  # a log may contain escape sequences
                print_line(line.removesuffix("\n"), keep="\t")
        finally:
            process.terminate()


def cancel(run: Path, *, now: bool) -> str:
    """Cancel a run's job, after a checkpoint or with `now` immediately; return a message.

    Raises:
        UserError: If there is no job to cancel.
    """
    about = read_about(run)
    if about.get("scheduler") == "local":
        if not local_is_alive(about):
            raise UserError(f"{run}: its job has ended, or runs on another host ({about.get('host', '?')})")
        os.kill(about["id"], signal.SIGTERM)
        return f"{run}: saving and ending"
    state = slurm.ask(about["id"]) if "id" in about else None
    if state is None or not state.active:
        raise UserError(f"{run}: no job in the queue" + (f" ({state.state})" if state else ""))
    for folder in (run, *elements(run, about)):
        if folder == run or (folder / FOLDER).is_dir():
            (folder / FOLDER / "cancel").touch()
    if "collector" in about:
        slurm.cancel(about["collector"])
    if now or not state.running:
        slurm.cancel(about["id"])
        return f"{run}: job {about['id']} is cancelled"
    slurm.cancel(about["id"], pending=True)  # elements of an array that have not begun
    slurm.signal(about["id"])
    return f"{run}: job {about['id']} saves and ends; --now ends it without a checkpoint"


def continue_run(run: Path, flags: Sequence[str] = ()) -> str:
    """Submit a run's script again; return a message.

    Raises:
        UserError: If there is no script, or a job of the run is in the queue.
    """
    about = read_about(run)
    if about.get("scheduler") == "local":
        raise UserError(
            f"{run}: to continue a local job, re-run its command: {about.get('command', 'that of its submission')}"
        )
    if "script" not in about or "id" not in about:
        parent = next((folder for folder in run.parents if run in elements(folder, read_about(folder))), None)
        number = run.name.rpartition("-")[2]
        way_out = f"run `continue {parent} -- --array={number}`" if parent else "submit it with launch/submit.py"
        raise UserError(f"{run}: no batch script: {way_out}")
    slurm.refuse_second(run)
    slurm.check(Path(about["script"]))
    ids = slurm.start(run, about, flags)
    where = "" if about.get("array") else f" from step {restarts.step(run)}"
    return f"{run}: {slurm.named(ids)} continues{where}"
