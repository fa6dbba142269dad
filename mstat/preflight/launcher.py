"""The launch checks outside the launcher, one process a machine: they name the machines that are missing.

`accelerate launch` starts no process before the launchers of all machines have found each other, and waits for them for
15 minutes. Its store is there from the beginning: each machine leaves its name in it, and whoever waits for too long
reads the names.
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

FOLDER = "MSTAT_PREFLIGHT_FOLDER"  # where a process tells the one outside that it lives, and how it ended
POLL_SECONDS = 0.1
ANSWER_SECONDS = 5.0


def tell(good: bool | None) -> bool:
    """In a process of the launch: pass a verdict on to the one outside, or with None that this process has begun.

    Gives the verdict that the launcher is to see: a failed process would make it print a page about it.
    """
    folder = os.environ.get(FOLDER)
    if folder is None:
        return bool(good)
    if good is not None:
        Path(folder, "good" if good else "bad").touch()
    else:
        Path(folder, "begun").touch()
    return True


def launch(script: Path, options: argparse.Namespace, launcher: Sequence[str], settings: Sequence[str]) -> bool:
    """Start `script` by `accelerate launch` with those flags on this machine, and watch; gives the verdict."""
    machine, num_machines, address = _place(launcher)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each connection would warn of an address without a name
    own = [f"--{name.replace('_', '-')}={value}" for name, value in vars(options).items() if value is not None]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through `finally`: the launcher lives in another session
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "--max_restarts", "0"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, str(script), *own, "--", *settings],
            env={**os.environ, FOLDER: folder},
            start_new_session=True,
        )
        try:
            if num_machines > 1 and address is not None:
                _watch_start(process, Path(folder), machine, num_machines, address, options)
            _watch_end(process, Path(folder))
        finally:
            _end(process)
        return Path(folder, "good").exists() and not Path(folder, "bad").exists() and process.returncode == 0


def _place(launcher: Sequence[str]) -> tuple[int, int, tuple[str, int] | None]:
    """Machine rank, number of machines, and address of the first one, as Accelerate reads flags and YAML."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("config_file", "machine_rank", "num_machines", "main_process_ip", "main_process_port"):
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name)
    flags = vars(parser.parse_known_args(launcher)[0])
    written = _yaml(Path(flags["config_file"])) if flags["config_file"] else {}
    result = {name: value if value is not None else written.get(name) for name, value in flags.items()}
    numbers = {}
    for name, default in (("main_process_port", 29500), ("machine_rank", 0), ("num_machines", 1)):
        try:
            numbers[name] = int(result[name] or default)
        except (ValueError, TypeError):
            raise UserError(f"--{name} is {result[name]!r}, it must be a whole number") from None
    address = (result["main_process_ip"], numbers["main_process_port"]) if result["main_process_ip"] else None
    return numbers["machine_rank"], numbers["num_machines"], address


def _yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML of Accelerate's."""
    with path.open("rb") as file:
        content = parse_plain_yaml(file.read(MOST_BYTES).decode("utf-8", errors="replace"), str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings of `accelerate launch`, as configs/accelerate/ddp.yaml does")
    return content


def _watch_start(
    process: subprocess.Popen[bytes],
    folder: Path,
    machine: int,
    num_machines: int,
    address: tuple[str, int],
    options: argparse.Namespace,
) -> None:
    """Until the processes of this machine have begun.

    Raises:
        ConnectionError: If they have not after `--timeout`; it names the machines that are missing.
    """
    import torch.distributed as dist  # not where there is one machine: it takes seconds

    from mstat.preflight.notes import connect

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
            raise ConnectionError(_who(store, num_machines, address, options, why))
        time.sleep(POLL_SECONDS)


def _watch_end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the launcher ends, or for `ANSWER_SECONDS` after a bad verdict.

    A launcher waits for the others for five minutes, and one of them may be at fault.
    """
    while process.poll() is None and not (folder / "bad").exists():
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ANSWER_SECONDS)


def _who(
    store: dist.Store | None, num_machines: int, address: tuple[str, int], options: argparse.Namespace, why: str
) -> str:
    hosts = [name for name in options.hosts.split(",") if name]
    if store is None:
        return f"{platform.node()}: after {options.timeout:.0f} s the first machine is out of reach: {why}"
    from mstat.distributed.lost_rank import within

    there = within(ANSWER_SECONDS, lambda: [number for number in range(num_machines) if store.check([str(number)])])
    if there is None:
        return f"{platform.node()}: the first machine ({address[0]}) has come, and does not answer any more"
    missing = [name_of(number, hosts) for number in range(num_machines) if number not in there]
    message = f"after {options.timeout:.0f} s of {num_machines} machines"
    if not missing:
        return (
            f"{message} all have come, and still the launcher starts nothing: is --machine_rank right on each of them?"
        )
    return (
        f"{message} these have not come: {', '.join(missing)};"
        f" not started, down, or they cannot reach {address[0]}:{address[1]}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The launcher and all that it has started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
