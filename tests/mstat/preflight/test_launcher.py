"""The launch checks outside the launcher: where a machine stands, and what its processes tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstat.errors import UserError
from mstat.preflight.launcher import FOLDER, _place, tell


def test_flags_count_more_than_the_yaml(tmp_path: Path) -> None:
    """As Accelerate reads both: `-` and `_` in names, flags of its own in between."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "machine_rank: 1\nnum_machines: 4\nmain_process_ip: n0\nmain_process_port: 1234\nrdzv_backend: c10d\n"
    )
    assert _place(["--config_file", str(path)]) == (1, 4, ("n0", 1234))
    flags = ["--config-file", str(path), "--use_deepspeed", "--machine-rank=3", "--main_process_ip", "n7"]
    assert _place(flags) == (3, 4, ("n7", 1234))


def test_one_machine_has_no_address() -> None:
    """Its port is torch's."""
    assert _place([]) == (0, 1, None)
    assert _place(["--main_process_ip", "n0"]) == (0, 1, ("n0", 29500))


def test_a_place_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """By the flag, also where the YAML has it."""
    with pytest.raises(UserError, match="--machine_rank is 'first', it must be a whole number"):
        _place(["--machine_rank", "first"])
    (tmp_path / "a.yaml").write_text("num_machines: [2]\n")
    with pytest.raises(UserError, match=r"--num_machines is \[2\], it must be a whole number"):
        _place(["--config_file", str(tmp_path / "a.yaml")])
    (tmp_path / "a.yaml").write_text("- 2\n")
    with pytest.raises(UserError, match=r"a\.yaml: holds no settings of `accelerate launch`"):
        _place(["--config_file", str(tmp_path / "a.yaml")])


def test_verdicts_are_left_for_the_one_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process itself then ends well, or the launcher would print a page; alone, it gives the verdict itself."""
    monkeypatch.delenv(FOLDER, raising=False)
    assert [tell(verdict) for verdict in (True, False)] == [True, False]
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for verdict, name in ((None, "begun"), (True, "good"), (False, "bad")):
        assert tell(verdict)
        assert (tmp_path / name).exists()
