"""Where runs stand: from the scheduler, and from what they leave in their folders; and what to do about them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mstat.cluster import attempts, slurm
from mstat.cluster.attempts import FOLDER
from mstat.cluster.logs import last_failure, last_word, tail

ABSENT = "–"
TABLE_LINES = 40  # of a log that ends with the checks of the nodes
RECENT = 20  # records of metrics.jsonl that a speed is the mean of
TAIL_BYTES = 1 << 16


def show(runs: Sequence[Path]) -> None:
    """A table of runs; below it why each failed one failed."""
    table = Table()
    for column in ("run", "job", "state", "step", "loss", "by stage", "clips/s", "left", "restarts"):
        table.add_column(column, justify="left" if column in ("run", "job", "state", "by stage") else "right")
    failed = []
    for run in (found for given in runs for found in expand(given)):
        row, failure = describe(run)
        table.add_row(*(escape(cell) for cell in row))
        if failure:
            failed.append((run, failure))
    # A table that is cut to 80 columns in a pipe would hide what is asked for.
    (Console() if Console().is_terminal else Console(width=160)).print(table)
    for run, failure in failed:
        rich.print(f"[bold red]{escape(str(run))}[/]")
        print(failure)


def expand(run: Path) -> Iterator[Path]:
    """A folder, or where an array has made several: those, and the job that collects.

    Raises:
        ValueError: If nothing was ever started there.
    """
    if not (run / "state.json").is_file() and not (run / FOLDER).is_dir():
        raise ValueError(f"{run}: no run, and no job was submitted for it")
    elements = sorted([*run.glob("seed-*"), *run.glob("job/task-*")], key=_by_number)
    yield from elements or [run]
    yield from (path for path in (run / FOLDER / "collect", run / FOLDER / "evaluate") if path.is_dir())


def _by_number(path: Path) -> int:
    number = path.name.partition("-")[2]
    return int(number) if number.isdigit() else -1


def describe(run: Path) -> tuple[list[str], str]:
    """A row of the table, and the words of the failure if there is one."""
    about = attempts.read_json(run / FOLDER / "job.json")
    state = attempts.read_json(run / "state.json")
    job, queue = _job(about)
    events = attempts.read(run)
    told = state.get("state") or (f"{events[-1].get('outcome', 'began')}" if events else "not begun")
    if told == "running" and queue is not None and not queue.active:
        told = "cut off"  # nobody lived to write how it ended
    last = _tail(run / "metrics.jsonl")
    newest = last[-1] if last else {}
    begins = attempts.begun_since_submission(run)
    total = num_steps(run)
    steps = newest.get("step", state.get("step", 0))
    row = [
        _short(run),
        job,
        told,
        f"{steps:,}" + (f" / {total:,}" if total else ""),
        f"{newest['loss']:.4f}" if "loss" in newest else ABSENT,
        ", ".join(f"{stage} {value:.3f}" for stage, value in _by_stage(newest).items()) or ABSENT,
        f"{speed(last):.1f}" if last else ABSENT,
        _left(last, total, run) if told in ("running", "requeue") else ABSENT,
        str(max(0, len(begins) - 1)),
    ]
    failure = ""
    if told in ("failed", "cut off"):
        log = Path(about.get("log", run / "no log"))
        words = last_failure(log) or last_word(log)
        reason = state.get("reason") or ""
        # Of a run that failed by itself the reason is the last line of the traceback, and need not be told twice.
        if reason.startswith(attempts.CHECKS):
            words = "\n".join(tail(log)[-TABLE_LINES:])
        told_twice = reason.split(": ", 1)[-1].split(";")[0] in words
        failure = "\n".join(filter(None, [None if told_twice else reason, words])) or "no word of why in its log"
    return row, failure


def _job(about: dict[str, Any]) -> tuple[str, slurm.JobState | None]:
    """What the scheduler says, in words, and as it is."""
    if about.get("scheduler") == "local":
        return f"local {about['id']}" + (", runs" if local_is_alive(about) else ", ended"), None
    if "id" not in about:
        return ABSENT, None
    try:
        queue = slurm.ask(about["id"])
    except slurm.SlurmError as error:
        return f"{about['id']} ({error})", None
    if queue is None:
        return f"{about['id']}, gone from Slurm", slurm.JobState("GONE")
    words = f"{about['id']} {queue.state}"
    if queue.state == "PENDING" and queue.reason:
        return f"{words} ({queue.reason})", queue
    return (f"{words} {queue.run_time} of {queue.time_limit}" if queue.state == "RUNNING" else words), queue


def local_is_alive(about: dict[str, Any]) -> bool:
    """Whether the process of a local job runs, as far as can be told from here."""
    if about.get("host") != socket.gethostname():
        return False
    try:
        return b"submit.py" in Path(f"/proc/{about['id']}/cmdline").read_bytes()
    except OSError:
        return False


def num_steps(run: Path) -> int | None:
    """Steps that a run is to have; None where that is not known, or not without a look into its shards."""
    if not (run / "config.yaml").is_file():
        return None
    from mstat.configure import load_config

    try:
        config = load_config(run / "config.yaml")
        if config.train.steps is not None:
            return config.train.steps
        import shards
        from mstat.train import training_plan

        return config.train.epochs * training_plan(shards.open(config.data.shards), config).steps_per_epoch
    except (OSError, ValueError, SystemExit):
        return None


def speed(records: Sequence[dict[str, Any]]) -> float:
    """Clips a second over the last records; each record's is a mean over those written with it."""
    recent = [record["clips_per_s"] for record in records[-RECENT:] if record.get("clips_per_s")]
    return len(recent) / sum(1 / value for value in recent) if recent else 0.0


