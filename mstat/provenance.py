"""Provenance of a run: versions, commit, hardware, and a checksum of the source files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("mstat", "torch", "accelerate", "deepspeed", "datasets", "webdataset", "safetensors", "numpy", "simplejpeg")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect numbers, by name."""
    result = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result


def commit() -> str | None:
    """Return the commit of this clone, with `-dirty` if files differ from it; None if it is no clone or without git."""
    # Without --git-dir, git would find the repository of another project, in which an environment may lie.
    clone = ["--git-dir", str(PROJECT / ".git"), "--work-tree", str(PROJECT)]
    command = ["git", *clone, "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware() -> str:
    """Describe the GPUs, or the CPU if there are none."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def source_digest(project: Path) -> str:
    """Return the SHA-256 of the names and bytes of all Python files that a run may execute."""
    digest = hashlib.sha256()
    for package in ("shards", "mstat", "launch"):
        for path in sorted((project / package).rglob("*.py")):
            digest.update(f"{path.relative_to(project)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
