"""Dockerfile, .dockerignore and mstat.def, as far as reading them goes; tests/soak/test_container.py runs the steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.helpers.dockerfile import commands, copy, ignored, section, steps

DOCKERFILE = steps((PROJECT / "Dockerfile").read_text())


def test_a_job_image() -> None:
    """A user other than root, no health check, a command in the form that signals reach."""
    words = [step.word for step in DOCKERFILE]
    assert "HEALTHCHECK" not in words
    assert [step.rest for step in DOCKERFILE if step.word == "USER"] == ["mstat"]
    assert words.index("USER") > max(number for number, word in enumerate(words) if word == "RUN")
    assert next(step.rest for step in DOCKERFILE if step.word == "CMD").startswith('["accelerate", "launch"')


def test_every_installation_is_constrained() -> None:
    """By the file that `make` installs by; DeepSpeed sees the torch that is installed before it."""
    pips = [command for step in DOCKERFILE if step.word == "RUN" for command in commands(step.options()[1])]
    pips = [command for command in pips if "pip install" in command]
    assert len(pips) == 3
    assert all("-c constraints.txt" in command for command in pips)
    assert "--no-build-isolation deepspeed" in pips[1]
    assert " torch " in pips[0]


def test_apptainer_does_the_same() -> None:
    """Each command of Dockerfile is in %post, but for those that make its user; base and index are the same."""
    definition = (PROJECT / "mstat.def").read_text()
    post = [" ".join(line.split()) for line in section(definition, "post")]
    for step in DOCKERFILE:
        for command in commands(step.options()[1]) if step.word == "RUN" else []:
            if not re.match(r"useradd|mkdir|chown", command):
                assert command in post
    arguments = dict(step.rest.split("=", 1) for step in DOCKERFILE if step.word == "ARG")
    assert f"From: {arguments['BASE']}\n" in definition
    assert f"TORCH_INDEX={arguments['TORCH_INDEX']}" in section(definition, "arguments")
    for line in section(definition, "files"):
        source, target = line.split()
        assert (PROJECT / source).exists()
        assert target == f"/mstat/{source}"


@pytest.mark.parametrize(("path", "is_left_out"), [
    (".git", True), (".venv/bin/python", True), ("mstat/model/__pycache__", True), ("data/synthetic", True),
    ("runs", True), (".venv-rivals/bin/python", True),
    ("mstat/data/sampler.py", False), ("a/b/model.safetensors", True), ("tests/conftest.py", False),
    ("constraints.txt", False), ("configs/mars.yaml", False),
])  # fmt: skip
def test_what_docker_leaves_out(path: str, is_left_out: bool) -> None:
    """Data, runs and environments stay out of the image; `mstat/data` is code."""
    assert ignored((PROJECT / ".dockerignore").read_text(), path) == is_left_out


def test_what_docker_copies(tmp_path: Path) -> None:
    """All that a run needs, and a few megabytes at most."""
    copy(PROJECT, ".", tmp_path / "image")
    for needed in ("pyproject.toml", "README.md", "launch/train.py", "configs/accelerate/ddp.yaml"):
        assert (tmp_path / "image" / needed).is_file()
    assert sum(path.stat().st_size for path in (tmp_path / "image").rglob("*") if path.is_file()) < 20e6
