"""Restarts: record each attempt of a job, and decide whether another one follows.

The batch script runs this file; `--scheduler local` (mstat/cluster/ssh.py) imports it.

    python restarts.py begin FOLDER ...     exit 0: start; 1: do not start, the reason is printed and recorded
    python restarts.py end FOLDER ...       exit 0: done; 75: requeue; 76: restart on the same nodes; 77: cancelled;
                                            1: failed

Standard library only, for Python 3.9: the batch host's own Python runs this file, outside of any container. So it
prints by itself, into the log of the job.

FOLDER/job/attempts.jsonl   {"event": "submit" | "begin" | "end", ...}, one per line
FOLDER/job/job.json         the job of the folder
FOLDER/job/cancel           if it exists, the job ends at the next checkpoint and does not restart
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file, outside of the package
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from mstat import files
from mstat.cluster.logs import BEGIN, last_failure, last_slurm_error, tail
from mstat.foreign_messages import DISK_FULL, KILLED, LOST_PEER, LOST_PEER_ERRORS

FOLDER = "job"
JSON_BYTES = 1 << 20  # limit for job.json and state.json, which have some hundred bytes
CHECKS = "the launch checks failed"
DONE, FAILED, REQUEUE, RESTART, CANCELLED = 0, 1, 75, 76, 77
OUTCOMES = {DONE: "done", FAILED: "failed", REQUEUE: "requeue", RESTART: "restart", CANCELLED: "cancelled"}

# Failures that a restart can cure, by mstat's own messages: a rank is lost (mstat/distributed/lost_rank.py and
# rendezvous.py), or a loader process was killed (mstat/data/workers.py). A rank that raised an error is reported as
# "rank 1 (host ...", which must not match.
LOST = (
    "no answer from ",
    "does not answer",
    "every rank answers",
    "ranks have not started",
    "a process of the loader (pid",
    "no process can be started for the loader",
)
TRAINED = ("train", "pretrain")  # kinds of jobs that write state.json


@dataclass(frozen=True)
class Attempts:
    """The attempts of one job.

    Attributes:
        folder: The run folder; for an array's element without one, a folder of its own.
        kind: The kind of the job (mstat/cluster/job.py).
        job: The id of the job.
        log: The path of the job's log.
        requeue_limit: The maximum number of restarts.
        idle_limit: The maximum number of consecutive attempts without a new checkpoint.
        say: A function that writes a line into the log.
    """

    folder: Path
    kind: str
    job: str
    log: Path
    requeue_limit: int
    idle_limit: int
    say: Callable[[str], object] = print

    def begin(self) -> str | None:
        """Record that an attempt begins, or return the reason why it must not.

        An attempt without an `end` event ended with its batch host; Slurm has then requeued the job by itself.
        """
        number = 1 + sum(event["event"] == "begin" for event in read(self.folder))
        path = self.folder / FOLDER / "job.json"
        write_json(path, {**read_json(path), "id": self.job, "log": str(self.log)})
        if reason := self.limit_reached():
            fail(self.folder, reason)
            return reason
        self.say(f"{BEGIN} {number} of job {self.job}{self._step(', from')}, {now()}")
        append(
            self.folder,
            {"event": "begin", "job": self.job, "step": step(self.folder), "stamp": stamp(self.folder)},
        )
        return None

    def end(self, *, phase: str, status: int, stopped: bool, reachable: bool) -> int:
        """Record the end of an attempt, and return what follows: a key of OUTCOMES.

        Args:
            phase: `work`, or `preflight` if the launch checks failed.
            status: Exit status of the attempt.
            stopped: Whether the batch script received a signal to stop.
            reachable: Whether every node of the job answers.
        """
        folder = self.folder
        begun = [event for event in read(folder) if event["event"] == "begin"]
        fresh = bool(begun) and stamp(folder) != begun[-1]["stamp"]
        state = read_json(folder / "state.json") if fresh and self.kind in TRAINED else {}
        facts = {"stopped": stopped, "reachable": reachable, "cancelled": (folder / FOLDER / "cancel").exists()}
        outcome, reason = decide(self.kind, state, status, log=self.log, **facts)
        if phase != "work" and outcome in (RESTART, FAILED):
            outcome, reason = FAILED, f"{CHECKS}: {last_failure(self.log) or 'see the table in the log'}"
        if outcome in (REQUEUE, RESTART) and (limit := self.limit_reached()):
            outcome, reason = FAILED, f"{limit}; last failure: {reason}"
        append(folder, {"event": "end", "outcome": OUTCOMES[outcome], "reason": reason, "step": step(folder)})
        if outcome == FAILED and self.kind in TRAINED and state.get("state") != "failed":
            fail(folder, reason)
        self.say(f"=== mstat: {OUTCOMES[outcome]}{self._step(' at')}: {reason}")
        return outcome

    def _step(self, word: str) -> str:
        return f"{word} step {step(self.folder)}" if self.kind in TRAINED else ""

    def limit_reached(self) -> str | None:
        """Return which limit forbids another attempt, or None. Attempts count from the last submission."""
        begins = begun_since_submission(self.folder)
        if len(begins) > self.requeue_limit:
            return f"restarted {self.requeue_limit} times, which is the limit"
        idle = 0
        if self.kind not in TRAINED:  # no checkpoints
            return None
        for event in reversed(begins):
            if step(self.folder) > event["step"]:
                break
            idle += 1
        return f"{idle} consecutive attempts made no checkpoint" if idle >= self.idle_limit else None


def decide(
    kind: str, state: dict[str, Any], status: int, *, stopped: bool, reachable: bool, cancelled: bool, log: Path
) -> tuple[int, str]:
    """Return the outcome of an attempt and its reason.

    Args:
        state: The content of state.json if this attempt wrote it, else empty.
    """
    run_state, reason = state.get("state"), state.get("reason") or ""
    if run_state == "done":
        return DONE, "finished"
    if cancelled:
        return CANCELLED, reason or "before training began"
    if run_state == "failed" and not is_lost(reason):
        return FAILED, reason
    if run_state is None and status == 0 and not (stopped and kind == "reproduce"):
        return DONE, "finished"
    if stopped:
        return REQUEUE, reason or "stopped by a signal"
    if not reachable:
        return REQUEUE, "a node does not answer" + (f"; {reason}" if reason else "")
    if run_state == "requeue":
        # This script received no signal. The scheduler signalled the ranks, or a launcher died (status is not 0).
        return (RESTART if status and "SIGTERM" in reason else REQUEUE), reason
    if run_state == "failed":
        return RESTART, reason
    failure = last_failure(log).strip()
    last = failure.splitlines()[-1].removeprefix("error: ") if failure else ""
    if run_state == "running" and DISK_FULL.search(last):  # so full that state.json could not be written
        return FAILED, last
    if run_state == "running":
        return RESTART, f"its processes were killed (exit status {status})"
    text = "\n".join(tail(log))
    if is_lost(failure) or (not failure and (status > 128 or KILLED.search(text))):
        return RESTART, failure or f"its processes were killed (exit status {status})"
    return FAILED, last or last_slurm_error(log) or f"exit status {status}, without an error message in the log"


def is_lost(message: str) -> bool:
    """Return whether a message is about a lost rank or a killed loader process, so that a restart can help."""
    own = any(words in message for words in LOST)
    return own or any(pattern.search(message) for pattern in (LOST_PEER, LOST_PEER_ERRORS))


def begun_since_submission(folder: Path) -> list[dict[str, Any]]:
    """Return the `begin` events since the last `submit` or `continue`."""
    events = read(folder)
    since = [number for number, event in enumerate(events) if event["event"] == "submit"]
    return [event for event in events[since[-1] if since else 0 :] if event["event"] == "begin"]


def step(folder: Path) -> int:
    """Return the step of the newest checkpoint, or 0; for a run of several splits, the sum over the splits."""
    newest = 0
    for run in (folder, *folder.glob("split-*")):
        steps = [path.name[5:] for path in run.glob("checkpoints/step-*") if (path / "checkpoint.json").is_file()]
        newest += max((int(name) for name in steps if name.isdigit()), default=0)
    return newest


def stamp(folder: Path) -> list[int] | None:
    """Return a value that changes when state.json is written."""
    try:
        about = (folder / "state.json").stat()
    except OSError:
        return None
    return [about.st_mtime_ns, about.st_ino]


def fail(folder: Path, reason: str) -> None:
    """Write state.json for a run that failed without writing it."""
    write_json(folder / "state.json", {"state": "failed", "step": step(folder), "reason": reason})


def read(folder: Path) -> list[dict[str, Any]]:
    """Return all events of a folder, oldest first, without a line that a crash has truncated."""
    path = folder / FOLDER / "attempts.jsonl"
    events = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and event.get("event") in ("submit", "begin", "end"):
            events.append(event)
    return events


def append(folder: Path, event: dict[str, Any]) -> None:
    """Append an event with its time."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with (folder / FOLDER / "attempts.jsonl").open("a") as file:
        file.write(json.dumps({**event, "time": now()}) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a small file; return an empty dict for a missing, large or invalid file, or a pipe."""
    try:
        if not path.is_file() or path.stat().st_size > JSON_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as `mstat.files.write_json` does, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, value)


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
    attempts = Attempts(a.folder, a.kind, a.job, a.log, a.requeue_limit, a.idle_limit)
    try:
        if a.what == "begin":
            if reason := attempts.begin():
                print(f"error: {reason}", file=sys.stderr)
            return FAILED if reason else DONE
        return attempts.end(phase=a.phase, status=a.status, stopped=bool(a.stopped), reachable=bool(a.reachable))
    except OSError as error:
        print(f"error: the run folder is not writable: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
