"""Packages are imported one way only: launch -> mstat -> shards, and within mstat each from those before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
TOP = ("shards", "mstat", "launch")
# Modules and packages of mstat, lowest first. A file may import its own package and those before it.
MSTAT = (
    "errors", "foreign_messages", "files", "console", "provenance", "bootstrap", "numerics", "config", "losses",
    "model", "weights", "distributed", "data", "runs", "report", "evaluation", "search", "training", "pretraining",
    "paper", "preflight", "cluster",
)  # fmt: skip
# Other names for what users import and start: they lead to the modules above.
ALIASES = ("mstat/__init__.py", "mstat/__main__.py", "mstat/metrics.py", "mstat/model/__main__.py")


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it; `from package import name` gives package.name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", TOP)
def test_packages_are_imported_one_way(package: str) -> None:
    """No file of a lower package imports a higher one."""
    higher = TOP[TOP.index(package) + 1 :]
    files = [path for path in (PROJECT / package).rglob("*.py") if str(path.relative_to(PROJECT)) not in ALIASES]
    assert files
    for path in files:
        wrong = [name for name in imported(path) if name.split(".")[0] in higher]
        assert not wrong, f"{path.relative_to(PROJECT)} imports {wrong}"


@pytest.mark.parametrize("part", MSTAT)
def test_parts_of_mstat_are_imported_one_way(part: str) -> None:
    """No arrow leads up in the order of `MSTAT`, so that there is no circle."""
    allowed = MSTAT[: MSTAT.index(part) + 1]
    module = PROJECT / "mstat" / f"{part}.py"
    for path in [module] if module.is_file() else sorted((PROJECT / "mstat" / part).rglob("*.py")):
        if str(path.relative_to(PROJECT)) not in ALIASES:
            ours = [name.split(".") for name in imported(path) if name.split(".")[0] == "mstat"]
            wrong = [".".join(name) for name in ours if name[1] not in allowed]
            assert not wrong, f"{path.relative_to(PROJECT)} imports {wrong}"


def test_every_part_of_mstat_has_its_place() -> None:
    """A new module or package stands in the order; no more than ten modules lie flat; each package says what it is."""
    entries = [
        path
        for path in (PROJECT / "mstat").iterdir()
        if path.name not in ("__pycache__", "configs") and path.suffix in ("", ".py")
    ]
    flat = {path.stem for path in entries if path.is_file()}
    packages = [path for path in entries if path.is_dir()]
    assert {path.stem for path in entries} - {"__init__", "__main__", "metrics"} == set(MSTAT)
    assert len(flat) <= 10
    for package in packages:
        assert len((ast.get_docstring(ast.parse((package / "__init__.py").read_text())) or "").splitlines()) >= 3, (
            package
        )


def test_only_the_engine_knows_accelerate_and_deepspeed() -> None:
    """Two files to read, or to change, about processes and precision; a third takes Accelerate's trackers."""
    folder = PROJECT / "mstat" / "distributed"
    trackers = PROJECT / "mstat" / "training" / "tracker_kinds.py"
    for package in TOP:
        for path in (PROJECT / package).rglob("*.py"):
            if {name.split(".")[0] for name in imported(path)} & {"accelerate", "deepspeed"}:
                assert path in (folder / "engine.py", folder / "deepspeed.py", trackers)


# Files that call `print`, and why `shards.terminal.print_line` does not do.
PRINTING = {
    "shards/__main__.py",  # JSON for programs
    "launch/submit.py",  # scripts and YAML, to be piped
    "mstat/cluster/ssh.py",  # scripts, and the output of the nodes as it is
    "mstat/cluster/restarts.py",  # runs on a batch host's own Python 3.9
}


def test_few_files_print() -> None:
    """All others use `print_line`, which escapes control characters, or a console of rich."""
    printing = set()
    for package in TOP:
        for path in (PROJECT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                is_write = isinstance(node, ast.Attribute) and ast.unparse(node) in (
                    "sys.stdout.write",
                    "sys.stderr.write",
                )
                if is_write or (isinstance(node, ast.Name) and node.id == "print"):
                    printing.add(str(path.relative_to(PROJECT)))
    assert printing == PRINTING


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("shards", {"torch", "numpy", "datasets", "webdataset"}),
        ("mstat.config.cli", {"torch"}),
        ("mstat", {"torch"}),
        ("launch.report", {"torch", "matplotlib"}),
        ("launch.__main__", {"torch", "numpy", "jsonargparse"}),
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
    run = runpy.run_path if command.endswith(".py") else runpy.run_module
    run(command, run_name="__main__")
except SystemExit as end:
    assert not end.code
print("loaded:", *({heavy} & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", [
    "launch/train.py", "launch/pretrain.py", "launch/evaluate.py", "launch/export.py", "launch/embed.py",
    "launch/search.py", "launch/push.py", "launch/robustness.py", "launch/reproduce.py table2", "launch/configs.py",
    "launch/preflight.py", "launch/submit.py", "launch/submit.py status", "launch/report.py", "shards",
    "shards build mars", "mstat", "mstat train", "mstat shards build mars",
])  # fmt: skip
def test_a_help_loads_nothing_heavy(command: str) -> None:
    """`--help` does not import the packages that do the work."""
    code = HELP.format(heavy=HEAVY)
    process = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True, cwd=PROJECT
    )
    assert process.returncode == 0, process.stderr
    assert "usage:" in process.stdout.lower()
    assert process.stdout.splitlines()[-1] == "loaded:"
