"""`launch/robustness.py` as a user starts it, on one process and on two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import run


def test_one_process_and_two_give_the_same_study(reference: Path, tmp_path: Path) -> None:
    """Every point bit for bit; tables and the plot's path are printed; a second start scores nothing."""
    studies = []
    for processes, accelerate, starts in ((None, None, (7, 0)), (2, "ddp", (7,))):
        folder = tmp_path / f"run-{processes or 1}"
        shutil.copytree(reference, folder)
        for expected in starts:
            status, output = run("robustness", ["--run", folder, "--quick"], accelerate=accelerate, processes=processes)
            assert status == 0, output
            assert output.count("point ") == expected
            assert "occluded area" in output
            assert f"{folder}/figures/robustness.svg" in output.replace("\n", "")
        studies.append(json.loads((folder / "robustness.json").read_text()))
    assert studies[0] == studies[1]


def test_no_run_is_one_line(tmp_path: Path) -> None:
    """A folder that is no run is named."""
    status, output = run("robustness", ["--run", tmp_path], accelerate=None)
    assert status == 1
    assert f"error: {tmp_path}: no config.yaml in it" in output
