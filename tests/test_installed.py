"""An installed mstat, without its repository: the content of the wheel, and every kind of start."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.launched

PACKAGES = ("launch", "mstat", "shards")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{}(sys.argv[1]))"


def copied(folder: Path) -> Path:
    """Copy what an sdist is made from: a build leaves files in its folder."""
    for name in (*PACKAGES, "configs"):
        shutil.copytree(PROJECT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, folder)
    return folder


def built(kind: str, tree: Path, out: Path) -> Path:
    """Build the wheel or sdist of a tree, as pip does; return its path."""
    out.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD.format(kind), str(out)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / done.stdout.splitlines()[-1]


def environment() -> dict[str, str]:
    """The variables of this process, except those that lead to the repository or keep Python from caching bytecode."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}


class Installation:
    """An environment with mstat, the packages of this one, and nothing of the repository; and a folder to work in."""

    def __init__(self, folder: Path, *requirement: str) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        self.bin, self.work = folder / "venv" / "bin", folder / "work"
        self.work.mkdir()
        self.packages = next((folder / "venv" / "lib").glob("python*")) / "site-packages"
        # Lines of a .pth file extend sys.path, but .pth files there, such as of an editable mstat, are not read.
        (self.packages / "torch_and_others.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet", "--no-index"]
        pip += ["--ignore-installed", "--no-deps", "--no-build-isolation"]
        done = subprocess.run([*pip, *requirement], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr

    def run(self, *command: object, status: int = 0) -> str:
        """Run a command of the environment in the folder; return its stdout."""
        program, *words = map(str, command)
        variables = {**environment(), "OMP_NUM_THREADS": "1", "PATH": f"{self.bin}:{os.environ['PATH']}"}
        done = subprocess.run(
            [self.bin / program, *words], capture_output=True, text=True, cwd=self.work, env=variables, timeout=300
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    return built("wheel", copied(folder / "tree"), folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The installed wheel, in a folder that belongs to the repository of another project."""
    folder = tmp_path_factory.mktemp("installed")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    return Installation(folder, str(wheel))


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel, without its metadata."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist() if ".dist-info/" not in name}


def files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_the_wheel_has_every_file(wheel: Path, tmp_path: Path) -> None:
    """All of the three packages, configs/ as a part of mstat, and nothing else; a wheel from the sdist has the same."""
    paths = [path for name in (*PACKAGES, "configs") for path in files(PROJECT / name)]
    named = {str(path.relative_to(PROJECT)): path.read_bytes() for path in paths}
    expected = {f"mstat/{name}" if name.startswith("configs/") else name: data for name, data in named.items()}
    needed = {"mstat/py.typed", "shards/py.typed", "mstat/report/style.css", "mstat/configs/sites/venv.yaml"}
    assert needed <= set(expected)
    assert contents(wheel) == expected
    sdist = built("sdist", copied(tmp_path / "tree"), tmp_path / "dist")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path, filter="data")
    again = built("wheel", tmp_path / sdist.name.removesuffix(".tar.gz"), tmp_path / "dist")
    assert contents(again) == expected


def test_it_is_the_installed_one(installed: Installation) -> None:
    """Nothing is imported from the repository; commands and configs are there."""
    for name in PACKAGES:
        path = installed.run("python", "-c", f"import {name}; print({name}.__file__)")
        assert path == f"{installed.packages}/{name}/__init__.py\n"
    assert installed.run("mstat", "--help") == installed.run("python", "-m", "mstat", "--help")
    assert "usage: mstat shards build synthetic" in installed.run("mstat", "shards", "build", "synthetic", "--help")
    assert "usage: python -m shards" in installed.run("mstat-shards", "--help")
    configs = installed.packages / "mstat" / "configs"
    assert installed.run("mstat", "configs") == f"{configs}\n"
    for words, run in (
        ([], "synthetic"),
        (["--config", "mars.yaml"], "mars"),
        (["--config", "configs/prid.yaml"], "prid"),
    ):
        output = installed.run("mstat", "train", *words, "--print_config")
        assert output.startswith(f"run: runs/{run}\n")
    installed.run("mstat", "trian", status=2)


def test_a_run_of_an_installation(installed: Installation, tiny_config: Path) -> None:
    """A job checks the launch and trains on two processes (`accelerate launch -m mstat train`); one process scores the
    run, with the same bytes, and makes its report."""
    flags = ["--scheduler", "local", "--gpus-per-node", 0, "--processes-per-node", 2]
    words = ["--config", tiny_config, "--run", "runs/two", "--train.steps", "2"]
    assert "launch checks: all good" in installed.run("mstat", "submit", *flags, "--", *words)
    run = installed.work / "runs" / "two"
    record = json.loads((run / "environment.json").read_text())
    assert record["command"].startswith("mstat train --config ")
    assert record["commit"] is None
    before = (run / "evaluation.json").read_bytes()
    (run / "evaluation.json").unlink()
    installed.run("mstat", "evaluate", "--run", "runs/two")
    assert (run / "evaluation.json").read_bytes() == before
    assert installed.run("mstat", "report", "runs/two") == "runs/two/report.html\n"


def test_the_script_of_a_job(installed: Installation) -> None:
    """Nothing in it leads to the repository, and bash accepts it."""
    text = installed.run("mstat", "submit", "--nodes", 2, "--dry-run", "--", "--config", "mars.yaml")
    assert str(PROJECT) not in text
    assert "-m mstat train --config mars.yaml" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_an_editable_installation(tmp_path: Path) -> None:
    """The commands and configs are those of the clone."""
    tree = copied(tmp_path / "tree")
    editable = Installation(tmp_path, "--editable", str(tree))
    assert editable.run("mstat", "configs", "mars.yaml") == f"{tree}/configs/mars.yaml\n"
    assert editable.run("python", "-c", "import mstat; print(mstat.__file__)") == f"{tree}/mstat/__init__.py\n"
