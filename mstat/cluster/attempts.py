"""What becomes of a job after each attempt: done, again, or failed. The batch script asks, and `--scheduler local`.

    python attempts.py begin FOLDER ...     exit 0: go on; 1: no, the reason is told and written down
    python attempts.py end FOLDER ...       exit 0: done; 75: requeue; 76: start again on the same nodes; 1: failed

The standard library alone, for Python 3.9: the batch host's own Python runs this file, outside of any container.

FOLDER/slurm/attempts.jsonl   {"event": "submit" | "begin" | "end", ...}, one a line
FOLDER/slurm/job.json         the job that the folder belongs to
FOLDER/slurm/cancel           is there: end at the next checkpoint, and do not come back
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a file, with no package around it
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from mstat.cluster.logs import BEGIN, last_failure, tail

FOLDER = "slurm"
DONE, FAILED, REQUEUE, RESTART = 0, 1, 75, 76
OUTCOMES = {DONE: "done", FAILED: "failed", REQUEUE: "requeue", RESTART: "restart"}

# What mstat/rollcall.py says of a rank that is gone. One that raised an error is named as "rank 1 (host ...".
LOST = re.compile(
    r"no answer from rank|does not answer|every rank answers|ranks have not started|Node failure|NODE FAIL"
)
KILLED = re.compile(r"exitcode\s*: -(9|15|7)\b")
TRAINED = ("train", "pretrain")  # jobs whose run folder says how they stand


def begin(folder: Path, *, kind: str, job: str, log: str, requeue_limit: int, idle_limit: int) -> str | None:
    """Write down that an attempt begins; gives the reason if it must not.

    An attempt without an end was cut off with its batch host, and Slurm has started the job again by itself.
    """
    events = read(folder)
    number = 1 + sum(event["event"] == "begin" for event in events)
    reason = limit_reached(folder, kind, requeue_limit, idle_limit)
    write_json(folder / FOLDER / "job.json", {**read_json(folder / FOLDER / "job.json"), "id": job, "log": log})
    if reason:
        fail(folder, reason)
        return reason
    print(f"{BEGIN} {number} of job {job}, from step {step(folder)}, {now()}", flush=True)
    append(folder, {"event": "begin", "job": job, "step": step(folder), "stamp": stamp(folder)})
    return None


def end(
    folder: Path,
    *,
    kind: str,
    log: Path,
    phase: str,
    status: int,
    stopped: bool,
    reachable: bool,
    requeue_limit: int,
    idle_limit: int,
) -> int:
    """Write down how an attempt ended, and give what to do: DONE, REQUEUE, RESTART or FAILED.

    Args:
        kind: Of the job; see `verdict`.
        phase: `work`, or `preflight` where the checks before it found something.
        status: Exit status of the attempt.
        stopped: Whether the batch script was asked to stop.
        reachable: Whether every node of the job still answers.
    """
    begun = [event for event in read(folder) if event["event"] == "begin"]
    fresh = bool(begun) and stamp(folder) != begun[-1]["stamp"]
    state = read_json(folder / "state.json") if fresh and kind in TRAINED else {}
    cancelled = (folder / FOLDER / "cancel").exists()
    outcome, reason = verdict(kind, state, status, stopped=stopped, reachable=reachable, cancelled=cancelled, log=log)
    if phase != "work" and outcome in (RESTART, FAILED):
        outcome, reason = FAILED, f"the checks before the start: {reason}"
    append(folder, {"event": "end", "outcome": OUTCOMES[outcome], "reason": reason, "step": step(folder)})
    if outcome in (REQUEUE, RESTART) and (limit := limit_reached(folder, kind, requeue_limit, idle_limit)):
        outcome, reason = FAILED, f"{limit}; the last time: {reason}"
    if outcome == FAILED and not cancelled and kind in TRAINED and state.get("state") != "failed":
        fail(folder, reason)
    print(f"=== mstat: {OUTCOMES[outcome]} at step {step(folder)}: {reason}", flush=True)
    return outcome


def verdict(
    kind: str, state: dict[str, Any], status: int, *, stopped: bool, reachable: bool, cancelled: bool, log: Path
) -> tuple[int, str]:
    """What an attempt's end means.

    Args:
        state: What state.json says if this attempt wrote it, else empty.
    """
    told, reason = state.get("state"), state.get("reason") or ""
    if told == "done":
        return DONE, "finished"
    if cancelled:
        return FAILED, f"cancelled; {reason or 'before training began'}"
    if told == "failed" and not LOST.search(reason):
        return FAILED, reason
    if told is None and status == 0 and not (stopped and kind == "reproduce"):
        return DONE, "finished"
    if stopped:
        return REQUEUE, reason or "stopped by a signal"
    if not reachable:
        return REQUEUE, "a node does not answer" + (f"; {reason}" if reason else "")
    if told == "requeue":
        # Without a word to this script: the scheduler told the ranks alone, or the death of a launcher did (status).
        return (RESTART if status and "SIGTERM" in reason else REQUEUE), reason
    if told == "failed":
        return RESTART, reason
    if told == "running":
        return RESTART, f"its processes were killed (exit status {status})"
    failure = last_failure(log).strip()
    text = "\n".join(tail(log))
    if LOST.search(failure) or (not failure and (status > 128 or KILLED.search(text))):
        return RESTART, failure or f"its processes were killed (exit status {status})"
    return FAILED, failure.splitlines()[-1] if failure else f"exit status {status}, and no word in the log why"


def limit_reached(folder: Path, kind: str, requeue_limit: int, idle_limit: int) -> str | None:
    """Which of the two bounds forbids another attempt, if one does; counted from the last submission."""
    events = read(folder)
    since = [number for number, event in enumerate(events) if event["event"] == "submit"]
    begins = [event for event in events[since[-1] if since else 0 :] if event["event"] == "begin"]
    if len(begins) > requeue_limit:
        return f"started again {requeue_limit} times, which is the limit"
    idle = 0
    if kind not in TRAINED:  # no checkpoints
        return None
    for event in reversed(begins):
        if step(folder) > event["step"]:
            break
        idle += 1
    if idle >= idle_limit:
        return f"{idle} attempts in a row made no checkpoint"
    return None


def step(folder: Path) -> int:
    """The newest checkpoint's step, 0 without one; of a run of several splits, all of theirs."""
    newest = 0
    for run in (folder, *folder.glob("split-*")):
        found = [path.name[5:] for path in run.glob("checkpoints/step-*") if (path / "checkpoint.json").is_file()]
        newest += max((int(name) for name in found if name.isdigit()), default=0)
    return newest


