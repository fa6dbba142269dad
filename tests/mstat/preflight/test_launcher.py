"""The launch checks around the launcher: the flags of a machine, and the verdicts of its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstat.errors import UserError
from mstat.preflight.launcher import FOLDER, _machine, report


def test_flags_override_the_yaml(tmp_path: Path) -> None:
    """As in Accelerate: names with `-` or `_`, among other flags."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "machine_rank: 1\nnum_machines: 4\nmain_process_ip: n0\nmain_process_port: 1234\nrdzv_backend: c10d\n"
    )
    assert _machine(["--config_file", str(path)]) == (1, 4, ("n0", 1234))
    flags = ["--config-file", str(path), "--use_deepspeed", "--machine-rank=3", "--main_process_ip", "n7"]
    assert _machine(flags) == (3, 4, ("n7", 1234))


def test_one_machine_has_no_address() -> None:
    """The default port is torch's."""
    assert _machine([]) == (0, 1, None)
    assert _machine(["--main_process_ip", "n0"]) == (0, 1, ("n0", 29500))


def test_a_rank_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """The message names the flag, also for a value of the YAML."""
    with pytest.raises(UserError, match="--machine_rank is 'first', but must be an integer"):
        _machine(["--machine_rank", "first"])
    (tmp_path / "a.yaml").write_text("num_machines: [2]\n")
    with pytest.raises(UserError, match=r"--num_machines is \[2\], but must be an integer"):
        _machine(["--config_file", str(tmp_path / "a.yaml")])
    (tmp_path / "a.yaml").write_text("- 2\n")
    with pytest.raises(UserError, match=r"a\.yaml: not a configuration of `accelerate launch`"):
        _machine(["--config_file", str(tmp_path / "a.yaml")])


def test_verdicts_are_reported_by_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process then succeeds, so that the launcher prints no page; without the folder its status is the verdict."""
    monkeypatch.delenv(FOLDER, raising=False)
    assert [report(verdict) for verdict in (True, False)] == [True, False]
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for verdict, name in ((None, "begun"), (True, "good"), (False, "bad")):
        assert report(verdict)
        assert (tmp_path / name).exists()
