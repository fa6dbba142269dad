"""Restarts: the outcome of a job after each attempt. The batch script and `--scheduler local` ask for it.

    python attempts.py begin FOLDER ...     exit 0: go on; 1: no, the reason is told and written down
    python attempts.py end FOLDER ...       exit 0: done; 75: requeue; 76: start again on the same
                                            nodes; 77: cancelled; 1: failed

The standard library alone, for Python 3.9: the batch host's own Python runs this file, outside of any container.

FOLDER/job/attempts.jsonl   {"event": "submit" | "begin" | "end", ...}, one a line
FOLDER/job/job.json         the job that the folder belongs to
FOLDER/job/cancel           is there: end at the next checkpoint, and do not come back
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as a file, with no package around it
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from mstat.cluster.logs import BEGIN, last_failure, last_word, tail

FOLDER = "job"
JSON_BYTES = 1 << 20  # of job.json and state.json, which have some hundred
CHECKS = "the checks before the start failed"
DONE, FAILED, REQUEUE, RESTART, CANCELLED = 0, 1, 75, 76, 77
OUTCOMES = {DONE: "done", FAILED: "failed", REQUEUE: "requeue", RESTART: "restart", CANCELLED: "cancelled"}

# What mstat/distributed/lost_rank.py says of a rank that is gone. One that raised an error is named as "rank 1 (host
# ...". The rest are words of gloo, NCCL and torch, heard where a rank was lost before there could be a roll call.
LOST = re.compile(
    r"no answer from rank|does not answer|every rank answers|ranks have not started|gloo/|Connection closed by peer"
    r"|Connection reset by peer|Timed out waiting|Broken pipe|Dist(Network|Store)Error|nccl(Remote|System)Error"
    # Words of mstat/data/workers.py: a process of the loader was killed, for its memory most often.
    r"|a process of the loader \(pid|no process can be started for the loader"
)
FULL = re.compile(r"No space left on device|Disk quota exceeded")
KILLED = re.compile(r"exitcode\s*: -(9|15|7)\b")
TRAINED = ("train", "pretrain")  # jobs whose run folder says how they stand


@dataclass(frozen=True)
class Account:
    """The record of one job's attempts.

    Attributes:
        folder: The run folder; of an array's element that shares its results with others, one of its own.
        kind: Of the job; see `verdict`.
        job: The scheduler's name of it.
        log: What it writes.
        requeue_limit: How often it may be started again.
        idle_limit: Attempts in a row without a new checkpoint, after which it is given up.
        say: Where to write what a reader of the log should see.
    """

    folder: Path
    kind: str
    job: str
    log: Path
    requeue_limit: int
    idle_limit: int
    say: Callable[[str], object] = print

    def begin(self) -> str | None:
        """Write down that an attempt begins; gives the reason if it must not.

        An attempt without an end was cut off with its batch host, and Slurm has started the job again by itself.
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
        """Write down how an attempt ended, and give what to do: a number of OUTCOMES.

        Args:
            phase: `work`, or `preflight` where the checks before it found something.
            status: Exit status of the attempt.
            stopped: Whether the batch script was asked to stop.
            reachable: Whether every node of the job still answers.
        """
        folder = self.folder
        begun = [event for event in read(folder) if event["event"] == "begin"]
        fresh = bool(begun) and stamp(folder) != begun[-1]["stamp"]
        state = read_json(folder / "state.json") if fresh and self.kind in TRAINED else {}
        facts = {"stopped": stopped, "reachable": reachable, "cancelled": (folder / FOLDER / "cancel").exists()}
        outcome, reason = verdict(self.kind, state, status, log=self.log, **facts)
        if phase != "work" and outcome in (RESTART, FAILED):
            outcome, reason = FAILED, f"{CHECKS}: {last_failure(self.log) or 'see the table in the log'}"
        if outcome in (REQUEUE, RESTART) and (limit := self.limit_reached()):
            outcome, reason = FAILED, f"{limit}; the last time: {reason}"
        append(folder, {"event": "end", "outcome": OUTCOMES[outcome], "reason": reason, "step": step(folder)})
        if outcome == FAILED and self.kind in TRAINED and state.get("state") != "failed":
            fail(folder, reason)
        self.say(f"=== mstat: {OUTCOMES[outcome]}{self._step(' at')}: {reason}")
        return outcome

    def _step(self, word: str) -> str:
        return f"{word} step {step(self.folder)}" if self.kind in TRAINED else ""

    def limit_reached(self) -> str | None:
        """Return which of the two bounds forbids another attempt, or None; attempts count from the last submission."""
        begins = begun_since_submission(self.folder)
        if len(begins) > self.requeue_limit:
            return f"started again {self.requeue_limit} times, which is the limit"
        idle = 0
        if self.kind not in TRAINED:  # no checkpoints
            return None
        for event in reversed(begins):
            if step(self.folder) > event["step"]:
                break
            idle += 1
        return f"{idle} attempts in a row made no checkpoint" if idle >= self.idle_limit else None


