"""Run a command: `mstat COMMAND ...`, `python -m mstat COMMAND ...` or `accelerate launch -m mstat COMMAND ...`.

`mstat NAME` is launch/NAME.py, with the same options and exit status; `mstat shards` is `python -m shards`.
"""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import mstat
from shards.terminal import print_anything, print_line

# Each name is a module of launch/ with a function `main(argv, prog)`; the first line of its docstring is its help.
LAUNCH = (
    "train", "pretrain", "evaluate", "robustness", "reproduce", "report", "embed", "search", "export", "model",
    "configs", "preflight", "submit",
)  # fmt: skip
COMMANDS = {"shards": "shards.__main__", **{name: f"launch.{name}" for name in LAUNCH}}
BAD_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    print_anything()
    if not words or words[0] in ("-h", "--help"):
        print_line(overview(), keep="\n", file=None if words else sys.stderr)
        return 0 if words else BAD_USAGE
    if words[0] == "--version":
        print_line(f"mstat {mstat.__version__}")
        return 0
    name, *arguments = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "`mstat --help` lists all commands"
        print_line(f"mstat: unknown command {name!r}: {hint}", file=sys.stderr)
        return BAD_USAGE
    sys.argv = ["mstat", *words]  # run folders and jobs record the command line, and python -m puts a path there
    status: int = import_module(COMMANDS[name]).main(arguments, prog=f"mstat {name}")
    return status


def overview() -> str:
    """Return the text of `mstat --help`."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {summary(module)}" for name, module in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mstat COMMAND ...",
            "",
            *rows,
            "",
            "`mstat COMMAND --help` shows the options of a command. Several processes, GPUs or machines:",
            "  accelerate launch --config_file $(mstat configs accelerate/ddp.yaml) -m mstat COMMAND ...",
        ]
    )


def summary(module: str) -> str:
    """Return the first line of a module's docstring up to a colon. The module is not imported, which could be slow."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0].partition(":")[0]


if __name__ == "__main__":
    sys.exit(main())