def _left(records: Sequence[dict[str, Any]], total: int | None, run: Path) -> str:
    from mstat.configure import load_config

    if not records or not total or not (clips := speed(records)):
        return ABSENT
    batch = load_config(run / "config.yaml").batch
    seconds = int((total - records[-1]["step"]) * batch.num_identities * batch.num_tracklets / clips)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def _by_stage(record: dict[str, Any]) -> dict[str, float]:
    stages: dict[str, float] = {}
    for name, value in record.items():
        if name.startswith("loss/"):
            stage = name.split("/")[1]
            stages[stage] = stages.get(stage, 0.0) + value
    return stages


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last records of a journal."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            records.append(dict(json.loads(line)))
        except ValueError:
            continue  # the first, cut by the tail, or the last, cut by a crash
    return records


def _short(run: Path) -> str:
    try:
        return str(run.relative_to(Path.cwd()))
    except ValueError:
        return str(run)


def logs(runs: Sequence[Path], lines: int, *, follow: bool) -> None:
    """The end of each run's newest log."""
    paths = []
    for run in (found for given in runs for found in expand(given)):
        log = attempts.read_json(run / FOLDER / "job.json").get("log")
        if log is None or not Path(log).is_file():
            raise ValueError(f"{run}: no log yet; its job has not begun")
        paths.append(log)
    command = ["tail", f"--lines={lines}", *(["--follow=name", "--retry"] if follow else []), *paths]
    if follow:
        os.execvp("tail", command)
    subprocess.run(command, check=True)


def cancel(run: Path, *, now: bool) -> str:
    """End a run's job: with a checkpoint, or at once. Gives what was done.

    Raises:
        ValueError: If there is no job to cancel.
    """
    about = attempts.read_json(run / FOLDER / "job.json")
    if about.get("scheduler") == "local":
        if not local_is_alive(about):
            raise ValueError(f"{run}: its job has ended, or runs on host {about['host']}")
        os.kill(about["id"], signal.SIGTERM)
        return f"{run}: told to save and end"
    state = slurm.ask(about["id"]) if "id" in about else None
    if state is None or not state.active:
        raise ValueError(f"{run}: no job of it is in the queue" + (f" ({state.state})" if state else ""))
    for folder in (run, *run.glob("seed-*"), *run.glob("job/task-*")):
        if (folder / FOLDER).is_dir():
            (folder / FOLDER / "cancel").touch()
    if "collector" in about:
        slurm.cancel(about["collector"])
    if now or state.state != "RUNNING" or about.get("array"):
        slurm.cancel(about["id"])
        return f"{run}: job {about['id']} is cancelled"
    slurm.signal(about["id"])
    return f"{run}: job {about['id']} saves and ends; --now would not wait for it"


def go_on(run: Path, flags: Sequence[str] = ()) -> str:
    """Submit a run's script again. Gives what was done.

    Raises:
        ValueError: If there is none, or its job is still in the queue.
    """
    about = attempts.read_json(run / FOLDER / "job.json")
    if about.get("scheduler") == "local":
        raise ValueError(f"{run}: a local job goes on with the same command: {about['command']}")
    script = Path(about.get("script", run / FOLDER / "job.sh"))
    if not script.is_file():
        raise ValueError(f"{run}: no batch script in it: submit it with launch/submit.py")
    slurm.refuse_second(run)
    slurm.check(script)
    job = slurm.start(run, script, flags)
    log = str(about.get("log", "")).replace(str(about.get("id")), job)
    attempts.write_json(run / FOLDER / "job.json", {**about, "id": job, "log": log})
    return f"{run}: job {job} goes on from step {attempts.step(run)}"
