"""Launch checks on all nodes: find in seconds what would end a run after an hour, or spoil it silently.

In order: 1. every rank writes a note into the launcher's store, and the first rank of a node adds the node's facts;
2. rank 0 finds the ranks without a note; 3. all ranks form the process group as training does
(mstat/distributed/engine.py) and run an all-reduce; 4. rank 0 judges the results, prints one table, and sends the
verdict to the other ranks.
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
from mstat.console import print_line
from mstat.distributed.launcher import check_launcher
from mstat.distributed.rendezvous import call_after
from mstat.files import write_json
from mstat.preflight.node import gather_facts
from mstat.preflight.store import RankStore, open_store
from mstat.preflight.table import MEGABYTES, NOT_DONE, Expectations, Observations, judge, show

ROUNDS = 5
GRACE = 3.0  # seconds after a rank's error in which other ranks may report theirs
SEEN_SECONDS = 5.0  # for all ranks to read the verdict, before rank 0 ends and its launcher closes the store
REPORT = "preflight.json"  # in the run folder


def check(config: Config, script: str, expected: Expectations, timeout: float) -> bool:
    """Run all checks; every rank calls it. Rank 0 prints the table and writes RUN/preflight.json.

    Args:
        script: The command to check for: launch/<script>.py.

    Returns:
        Whether there is no fault; the same value on every rank.

    Raises:
        UserError: If the launcher is configured in a way that training refuses.
        ConnectionError: If this rank cannot reach rank 0, or receives no verdict from it.
    """
    check_launcher(config)
    store = open_store(timeout)
    with call_after(4 * timeout + 4 * GRACE, _give_up):
        if store.rank == 0:
            return _lead(store, config, script, expected, timeout)
        return _follow(store, config, script, timeout)


def _lead(store: RankStore, config: Config, script: str, expected: Expectations, timeout: float) -> bool:
    token = _create_token(config)
    store.set("begin", token)
    store.set("note", _note(config, script, token))
    notes = store.collect("note", range(store.world_size), timeout)
    observed = Observations(store.world_size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), notes)
    is_complete = len(notes) == store.world_size
    store.set("go", is_complete)
    if is_complete:
        _run_collective(store, config, timeout)
        outcomes = store.collect("outcome", [0], timeout + GRACE)
        seconds = GRACE if 0 in outcomes and outcomes[0]["error"] else timeout
        observed.outcomes = {**outcomes, **store.collect("outcome", range(1, store.world_size), seconds)}
    if token:
        Path(token).unlink(missing_ok=True)
    faults = judge(observed, expected)
    show(observed, faults)
    with suppress(OSError):  # a full disk is one of the faults
        run = Path(config.run)
        run.mkdir(parents=True, exist_ok=True)
        verdict = {"good": not faults, "faults": [dataclasses.asdict(fault) for fault in faults]}
        write_json(run / REPORT, {**verdict, **dataclasses.asdict(observed)})
    store.set("verdict", not faults)
    store.collect("seen", [rank for rank in notes if rank > 0], SEEN_SECONDS)
    return not faults


def _follow(store: RankStore, config: Config, script: str, timeout: float) -> bool:
    try:
        token = store.wait("begin", 0, timeout)
        store.set("note", _note(config, script, token))
        if store.wait("go", 0, 2 * timeout):
            _run_collective(store, config, timeout)
        good = bool(store.wait("verdict", 0, 2 * timeout + GRACE))
    except dist.DistError as error:
        host = os.environ["MASTER_ADDR"]
        raise ConnectionError(
            f"{platform.node()}: no message from rank 0 ({host}): {str(error).splitlines()[0]}"
        ) from None
    with suppress(dist.DistError):
        store.set("seen", True)
    return good


def _note(config: Config, script: str, token: str | None) -> dict[str, Any]:
    """Return the facts of this rank; the first rank of a node adds the facts of the node."""
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    facts = None
    if is_first:
        facts = gather_facts(config, int(os.environ.get("LOCAL_WORLD_SIZE", "1")), script)
        if token is not None and not Path(token).exists():
            fault = f"run folder: {config.run} is not the folder that rank 0 sees under this name"
            facts["faults"].append((fault, "put --run on a file system that all nodes share"))
    return {"host": platform.node(), "machine": int(os.environ.get("GROUP_RANK", "0")), "facts": facts}


def _create_token(config: Config) -> str | None:
    """Create a file in the run folder that shows the other nodes whether they see the same folder; None if impossible.

    Returns:
        Its path.
    """
    run = Path(config.run).absolute()
    with suppress(OSError):
        run.mkdir(parents=True, exist_ok=True)
        token = run / f".preflight.{platform.node()}.{os.getpid()}.{time.time_ns()}"
        token.touch()
        return str(token)
    return None


# --- the collective ------------------------------------------------------------------------------------------------


def _run_collective(store: RankStore, config: Config, timeout: float) -> None:
    """Form the group and reduce, within `timeout`, and write the outcome into the store."""
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

    # In a thread, because some backends hang: a thread can be abandoned.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout)
    store.set("outcome", dict(outcome))


def _reduce(config: Config, timeout: float) -> dict[str, Any]:
    """Form the group, multiply a matrix and reduce; return the seconds of the fastest of `ROUNDS` all-reduces."""
    from mstat.distributed.engine import Engine

    # `also=None`: the table shows all differences between ranks at once.
    train = dataclasses.replace(config.train, timeout_minutes=timeout / 60)
    settings = dataclasses.replace(config, train=train)
    with Engine(settings, start_up=timedelta(seconds=timeout), also=None) as engine:
        device = engine.device
        ones = torch.ones(512, 512, device=device)
        if not bool((ones @ ones == 512).all()):
            raise ArithmeticError(f"{device} computes wrong matrix products")
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
                raise ArithmeticError("the all-reduce returns wrong sums")
        engine.gather_objects(engine.rank)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        backend = dist.get_backend() if dist.is_initialized() else None
        return {"error": None, "device": name, "backend": backend, "seconds": min(times, default=None)}


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _give_up() -> None:
    """End the process: a store behind a cut link blocks for ever, in C++ code that no Python exception interrupts."""
    host = f"rank 0 ({os.environ.get('MASTER_ADDR', '')})"
    print_line(f"error: {platform.node()}: no verdict from {host}: its host or the network is down", file=sys.stderr)
    os._exit(1)
