"""launch/preflight.py as a user starts it: one table shows all faults, and the exit status is 1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from launch.preflight import arguments, settings_of
from tests.conftest import PROJECT
from tests.helpers.hosts import ADDRESSES, CABLE, END_SECONDS, PORT, Hosts


def preflight(
    hosts: Hosts,
    settings: Sequence[object],
    *options: object,
    trees: Sequence[Path] = (PROJECT, PROJECT),
    environments: Sequence[Mapping[str, str]] = (MappingProxyType({}), MappingProxyType({})),
    own: Sequence[Sequence[object]] = ((), ()),
    machines: Sequence[int] = (0, 1),
    processes: int = 2,
) -> list[tuple[int, str]]:
    """Run the checks of a training on two hosts; return each host's exit status and output.

    Args:
        settings: Flags of launch/train.py.
        options: Flags of launch/preflight.py.
        trees: Each host's copy of the project.
        environments: Each host's variables besides those of this process.
        own: Each host's flags of launch/train.py besides `settings`.
        machines: The hosts that start the checks.
    """
    started = []
    for machine in machines:
        launcher = ["--config_file", PROJECT / "configs" / "accelerate" / "multinode.yaml", "--machine_rank", machine]
        launcher += ["--main_process_ip", ADDRESSES[0], "--main_process_port", PORT, "--num_processes", processes]
        script = trees[machine] / "launch" / "preflight.py"
        command = [*options, *launcher, trees[machine] / "launch" / "train.py", *settings, *own[machine]]
        process = subprocess.Popen(
            [*hosts.on(machine), sys.executable, str(script), *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE, **environments[machine]},
            start_new_session=True,
        )
        started.append(process)
    hosts.launches += started
    outputs = [process.communicate(timeout=END_SECONDS)[0] for process in started]
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def other_tree(folder: Path) -> Path:
    """Copy the project, change one file, and commit it."""
    for room in ("launch", "mstat", "shards", "configs"):
        shutil.copytree(PROJECT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "mstat" / "task.py").open("a") as file:
        file.write("# another one\n")
    git = ["git", "-C", str(folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "another"]):
        subprocess.run([*git, *command], check=True)
    return folder


def other_package(folder: Path) -> Mapping[str, str]:
    """Return an environment in which Python finds another version of simplejpeg."""
    metadata = folder / "simplejpeg-1.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: simplejpeg\nVersion: 1.0.0\n")
    return {"PYTHONPATH": str(folder)}


def other_shards(hosts: Hosts, folder: Path, shards: Path) -> None:
    """Mount another set under the same path on the second host."""
    from shards.sources import mars
    from shards.synthetic.persons import write_synthetic
    from shards.write import building, write

    write_synthetic(folder / "tree", 4, workers=1, num_train=9, num_val=3, num_test=4)
    with building(folder / "shards") as out:
        write(mars.read(folder / "tree", name="synthetic", partial=True), out, workers=1)
    subprocess.run([*hosts.on(1), "mount", "--bind", folder / "shards", shards], check=True)


def test_all_faults_are_reported_at_once(hosts: Hosts, tiny_config: Path, tiny_shards: Path, tmp_path: Path) -> None:
    """Two hosts differ in commit, package version, settings and shards, and there are fewer processes than expected:
    five faults below one table and in RUN/preflight.json, exit status 1 on both hosts."""
    other_shards(hosts, tmp_path / "other", tiny_shards)
    settings = ["--config", tiny_config, "--run", tmp_path / "run"]
    (first, printed), (second, _) = preflight(
        hosts,
        settings,
        "--expect-processes",
        4,
        trees=(PROJECT, other_tree(tmp_path / "tree")),
        environments=({}, other_package(tmp_path / "packages")),
        own=((), ("--optim.lr", 0.5)),
    )
    assert (first, second) == (1, 1), printed
    report = json.loads((tmp_path / "run" / "preflight.json").read_text())
    faults = [f"{fault['where']}: {fault['what']}" for fault in report["faults"]]
    assert faults[0] == "launch: 2 processes were launched, but --expect-processes is 4"
    assert faults[1].startswith("mstat-1: its code is at commit ")
    assert faults[2].startswith("mstat-1: simplejpeg is 1.0.0 here and ")
    assert faults[3] == "mstat-1: optim.lr is 0.5 here and 0.002 on the other nodes"
    assert faults[4].startswith("mstat-1: the checksum of its shards is ")
    assert len(faults) == 5
    assert not report["good"]
    for line in faults:
        assert line in printed
    for part in ("mstat-0", "mstat-1", "all-reduce of 32 MB over gloo:", "launch checks: 5 problems; not starting"):
        assert part in printed
    assert "Traceback" not in printed


def test_the_scripts(
    tiny_config: Path,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The checks read the flags of each script that they accept, and refuse other scripts."""
    monkeypatch.chdir(tmp_path)
    flags = ["--config_file", "single.yaml"]
    for script, words, run in (
        ("train", ["--config", tiny_config, "--run", "a"], "a"),
        ("pretrain", [], "runs/actions"),
        ("evaluate", ["--run", reference, "--eval.num_frames", "2"], str(reference)),
        ("evaluate", ["--checkpoint", reference / "checkpoints" / "step-1", "--out", "c"], str(reference)),
        ("evaluate", ["--run", reference, "--data.shards", "a"], str(reference)),
        ("robustness", ["--run", reference, "--quick"], str(reference)),
        ("reproduce", ["table3", "--quick", "--out", "b", "--config", tiny_config], "b"),
    ):
        command = [*flags, f"launch/{script}.py", *map(str, words)]
        options, launcher, settings = arguments(["--timeout", "5", *command])
        assert (options.timeout, options.script, launcher) == (5, script, flags)
        assert settings_of(options.script, settings).run == run
        assert arguments([f"--script={script}", "--", *settings])[0].script == script
        installed = [*flags, "-m", "mstat", script, *map(str, words)]
        assert arguments(["--timeout", "5", *installed]) == (options, launcher, settings)
    with pytest.raises(SystemExit):
        arguments([*flags, "launch/report.py", "runs/a"])
    for other in (["-m", "mstat", "report"], ["-m", "torch", "train"], ["-m", "mstat"]):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            arguments([*flags, *other])
        assert f"{' '.join(other)}: the checks accept -m mstat train, " in capsys.readouterr().err
    assert settings_of("evaluate", ["--run", str(reference), "--data.shards", "/a", "/b"]).data.shards == "/a"
    assert "data.shards: the checks open /a alone; launch/evaluate.py opens all" in capsys.readouterr().err


def test_before_an_evaluation(reference: Path) -> None:
    """One process: a table, and exit status 0."""
    script, single = PROJECT / "launch" / "preflight.py", PROJECT / "configs" / "accelerate" / "single.yaml"
    command = [script, "--config_file", single, PROJECT / "launch" / "evaluate.py", "--run", reference]
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    assert (done.returncode, "launch checks: all good" in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(("words", "message"), [
    (["--config_file", PROJECT / "configs" / "accelerate" / "single.yaml", "launch/train.py"], "--max-skew"),
    (["--", "--run", "runs/a"], "--max-skew"),
    ([], "unknown setting 'max-skew'"),
], ids=["around the launcher", "under the launcher", "one process"])  # fmt: skip
def test_an_unknown_flag(words: list[object], message: str) -> None:
    """Exit status 2, and the message names the flag: from Accelerate, from this command, or from the settings."""
    command = [sys.executable, PROJECT / "launch" / "preflight.py", "--max-skew", "1", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.splitlines()[-1]
