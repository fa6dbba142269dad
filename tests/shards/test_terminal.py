from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.terminal import print_line
from tests.shards.trees import build_mars, mars_tree

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = os.fsdecode(b"na\xefve")  # Latin-1: no UTF-8

COMMANDS = """
import os, sys
from shards.__main__ import main

tree, out = sys.argv[1:]
print("status", main(["build", "mars", "--partial", "--source", tree, "--out", out, "--workers", "1"]))
print("status", main(["info", out]))
print("status", main(["verify", out]))
print("status", main(["show", out, "0001C1T0001", "--out", out + ".png"]))
print("status", main(["show", out, os.path.basename(out)]))
os.unlink(out + "/shard-000000.tar")
print("status", main(["info", out]))
print("status", main(["verify", out]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_every_command_prints_every_name(tmp_path: Path, encoding: str) -> None:
    """Names whose bytes are no UTF-8, and a terminal or pipe of any encoding: commands end as with other names, and
    their tables are made of signs that there are."""
    tree = mars_tree(tmp_path / NAME / "tree", size=(16, 8))
    command = [sys.executable, "-c", COMMANDS, str(tree), str(tmp_path / NAME / NAME)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    output, errors = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert (done.returncode, "Traceback" in errors) == (0, False), errors
    assert [line.split()[1] for line in output.splitlines() if line.startswith("status")] == list("0000211")
    assert rf"{tmp_path}/na\udcefve/na\udcefve: 10 tracklets, 37 frames" in output
    assert r"no tracklet na\udcefve; keys look like" in errors
    assert ("█" in output, "⌀" in output) == (encoding == "utf-8", encoding == "utf-8")
    assert r"\u" not in output.replace(r"\udcef", "")


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """`info DIR | head -0`: no traceback, and no complaint."""
    out = build_mars(mars_tree(tmp_path / "tree", size=(16, 8)), tmp_path / "out")
    for arguments in (["info", out], ["info", out, "--json"], ["verify", out]):
        command = [sys.executable, "-m", "shards", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_a_line_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line end is in it, so that ranks do not interleave; what would control a terminal is escaped."""
    writes: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr("sys.stdout", Stream())
    print_line("a\x1b[2J\n\tb")
    print_line("a\x1b\nb", keep="\n", file=Stream())
    assert writes == ["a\\x1b[2J\\n\\tb\n", "a\\x1b\nb\n"]
