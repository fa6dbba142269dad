"""The rooms of the project are entered one way only: launch -> mstat -> shards."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
REPORTS = [(module, {"torch", "matplotlib"}) for module in ("launch.report", "mstat.report.compare")]
MAY_IMPORT = {"shards": {"shards"}, "mstat": {"mstat", "shards"}, "launch": {"launch", "mstat", "shards"}}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_are_entered_one_way(room: str) -> None:
    """No file of a lower room imports a higher one."""
    files = sorted((PROJECT / room).rglob("*.py"))
    assert files
    for path in files:
        forbidden = (imported(path) & set(MAY_IMPORT)) - MAY_IMPORT[room]
        assert not forbidden, f"{path.relative_to(PROJECT)} imports {forbidden}"


def test_only_the_engine_knows_accelerate_and_deepspeed() -> None:
    """mstat/engine.py is the one file to read, or to change, about processes and precision."""
    for room in MAY_IMPORT:
        for path in (PROJECT / room).rglob("*.py"):
            if imported(path) & {"accelerate", "deepspeed"}:
                assert path == PROJECT / "mstat" / "engine.py"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("shards", {"torch", "numpy", "datasets", "webdataset"}),
        ("mstat.configure", {"torch"}),
        ("mstat", {"torch"}),
        ("launch.report", {"torch", "matplotlib"}),
        ("mstat.report.compare", {"torch", "matplotlib"}),
    ],
)
def test_light_imports_stay_light(module: str, heavy: set[str]) -> None:
    """Readers, --help and `import mstat` do not pay for what they do not use."""
    code = f"import sys, {module}; print(*({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert result.stdout.split() == []


HEAVY = {"torch", "accelerate", "deepspeed", "transformers", "datasets", "matplotlib", "scipy"}
HELP = """
import runpy, sys
command = sys.argv.pop(1)
sys.argv[0] = command
try:
    run = runpy.run_module if command == "shards" else runpy.run_path
    run(command, run_name="__main__")
except SystemExit as end:
    assert not end.code
print("loaded:", *({heavy} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", [
    "launch/train.py", "launch/pretrain.py", "launch/evaluate.py", "launch/export.py", "launch/robustness.py",
    "launch/reproduce.py table2",
    "launch/preflight.py", "launch/submit.py", "launch/submit.py status", "launch/report.py", "shards",
    "shards build mars",
])  # fmt: skip
def test_a_help_loads_nothing_heavy(command: str) -> None:
    """What tells how it is used does not wait for what would do it."""
    code = HELP.format(heavy=HEAVY)
    told = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True, cwd=PROJECT
    )
    assert told.returncode == 0, told.stderr
    assert "usage:" in told.stdout.lower()
    assert told.stdout.splitlines()[-1] == "loaded:"
