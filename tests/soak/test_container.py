"""Dockerfile's steps, run in a clean Debian as Docker would run them, for CPUs; then a training as the image's user.

What is not run: Docker itself, its base image (Ubuntu with CUDA; here Debian 12 by debootstrap), and torch for CUDA
(here the build that pip finds by this machine's own configuration). DeepSpeed has no GPU to be built for either way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import PROJECT, TINY
from tests.helpers.dockerfile import assignments, copy, expand, steps
from tests.soak.conftest import Rows

SUITE = "bookworm"
SECONDS = 3600.0  # of one step; installing takes minutes, on a busy machine many
SECTION = "Dockerfile's steps in a clean Debian"
BINDS = "; ".join(
    [
        "set -e; mount -t proc proc $root/proc",
        "mkdir -p $root/dev/shm; mount -t tmpfs tmpfs $root/dev/shm",  # the other devices are debootstrap's
        'for folder in $binds; do mkdir -p "$root$folder"; mount --bind "$folder" "$root$folder"',
        'mount -o remount,bind,ro "$root$folder"; done',  # of this machine: nothing in there may change it
        'exec chroot $options $root "$@"',
    ]
)


@dataclass
class Image:
    """A root that grows step by step; its mounts are in a namespace that each command takes along."""

    root: Path
    binds: list[str]
    folder: str = "/"
    user: str = "root"
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    arguments: dict[str, str] = field(default_factory=dict)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Run a command, which must succeed, and return its output."""
        home = {"HOME": "/root" if self.user == "root" else f"/home/{self.user}"}
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", BINDS, "sh"]
        within = ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, *command]
        options = "" if self.user == "root" else f"--userspec={self.user}:{self.user}"
        done = subprocess.run(
            [*unshare, "env", "-i", *(f"{name}={value}" for name, value in {**home, **environment}.items()), *within],
            env={**os.environ, "root": str(self.root), "binds": " ".join(self.binds), "options": options},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-5000:]}"
        return done.stdout


@pytest.fixture
def debian(tmp_path: Path) -> Image:
    """A Debian with nothing but its essential packages, and this machine's way to the package index."""
    if os.geteuid() != 0:
        pytest.skip("a chroot needs root")
    if shutil.which("debootstrap") is None:
        pytest.skip("there is no `debootstrap` command: apt-get install debootstrap")
    root = tmp_path / "root"
    # In a mount namespace of its own: it mounts /proc in the root, and would leave it.
    command = ["unshare", "--mount", "debootstrap", "--variant=minbase", SUITE, str(root)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.copy("/etc/resolv.conf", root / "etc")
    return Image(root, pip_configuration(root))


def pip_configuration(root: Path) -> list[str]:
    """Give the root pip's settings on this machine, and copies of the files that they name. Gives the folders that they
    name, to be seen there, too."""
    listed = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    folders, settings = list[str](), dict[str, str]()
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        words = value.strip("'").split()
        for number, word in enumerate(words):
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.is_file():
                copied = root / "etc" / "pip-files" / f"{len(settings)}-{path.name}"
                copied.parent.mkdir(exist_ok=True)
                shutil.copy(path, copied)
                words[number] = f"/{copied.relative_to(root)}"
            elif path.is_absolute() and path.is_dir():
                # An index is a folder `simple`, with links to files beside it.
                folders.append(str(path.parent if word.startswith("file://") else path))
        settings[name.split(".", 1)[1]] = " ".join(words)
    (root / "etc" / "pip.conf").write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in settings.items()))
    return list(dict.fromkeys(folders))


def test_the_steps_and_a_training(debian: Image, tiny_shards: Path, rows: Rows) -> None:
    """Every RUN and COPY succeeds; packages are those of constraints.txt; the image's user trains two steps and scores
    them, and its launch checks are good without git."""
    for step in steps((PROJECT / "Dockerfile").read_text()):
        began = time.monotonic()
        outcome = take(debian, step.word, step.rest, step.options())
        shown = f"{step.word} {step.rest}"
        rows.setdefault(SECTION, []).append(
            {
                "step": shown if len(shown) < 70 else shown[:67] + "…",
                "outcome": outcome,
                "seconds": f"{time.monotonic() - began:.0f}",
            }
        )

    def inside(*command: str) -> str:
        return debian.run(command, debian.environment)

    assert debian.user == "mstat"
    assert inside("id", "-u").strip() == "1000"
    pins = dict(
        line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    names = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for line in inside("pip", "freeze", "--exclude-editable").splitlines():
        name, _, version = line.partition("==")
        if name not in ("pip", "setuptools", "wheel"):
            assert version.partition("+")[0] == names[name.lower().replace("_", "-")].partition("+")[0], line
    code = "from deepspeed.git_version_info import torch_info; print(torch_info['version'])"
    assert inside("python", "-c", code).splitlines()[-1] == ".".join(pins["torch"].split(".")[:2])

    shutil.copytree(tiny_shards, debian.root / "mstat" / "data" / "tiny")
    (debian.root / "mstat" / "data" / "tiny.yaml").write_text(TINY.replace("data: {", "data: {shards: data/tiny, "))
    settings = ["--config", "data/tiny.yaml", "--run", "runs/tiny", "--train.steps", "2"]
    checked = inside("python", "launch/preflight.py", "--", *settings)
    assert "launch checks: all good" in checked
    assert "files " in checked
    command = ["accelerate", "launch", "--config_file", "configs/accelerate/single.yaml", "launch/train.py"]
    assert "report: runs/tiny/report.html" in inside(*command, *settings)
    assert (debian.root / "mstat" / "runs" / "tiny" / "evaluation.json").stat().st_uid == 1000
    rows[SECTION].append({"step": "(training of 2 steps, scores, launch checks)", "outcome": "run, as user 1000"})


def take(image: Image, word: str, rest: str, options: tuple[list[str], str]) -> str:
    """One instruction, as Docker does it; gives what became of it."""
    flags, plain = options
    if word == "ARG":
        given = assignments(rest)
        image.arguments.update(given)
        if "TORCH_INDEX" in given:
            image.arguments["TORCH_INDEX"] = "https://pypi.org/simple"
            return "taken, with PyPI, where pip looks anyway, for TORCH_INDEX"
        return "taken"
    if word == "FROM":
        return f"not run: Debian {SUITE} by debootstrap instead"
    if word == "ENV":
        image.environment.update({name: expand(value, image.environment) for name, value in assignments(rest).items()})
    elif word == "WORKDIR":
        image.folder = rest
        (image.root / rest[1:]).mkdir(parents=True, exist_ok=True)
    elif word == "USER":
        image.user = rest
    elif word == "COPY":
        source, target = plain.split()
        into = image.root / image.folder[1:] / target
        copy(PROJECT, source, into)
        for flag in flags:
            owner = flag.removeprefix("--chown=")
            image.run(["chown", "-R", f"{owner}:{owner}", image.folder], image.environment)
    elif word == "RUN":
        image.run(["sh", "-c", plain], {**image.arguments, **image.environment})
        return f"run, without {', '.join(flags)}" if flags else "run"
    elif word in ("ENTRYPOINT", "CMD"):
        return "not run: Docker's"
    else:
        raise AssertionError(f"{word}: not known to this test")
    return "done"