def stamp(folder: Path) -> list[int] | None:
    """Changes when state.json is written."""
    try:
        about = (folder / "state.json").stat()
    except OSError:
        return None
    return [about.st_mtime_ns, about.st_ino]


def fail(folder: Path, reason: str) -> None:
    """state.json says `failed`, as a run does that can say so itself."""
    write_json(folder / "state.json", {"state": "failed", "step": step(folder), "reason": reason})


def read(folder: Path) -> list[dict[str, Any]]:
    """Every event of a folder, oldest first; a line that a crash cut off is left out."""
    events = []
    try:
        lines = (folder / FOLDER / "attempts.jsonl").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            events.append(dict(json.loads(line)))
        except ValueError:
            continue
    return events


def append(folder: Path, event: dict[str, Any]) -> None:
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with (folder / FOLDER / "attempts.jsonl").open("a") as file:
        file.write(json.dumps({**event, "time": now()}) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A small file; empty where there is none."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def write_json(path: Path, value: Any) -> None:
    # mstat.files does the same; but this file must run alone.
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(value, indent=2) + "\n")
    aside.replace(path)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("begin", "end"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--requeue-limit", type=int, required=True)
    parser.add_argument("--idle-limit", type=int, required=True)
    parser.add_argument("--phase", default="work")
    parser.add_argument("--status", type=int, default=0)
    parser.add_argument("--stopped", type=int, default=0)
    parser.add_argument("--reachable", type=int, default=1)
    a = parser.parse_args()
    bounds = {"requeue_limit": a.requeue_limit, "idle_limit": a.idle_limit}
    try:
        if a.what == "begin":
            reason = begin(a.folder, kind=a.kind, job=a.job, log=str(a.log), **bounds)
            if reason:
                print(f"error: {reason}", file=sys.stderr)
            return FAILED if reason else DONE
        outcome = {"phase": a.phase, "status": a.status, "stopped": bool(a.stopped), "reachable": bool(a.reachable)}
        return end(a.folder, kind=a.kind, log=a.log, **outcome, **bounds)
    except OSError as error:
        print(f"error: the run folder cannot be written: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
