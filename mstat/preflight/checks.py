"""Launch checks: what would end a run in an hour, or spoil it without a word, said by all nodes together in seconds.

In order: 1. every rank leaves a note in the launcher's store, the first one of a node with its node's facts; 2. rank 0
names who has left none, and compares clocks; 3. all of them make the process group, through mstat/distributed/engine.py
as training does, and reduce; 4. rank 0 judges, shows one table, and tells the others.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mstat.config import Config
from mstat.distributed.launcher import check_launcher
from mstat.files import write_json
from mstat.preflight.node import gather_facts
from mstat.preflight.notes import Meeting, meet
from mstat.preflight.table import MEGABYTES, NOT_DONE, Asked, Found, judge, show

ROUNDS = 5
GRACE = 3.0  # after a rank's error: the others may have something to say as well
SEEN_SECONDS = 5.0  # for all to read the verdict, before rank 0 ends and its launcher takes the store away
REPORT = "preflight.json"  # in the run folder


def check(config: Config, script: str, requested: Asked, timeout: float) -> bool:
    """Make all checks; every rank calls it. Rank 0 prints the table and leaves it in RUN/preflight.json.

    Args:
        script: What is to be started: launch/<script>.py.

    Returns:
        Whether all is well, on every rank.

    Raises:
        UserError: If the launcher asks for what training would refuse.
        ConnectionError: Where this rank cannot reach rank 0, or hears no verdict from it.
    """
    check_launcher(config)
    meeting = meet(timeout)
    with _giving_up(4 * timeout + 4 * GRACE, os.environ.get("MASTER_ADDR", "")):
        if meeting.rank == 0:
            return _lead(meeting, config, script, requested, timeout)
        return _follow(meeting, config, script, timeout)


def _lead(meeting: Meeting, config: Config, script: str, requested: Asked, timeout: float) -> bool:
    token = _leave_token(config)
    meeting.leave("begin", token)
    meeting.leave("note", _note(config, script, token))
    notes = meeting.collect("note", range(meeting.world_size), timeout)
    result = Found(meeting.world_size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), notes)
    first_ranks = [rank for rank, note in notes.items() if note["facts"] is not None and rank > 0]
    meeting.leave("clocks", first_ranks)
    result.clocks = {0: (0.0, 0.0), **meeting.compare_clocks(first_ranks)}
    is_complete = len(notes) == meeting.world_size
    meeting.leave("go", is_complete)
    if is_complete:
        _together(meeting, config, timeout)
        outcomes = meeting.collect("outcome", [0], timeout + GRACE)
        late = GRACE if 0 in outcomes and outcomes[0]["error"] else timeout
        result.outcomes = {**outcomes, **meeting.collect("outcome", range(1, meeting.world_size), late)}
    if token:
        Path(token).unlink(missing_ok=True)
    faults = judge(result, requested)
    show(result, faults)
    with suppress(OSError):  # a full disk is told already
        run = Path(config.run)
        run.mkdir(parents=True, exist_ok=True)
        message = {"good": not faults, "faults": [dataclasses.asdict(fault) for fault in faults]}
        write_json(run / REPORT, {**message, **dataclasses.asdict(result)})
    meeting.leave("verdict", not faults)
    meeting.collect("seen", [rank for rank in notes if rank > 0], SEEN_SECONDS)
    return not faults


def _follow(meeting: Meeting, config: Config, script: str, timeout: float) -> bool:
    try:
        token = meeting.wait("begin", 0, timeout)
        note = _note(config, script, token)
        meeting.leave("note", note)
        if meeting.rank in meeting.wait("clocks", 0, 2 * timeout):
            meeting.answer_clock(2 * timeout)
        if meeting.wait("go", 0, 2 * timeout):
            _together(meeting, config, timeout)
        good = bool(meeting.wait("verdict", 0, 2 * timeout + GRACE))
    except dist.DistError as error:
        host = os.environ["MASTER_ADDR"]
        raise ConnectionError(
            f"{platform.node()} hears nothing from rank 0 ({host}): {str(error).splitlines()[0]}"
        ) from None
    with suppress(dist.DistError):
        meeting.leave("seen", True)
    return good


def _note(config: Config, script: str, token: str | None) -> dict[str, Any]:
    """Return the facts of this rank; the first rank of a node adds the facts of the node."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    facts = None
    if is_first:
        facts = gather_facts(config, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), script)
        if token is not None and not Path(token).exists():
            fault = f"run folder: {config.run} is not the folder that rank 0 sees under this name"
            facts["faults"].append((fault, "--run must lie on a file system that all nodes share"))
    return {"host": platform.node(), "machine": int(os.environ.get("GROUP_RANK", "0")), "facts": facts}


