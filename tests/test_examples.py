"""The examples as a user runs them, on a small set."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import PROJECT
from tests.shards.trees import shared_data

EXAMPLES = PROJECT / "examples"
FLAGS = (
    "--train.steps", "3", "--batch.num_identities", "4", "--batch.num_tracklets", "2", "--model.width", "32",
    "--model.drop_path", "0.2", "--data.num_workers", "0", "--data.shards",
)  # fmt: skip


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


def test_loops_of_other_people_train_alike(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain PyTorch, Lightning and the Trainer of Transformers see the same batches and noise: the same losses."""
    monkeypatch.chdir(tmp_path)
    flags = [*FLAGS, str(tiny_shards)]
    losses = main_of("plain_pytorch")(*flags)
    assert len(set(losses)) == 3
    assert main_of("plain_pytorch")(*flags) == losses
    assert main_of("lightning_module")(*flags) == pytest.approx(losses, rel=1e-5)
    assert main_of("hf_trainer")(*flags, "--run", str(tmp_path / "out")) == pytest.approx(losses, abs=1e-3)


def test_tracks_of_a_video(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = shared_data("pets2009")
    tracks = main_of("track_features")(str(reference), str(data / "vtest.avi"), str(data / "gt.txt"), 12)
    assert len(tracks) > 2
    assert f"{len(tracks)} tracks after 12 frames; most alike:" in capsys.readouterr().out


def test_the_notebook(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells run; the last one shows a picture. In the repository it has no outputs."""
    notebook = nbformat.read(EXAMPLES / "from_shards_to_a_match.ipynb", 4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) == 5
    assert not any(cell.outputs for cell in cells)
    (tmp_path / "data/synthetic").mkdir(parents=True)
    (tmp_path / "data/synthetic/shards").symlink_to(tiny_shards)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cells[1].source = cells[1].source.replace("--train.steps 40", "--train.steps 4")
    assert "--train.steps 4" in cells[1].source
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs/notebook/report.html").is_file()
    assert "image/png" in cells[-1].outputs[-1]["data"]
