"""A site's YAML: values of the right types; nothing that the file names is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mstat.cluster.sites import Site, load_site
from mstat.errors import UserError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class_path: site_helper.C", "unknown key 'class_path'"),
        ("setup: {class_path: site_helper.C}", "setup must be a list of strings"),
        ("partiton: gpu", "unknown key 'partiton': did you mean 'partition'"),
        ("- partition", "not a site"),
        ("account: 12345", "account must be a string .*quote it"),
        ("environment: {OMP_NUM_THREADS: 4}", "environment must be a mapping of strings"),
        ("sbatch: --exclusive", "sbatch must be a list of strings"),
        ('partition: "gpu\\n#SBATCH --uid=0"', "partition must be a string without line breaks"),
        ("a: &a [x]\nb: *a", "an alias"),
        ("python: !!python/name:site_helper.C ''", "a tag"),
    ],
)
def test_an_invalid_site_is_refused(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names file and key; a module in the current folder is not imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "site_helper.py").write_text("class C: pass\n")
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"site\.yaml: .*{message}|site\.yaml.*{message}"):
        load_site(tmp_path / "site.yaml")
    assert "site_helper" not in sys.modules


def test_empty_values_are_defaults(tmp_path: Path) -> None:
    """A key without a value, and a file of comments, are defaults; `setup` may have several lines in one item."""
    (tmp_path / "site.yaml").write_text("# nothing\n")
    assert load_site(tmp_path / "site.yaml") == Site()
    (tmp_path / "site.yaml").write_text("partition:\nsetup:\n  - |\n    if true; then\n      echo\n    fi\n")
    assert load_site(tmp_path / "site.yaml") == Site(setup=["if true; then\n  echo\nfi\n"])


def test_the_interface_is_that_of_both_libraries() -> None:
    """NCCL takes a prefix unless `=` stands before it; what the site sets itself counts more. Values are quoted."""
    site = Site(interface="ib0", environment={"NCCL_SOCKET_IFNAME": "^lo", "NAME": "it's a b"})
    assert site.variables() == {"GLOO_SOCKET_IFNAME": "ib0", "NCCL_SOCKET_IFNAME": "^lo", "NAME": "it's a b"}
    assert Site(interface="ib0").exports() == ["export GLOO_SOCKET_IFNAME=ib0", "export NCCL_SOCKET_IFNAME==ib0"]
    assert """export NAME='it'"'"'s a b'""" in site.exports()
    assert Site().exports() == []


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (Site(python="/venv/bin/python"), "/venv/bin/python"),
        (Site(python="/venv/bin/python", container="apptainer exec --nv a.sif"), "python3"),
        (Site(python="/venv/bin/python", srun=["--container-image=/a.sqsh"]), "python3"),
        (Site(python="/venv/bin/python", srun=["--exclusive"]), "/venv/bin/python"),
        (Site(container="apptainer exec a.sif", host_python="/usr/bin/python3.9"), "/usr/bin/python3.9"),
    ],
)
def test_attempts_are_kept_by_a_python_outside_of_the_container(site: Site, expected: str) -> None:
    assert site.restarts_python == expected