def verdict(
    kind: str, state: dict[str, Any], status: int, *, stopped: bool, reachable: bool, cancelled: bool, log: Path
) -> tuple[int, str]:
    """Return the outcome of an attempt's end.

    Args:
        state: What state.json says if this attempt wrote it, else empty.
    """
    message, reason = state.get("state"), state.get("reason") or ""
    if message == "done":
        return DONE, "finished"
    if cancelled:
        return CANCELLED, reason or "before training began"
    if message == "failed" and not LOST.search(reason):
        return FAILED, reason
    if message is None and status == 0 and not (stopped and kind == "reproduce"):
        return DONE, "finished"
    if stopped:
        return REQUEUE, reason or "stopped by a signal"
    if not reachable:
        return REQUEUE, "a node does not answer" + (f"; {reason}" if reason else "")
    if message == "requeue":
        # Without a word to this script: the scheduler told the ranks alone, or the death of a launcher did (status).
        return (RESTART if status and "SIGTERM" in reason else REQUEUE), reason
    if message == "failed":
        return RESTART, reason
    failure = last_failure(log).strip()
    last = failure.splitlines()[-1].removeprefix("error: ") if failure else ""
    if message == "running" and FULL.search(last):  # so full that state.json could not say so
        return FAILED, last
    if message == "running":
        return RESTART, f"its processes were killed (exit status {status})"
    text = "\n".join(tail(log))
    if LOST.search(failure) or (not failure and (status > 128 or KILLED.search(text))):
        return RESTART, failure or f"its processes were killed (exit status {status})"
    return FAILED, last or last_word(log) or f"exit status {status}, and no word in the log why"


def begun_since_submission(folder: Path) -> list[dict[str, Any]]:
    """The beginnings of attempts since the last `submit` or `continue`."""
    events = read(folder)
    since = [number for number, event in enumerate(events) if event["event"] == "submit"]
    return [event for event in events[since[-1] if since else 0 :] if event["event"] == "begin"]


def step(folder: Path) -> int:
    """The newest checkpoint's step, 0 without one; of a run of several splits, all of theirs."""
    newest = 0
    for run in (folder, *folder.glob("split-*")):
        result = [path.name[5:] for path in run.glob("checkpoints/step-*") if (path / "checkpoint.json").is_file()]
        newest += max((int(name) for name in result if name.isdigit()), default=0)
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
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    with (folder / FOLDER / "attempts.jsonl").open("a") as file:
        file.write(json.dumps({**event, "time": now()}) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a small file that holds a JSON object; empty where there is none. A pipe or a large file counts as none."""
    try:
        if not path.is_file() or path.stat().st_size > JSON_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, value: Any) -> None:
    # mstat.files does the same; but this file must run alone.
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    tmp.write_text(json.dumps(value, indent=2) + "\n")
    tmp.replace(path)


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
    account = Account(a.folder, a.kind, a.job, a.log, a.requeue_limit, a.idle_limit)
    try:
        if a.what == "begin":
            if reason := account.begin():
                print(f"error: {reason}", file=sys.stderr)
            return FAILED if reason else DONE
        return account.end(phase=a.phase, status=a.status, stopped=bool(a.stopped), reachable=bool(a.reachable))
    except OSError as error:
        print(f"error: the run folder cannot be written: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
