"""The worked example of docs/datasets.md, taken out of it and run as it stands there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from shards.__main__ import main
from shards.read import Reader
from shards.sources import SOURCES
from tests.shards.trees import picture

DOCS = Path(__file__).resolve().parents[3] / "docs" / "datasets.md"


def test_the_example_of_the_docs_is_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code in a file of its own and a line in the table: a command with help, a build, and its own message."""
    text = DOCS.read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (listed,) = re.findall(r"```\n(folder,person.*?)```", text, re.DOTALL)
    path = tmp_path / "corridor.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("corridor", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(SOURCES, "corridor", module)

    root, out = tmp_path / "CORRIDOR", tmp_path / "data" / "corridor"
    root.mkdir()
    command = ["build", "corridor", "--source", str(root), "--out", str(out), "--workers", "1"]
    assert main(command) == 1
    assert "tracks.csv: missing; give the folder that holds it" in capsys.readouterr().err
    (root / "tracks.csv").write_text(listed)
    for number, line in enumerate(listed.splitlines()[1:]):
        folder = root / line.split(",")[0]
        folder.mkdir(parents=True)
        for frame in range(9, 12):
            (folder / f"{frame}.jpg").write_bytes(picture(100 * number + frame))
    assert main(command) == 0
    reader = Reader(out)
    assert [(t.key, t.pid, t.camid, t.num_frames) for t in map(reader.__getitem__, range(3))] == [
        ("a-0001", 7, 1, 3), ("a-0002", 7, 2, 3), ("b-0001", 12, 1, 3),
    ]  # fmt: skip
    assert reader.roles().tolist() == [6, 4, 1]
    assert [reader.encoded(0, frame) for frame in range(3)] == [picture(frame) for frame in range(9, 12)]
    with pytest.raises(SystemExit):
        main(["build", "corridor", "--help"])
    shown = capsys.readouterr().out
    assert "ROOT/tracks.csv" in shown
    assert "--partial" not in shown
