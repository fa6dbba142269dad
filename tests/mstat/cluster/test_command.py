"""The command line after `--`: its folder, its checks, its time limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstat.cluster.command import seconds, target
from tests.conftest import PROJECT


def test_the_run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the value of --run or else of the YAML, and absolute."""
    monkeypatch.chdir(tmp_path)
    mars = str(PROJECT / "configs" / "mars.yaml")
    assert target("train", ["--config", mars]) == (tmp_path / "runs" / "mars", 0)
    assert target("train", ["--run", "elsewhere", "--config", mars, "--seed", "3"]) == (tmp_path / "elsewhere", 3)
    assert target("shards", ["build", "mars", "--out=data/mars"]) == (tmp_path / "data" / "mars-job", 1)
    assert target("reproduce", ["table3", "--out", "x"]) == (tmp_path / "x", 1)


def test_a_wrong_command_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An unknown setting, a missing run, a build without --out."""
    with pytest.raises(SystemExit):
        target("train", ["--optim.lrr", "1"])
    assert "did you mean 'optim.lr'?" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no config\.yaml in it"):
        target("evaluate", ["--run", str(tmp_path)])
    with pytest.raises(ValueError, match="--out is missing"):
        target("shards", ["build", "mars"])


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("30", 1800), ("1:30", 90), ("24:00:00", 86400), ("2-1", 176400), ("1-0:1", 86460), ("1-0:0:1", 86401)],
)
def test_time_limits(limit: str, expected: int) -> None:
    """As sbatch reads them."""
    assert seconds(limit) == expected
    assert seconds("UNLIMITED") is None
