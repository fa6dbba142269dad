"""Settings of a stranger: no command imports what they name, and small files take little time and memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mstat.cluster.status import num_steps
from mstat.config import Config, DataConfig
from mstat.config.cli import load_config, override, save_config
from mstat.errors import UserError
from tests.conftest import PROJECT

HELPER = "open('imported', 'w').close()\n\n\nclass C:\n    pass\n"
CLASS = "{class_path: helper.C}"

COMMANDS = {
    "train": ["launch/train.py", "--config", "run/config.yaml"],
    "evaluate": ["launch/evaluate.py", "--run", "run"],
    "preflight": ["launch/preflight.py", "--", "--config", "run/config.yaml"],
    "status": ["launch/submit.py", "status", "run"],
    "dry-run": ["launch/submit.py", "--dry-run", "--", "--config", "run/config.yaml"],
    "reproduce": ["launch/reproduce.py", "table3", "--quick", "--out", "out", "--config", "run/config.yaml"],
    "model": ["-m", "mstat.model", "--config", "run/config.yaml"],
    "site": ["launch/submit.py", "--site", "run/config.yaml", "--dry-run", "--", "--run", "x"],
}
FLAGS = {
    "section": ["launch/train.py", "--pretrain", CLASS],
    "class_path": ["launch/train.py", "--pretrain.class_path=helper.C"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COMMANDS, *FLAGS])
def test_no_command_imports_what_a_config_names(name: str, tmp_path: Path) -> None:
    """A helper.py below the current folder, named by the config of a run folder or by a flag, leaves no mark."""
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "run" / "job").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(f"pretrain: {CLASS}\n")
    words = [str(PROJECT / word) if word.startswith("launch/") else word for word in (COMMANDS | FLAGS)[name]]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not (tmp_path / "imported").exists()
    assert "Traceback" not in done.stderr
    if name != "status":  # which shows a run whatever its settings
        assert done.returncode in (1, 2)
        assert "class_path" in done.stderr or "pretrain" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "pretrain: {{class_path: helper.C}}",
        "pretrain: helper.C",
        "pretrain: '{{class_path: helper.C}}'",
        "pretrain: {{init_args: {{}}, class_path: helper.C}}",
        "pretrain.class_path: helper.C",
        "pretrain: {{__path__: helper.C}}",
        "pretrain: {{dict_kwargs: {{class_path: helper.C}}}}",
        "pretrain: {{time: {{class_path: helper.C}}}}",
        "pretrain: {{time: '{{class_path: helper.C}}'}}",
        "model: {{stages: ['{{class_path: helper.C}}']}}",
        "class_path: helper.C",
        "pretrain+: {{class_path: helper.C}}",
        "pretrain.help: helper.C",
    ],
)
def test_no_spelling_imports(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way to name a class in a file is refused before anything is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "bad.yaml").write_text(text.format())
    with pytest.raises(UserError, match=r"bad\.yaml"):
        load_config(tmp_path / "bad.yaml")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("key", ["pretrain", "model", "data", "pretrain.class_path", "model.init.x", "", "."])
def test_override_imports_nothing(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is no single setting is refused by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper.py").write_text(HELPER)
    for value in (CLASS, "helper.C"):
        with pytest.raises(UserError):
            override(Config(), {key: value})
    assert not (tmp_path / "imported").exists()


def bomb(first: str, each: str, levels: int = 10) -> str:
    """Anchors, of which each holds the one before ten times."""
    parts = [f"&a0 {first}"]
    parts += [f"&a{n} " + each.format(", ".join([f"*a{n - 1}"] * 10)) for n in range(1, levels)]
    return "[" + ", ".join(parts) + "]"


@pytest.mark.parametrize(
    "text",
    [
        f"model: {{depths: {bomb('[1]', '[{}]')}}}",
        *(f"model: {{{key}: '{bomb('[1]', '[{}]')}'}}" for key in ("width", "depths", "stages", "init", "bnneck")),
        f"<<: {bomb('{seed: 1, rum: 2}', '{{<<: [{}]}}')}",
        "<<: [&a {" + ", ".join(f"k{n}: 1" for n in range(2000)) + "}" + ", *a" * 5000 + "]",
        "<<: a",
        "<<: {[1]: 2}",
        "[" * 30_000,
        "model: {depths: '" + "[" * 4000 + "'}",
        "model: {iap: '" + "- " * 2000 + "'}",
        "seed: 0x" + "f" * 4000,
        "model: {bnneck: 0x" + "f" * 4000 + "}",
        "seed: 1" + ":59" * 4000,
        "k" * 5000 + ": 1",
        "# " + "x" * 40_000,
        'run: "a\\e[2J"',
        'data: {split: "a\\nb"}',
    ],
    ids=lambda text: text[:30],
)
def test_small_files_take_little(text: str, tmp_path: Path) -> None:
    """Aliases, merges, nesting and endless numbers, also within a word: one line that a terminal may print."""
    (tmp_path / "bad.yaml").write_text(text)
    begin = time.process_time()
    with pytest.raises(UserError, match=r"bad\.yaml") as caught:
        load_config(tmp_path / "bad.yaml")
    assert time.process_time() - begin < 20  # a bomb would take minutes, and all memory
    assert len(str(caught.value)) < 1500
    assert "\x1b" not in str(caught.value)


def test_aliases_and_merges_of_people_are_read(tmp_path: Path) -> None:
    """A few anchors are what YAML is for; a section's own keys replace those that are merged."""
    (tmp_path / "a.yaml").write_text(
        "eval: {num_frames: &n 4}\nclip: {num_frames: *n}\ntrain: {<<: {steps: 3}, keep: 1}\n"
    )
    config = load_config(tmp_path / "a.yaml")
    assert (config.eval.num_frames, config.clip.num_frames, config.train.steps, config.train.keep) == (4, 4, 3, 1)


def test_a_look_opens_no_address(tmp_path: Path) -> None:
    """`submit.py status` counts steps by shards in a folder, and leaves a URL of the run's settings alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/set"
        config = Config(run=str(tmp_path), data=DataConfig(shards=url))
        save_config(config, tmp_path / "config.yaml")
        assert num_steps(tmp_path) is None
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
