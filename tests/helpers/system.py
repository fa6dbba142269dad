"""Requirements of tests on the machine: Debian packages that they install, and skips that are failures in CI."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

SETTINGS = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
POLICY = Path("/usr/sbin/policy-rc.d")


def install(commands: Sequence[str], packages: Sequence[str]) -> str | None:
    """Install packages where a command is missing. Returns why that was not possible; None where all are there.

    Processes of one test run wait for each other here: `apt-get update` does not wait for the locks of another.
    """
    with (Path(tempfile.gettempdir()) / "mstat-tests-apt.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(map(shutil.which, commands)):
            return None
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            return f"{' or '.join(commands)} is missing, and there is no apt-get as root: install {' '.join(packages)}"
        return _install(packages)


def _install(packages: Sequence[str]) -> str | None:
    must_forbid = not POLICY.exists()
    if must_forbid:  # packages must not start daemons of their own
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            arguments = ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *command]
            done = subprocess.run(arguments, capture_output=True, text=True, env=SETTINGS)
            if done.returncode:
                return f"apt-get {command[0]} failed: {done.stderr.strip()[-200:]}"
    finally:
        if must_forbid:
            POLICY.unlink()
    return None


def skip(reason: str) -> None:
    """Skip a test; in CI, where everything needed is there, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"skipped in CI: {reason}")
    pytest.skip(reason)
