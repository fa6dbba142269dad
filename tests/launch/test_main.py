"""`mstat COMMAND`: what it lists, starts and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mstat
from launch.__main__ import COMMANDS, main
from tests.conftest import PROJECT


def test_every_file_of_launch_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`mstat --help` has one line for each, with the beginning of its docstring."""
    files = {path.stem for path in (PROJECT / "launch").glob("*.py")} - {"__init__", "__main__", "common"}
    assert set(COMMANDS) == files | {"shards"}
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = dict(line.split(maxsplit=1) for line in lines if line.startswith("  ") and "launch" not in line)
    assert list(rows) == list(COMMANDS)
    assert rows["train"] == "Train MSTAT"
    assert rows["shards"] == "Build, verify and show data sets as shards"


def test_a_command_has_its_name_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage and messages begin with `mstat NAME`, as the user has typed it."""
    for words, usage in (
        (["train"], "usage: mstat train [--config FILE]"),
        (["evaluate"], "usage: mstat evaluate [-h]"),
        (["submit", "status"], "usage: mstat submit status [-h]"),
        (["shards", "build", "mars"], "usage: mstat shards build mars [-h]"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code in (0, None)
        assert capsys.readouterr().out.startswith(usage)
    for name in set(COMMANDS) - {"shards"}:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert f"mstat {name} " in capsys.readouterr().out.splitlines()[0]


def test_the_exit_status_is_that_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1 for data that cannot be read, 2 for a bad setting."""
    assert main(["shards", "info", str(tmp_path)]) == 1
    assert main(["evaluate", "--run", str(tmp_path)]) == 1
    assert f"error: {tmp_path}: no config.yaml in it" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["train", "--optim.lrr", "1"])
    assert end.value.code == 2
    assert capsys.readouterr().err == "mstat train: unknown setting 'optim.lrr': did you mean 'optim.lr'?\n"


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown word names the nearest command, no word prints the list to stderr; both are bad usage."""
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "mstat: unknown command 'trian': did you mean 'train'?\n"
    assert main(["\x1b[2J"]) == 2
    assert capsys.readouterr().err == "mstat: unknown command '\\x1b[2J': `mstat --help` lists all commands\n"
    assert main([]) == 2
    output = capsys.readouterr()
    assert (output.out, output.err[:6]) == ("", "usage:")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mstat {mstat.__version__}\n"


def test_as_a_module(tmp_path: Path) -> None:
    """`python -m mstat` of a clone; what is imported does not change the order in which Python finds modules."""
    code = "import sys; before = list(sys.path); import launch.train, launch.submit; print(sys.path == before)"
    for words, output in (
        (["-m", "mstat", "--version"], f"mstat {mstat.__version__}\n"),
        (["-c", code], "True\n"),
    ):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=PROJECT)
        assert (done.returncode, done.stdout) == (0, output), done.stderr
