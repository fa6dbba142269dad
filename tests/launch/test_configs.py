"""`mstat configs [NAME]`: paths that other commands take."""

from __future__ import annotations

import pytest

from launch.configs import main
from tests.conftest import PROJECT


def test_the_paths(capsys: pytest.CaptureFixture[str]) -> None:
    """The folder, or a file in it, alone on a line of stdout."""
    for argv, path in (
        ([], PROJECT / "configs"),
        (["mars.yaml"], PROJECT / "configs" / "mars.yaml"),
        (["accelerate/zero2.yaml"], PROJECT / "configs" / "accelerate" / "zero2.yaml"),
    ):
        assert main(argv) == 0
        assert capsys.readouterr().out == f"{path}\n"


@pytest.mark.parametrize(
    ("name", "hint"), [("zero2.yaml", ": did you mean accelerate/zero2.yaml?"), ("../README.md", "")]
)
def test_a_file_that_is_no_config(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, nothing on stdout, and the nearest name."""
    assert main([name]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"launch/configs.py: {PROJECT / 'configs' / name}: no such file{hint}\n"