def _leave_token(config: Config) -> str | None:
    """A file in the run folder by which the other nodes see that theirs is the same; None if it cannot be written."""
    run = Path(config.run).absolute()
    with suppress(OSError):
        run.mkdir(parents=True, exist_ok=True)
        token = run / f".preflight.{platform.node()}.{os.getpid()}.{time.time_ns()}"
        token.touch()
        return str(token)
    return None


# --- the part that takes all ranks -------------------------------------------------------------------------------


def _together(meeting: Meeting, config: Config, timeout: float) -> None:
    """Make the group and reduce, within `timeout`, and leave what came of it."""
    outcome: dict[str, Any] = {
        "error": f"{NOT_DONE} {timeout:.0f} s",
        "device": None,
        "backend": None,
        "seconds": None,
    }

    def attempt() -> None:
        try:
            outcome.update(_reduce(config, timeout))
        except Exception as error:
            outcome["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"

    # In a thread, which can be left alone where it hangs: not every backend ends by itself.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout)
    meeting.leave("outcome", dict(outcome))


def _reduce(config: Config, timeout: float) -> dict[str, Any]:
    """Make the group, compute and reduce: seconds of the quickest of `ROUNDS` all-reduces."""
    from mstat.distributed.engine import Engine

    # `also=None`: the table shows what differs, all of it at once.
    train = dataclasses.replace(config.train, timeout_minutes=timeout / 60)
    settings = dataclasses.replace(config, train=train)
    with Engine(settings, start_up=timedelta(seconds=timeout), also=None) as engine:
        device = engine.device
        ones = torch.ones(512, 512, device=device)
        if not bool((ones @ ones == 512).all()):
            raise ArithmeticError(f"{device} multiplies matrices wrongly")
        numbers = torch.empty(MEGABYTES * 250_000, device=device)
        times = []
        for _ in range(ROUNDS if engine.world_size > 1 else 0):
            numbers.fill_(engine.rank + 1)
            engine.barrier()
            began = _now(device)
            engine.sum(numbers)
            times.append(_now(device) - began)
            expected = engine.world_size * (engine.world_size + 1) / 2
            if not bool((numbers == expected).all()):
                raise ArithmeticError("the all-reduce gives wrong sums")
        engine.gather_objects(engine.rank)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        backend = dist.get_backend() if dist.is_initialized() else None
        return {"error": None, "device": name, "backend": backend, "seconds": min(times, default=None)}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _giving_up:
    """Context in which this process ends after `seconds`.

    A store behind a cut link blocks for ever, in code that no Python exception reaches.
    """

    def __init__(self, seconds: float, address: str) -> None:
        def end() -> None:
            sys.stderr.write(
                f"error: {platform.node()} hears no verdict from rank 0 ({address}): host or network are down\n"
            )
            sys.stderr.flush()
            os._exit(1)

        self.timer = threading.Timer(seconds, end)
        self.timer.daemon = True

    def __enter__(self) -> None:
        self.timer.start()

    def __exit__(self, *_: object) -> None:
        self.timer.cancel()
