"""Launch checks around `accelerate launch`: one process per machine starts the launcher and names missing machines.

`accelerate launch` starts no process before the launchers of all machines have connected, and waits for them for 15
minutes. The launcher's store exists from the beginning: the process of each machine writes its name into the store, and
reads the other names when the timeout has passed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstat.config.plain_yaml import MOST_BYTES, parse_plain_yaml
from mstat.errors import UserError
from mstat.preflight.table import name_of

if TYPE_CHECKING:
    import torch.distributed as dist

FOLDER = "MSTAT_PREFLIGHT_FOLDER"  # variable: folder in which the launched processes report to the process around them
POLL_SECONDS = 0.1
ANSWER_SECONDS = 5.0
BAD_USAGE = 2  # exit status of argparse, whose message the launcher has printed


def report(good: bool | None) -> bool:
    """Report the verdict of a launched process, or with None that the process has begun.

    Returns:
        The verdict for the process's exit status: True where a file reports it, since the launcher prints a page about
        each failed process.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        return bool(good)
    if good is not None:
        Path(folder, "good" if good else "bad").touch()
    else:
        Path(folder, "begun").touch()
    return True


def launch(
    program: Sequence[str], options: argparse.Namespace, launcher: Sequence[str], settings: Sequence[str]
) -> bool:
    """Start the checks on this machine by `accelerate launch` with its flags, watch them, and return the verdict.

    Args:
        program: The checks as words for the launcher: a script, or `-m` and a module with its command.
    """
    machine, num_machines, address = _machine(launcher)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # otherwise each address without a host name prints a warning
    own = [f"--{name.replace('_', '-')}={value}" for name, value in vars(options).items() if value is not None]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # runs `finally`, which ends the launcher
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "--max_restarts", "0"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, *program, *own, "--", *settings],
            env={**os.environ, FOLDER: folder},
            start_new_session=True,
        )
        try:
            if num_machines > 1 and address is not None:
                _watch_start(process, Path(folder), machine, num_machines, address, options)
            _watch_end(process, Path(folder))
        finally:
            _end(process)
        if process.returncode == BAD_USAGE:
            sys.exit(BAD_USAGE)
        return Path(folder, "good").exists() and not Path(folder, "bad").exists() and process.returncode == 0


def _machine(launcher: Sequence[str]) -> tuple[int, int, tuple[str, int] | None]:
    """Return the machine rank, the number of machines and the address of the first one, read as Accelerate does."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("config_file", "machine_rank", "num_machines", "main_process_ip", "main_process_port"):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name)
    flags = vars(parser.parse_known_args(launcher)[0])
    written = _yaml(Path(flags["config_file"])) if flags["config_file"] else {}
    values = {name: value if value is not None else written.get(name) for name, value in flags.items()}
    numbers = {}
    for name, default in (("main_process_port", 29500), ("machine_rank", 0), ("num_machines", 1)):
        try:
            numbers[name] = int(values[name] or default)
        except (ValueError, TypeError):
            raise UserError(f"--{name} is {values[name]!r}, but must be an integer") from None
    address = (values["main_process_ip"], numbers["main_process_port"]) if values["main_process_ip"] else None
    return numbers["machine_rank"], numbers["num_machines"], address


def _yaml(path: Path) -> dict[str, Any]:
    """Return the settings in one of Accelerate's YAML files."""
    with path.open("rb") as file:
        content = parse_plain_yaml(file.read(MOST_BYTES).decode("utf-8", errors="replace"), str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a configuration of `accelerate launch`; configs/accelerate/ddp.yaml is one")
    return content


def _watch_start(
    process: subprocess.Popen[bytes],
    folder: Path,
    machine: int,
    num_machines: int,
    address: tuple[str, int],
    options: argparse.Namespace,
) -> None:
    """Wait until the processes of this machine have begun.

    Raises:
        ConnectionError: If they have not begun after `--timeout`; the message names the missing machines.
    """
    import torch.distributed as dist  # here, because the import takes seconds that a single machine need not spend

    from mstat.preflight.store import connect

    deadline = time.monotonic() + options.timeout
    store: dist.Store | None = None
    why = f"{address[0]}:{address[1]} does not answer"
    while process.poll() is None and not (folder / "begun").exists():
        if store is None:
            try:
                store = dist.PrefixStore("preflight/machines", connect(1.0, address))
                store.set(str(machine), platform.node())
            except ConnectionError as error:
                store, why = None, str(error)
        if time.monotonic() > deadline:
            raise ConnectionError(_missing_machines(store, num_machines, address, options, why))
        time.sleep(POLL_SECONDS)


def _watch_end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the launcher ends or a process reports a fault.

    After a fault the launcher would wait for the other machines for five minutes.
    """
    while process.poll() is None and not (folder / "bad").exists():
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ANSWER_SECONDS)


def _missing_machines(
    store: dist.Store | None, num_machines: int, address: tuple[str, int], options: argparse.Namespace, why: str
) -> str:
    hosts = [name for name in options.hosts.split(",") if name]
    if store is None:
        return f"{platform.node()}: cannot reach the first machine within {options.timeout:.0f} s: {why}"
    from mstat.distributed.lost_rank import within

    there = within(ANSWER_SECONDS, lambda: [number for number in range(num_machines) if store.check([str(number)])])
    if there is None:
        return f"{platform.node()}: the first machine ({address[0]}) answered, and then stopped answering"
    missing = [name_of(number, hosts) for number in range(num_machines) if number not in there]
    joined = f"after {options.timeout:.0f} s, {len(there)} of {num_machines} machines have joined"
    if not missing:
        return f"{joined}, but the launcher starts no process: check --machine_rank on each machine"
    return f"{joined}; missing: {', '.join(missing)}: not started, down, or cannot reach {address[0]}:{address[1]}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the launcher and all processes that it has started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
