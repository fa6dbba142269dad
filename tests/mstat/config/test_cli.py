"""Settings: a YAML changed by flags; what does not exist is refused with what does."""

from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path

import pytest

from mstat.config import Config
from mstat.config.cli import load_config, override, parse, save_config
from mstat.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_a_flag_counts_wherever_it_stands(tmp_path: Path) -> None:
    """`--optim.lr 3 --config FILE` and `--config FILE --optim.lr 3` are the same; the YAML keeps what no flag says."""
    path = tmp_path / "run.yaml"
    path.write_text("optim: {lr: 2.0, momentum: 0.5}\n")
    before, after = (
        parse(["--optim.lr", "3", "--config", str(path)]),
        parse([f"--config={path}", "--optim.lr=3"]),
    )
    assert before == after
    assert (before.optim.lr, before.optim.momentum) == (3.0, 0.5)


def test_a_config_replaces_the_default_one(tmp_path: Path) -> None:
    """Nothing of the default YAML shines through a named one."""
    (tmp_path / "default.yaml").write_text("train: {steps: 7}\n")
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    assert parse([], tmp_path / "default.yaml").train.steps == 7
    assert parse(["--config", str(tmp_path / "mine.yaml")], tmp_path / "default.yaml") == Config(seed=3)


def test_settings_come_back_as_they_were_saved(tmp_path: Path) -> None:
    """save_config, load_config: equal, also with nulls and tuples of numbers."""
    flags = ["--loss.stage_weights", "[1,0.5,0]", "--optim.betas", "[0.5,0.99]"]
    flags += ["--schedule.name", "multistep", "--schedule.milestones", "[60,120]"]
    config = parse(["--loss.margin", "null", "--model.image_size", "[64,32]", "--train.precision", "no", *flags])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert config.model.image_size == (64, 32)
    assert (config.loss.stage_weights, config.optim.betas) == ((1.0, 0.5, 0.0), (0.5, 0.99))
    assert config.schedule.milestones == (60, 120)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_of_the_project_is_valid(path: Path) -> None:
    """A YAML in configs/ parses into settings."""
    assert isinstance(load_config(path), Config)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--optim.lrr", "3"], "unknown setting 'optim.lrr': did you mean 'optim.lr'"),
        (["--train.precision", "fp16"], "train.precision"),
        (["--optim.lr", "fast"], "optim.lr"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--train.step", "3"], "unknown setting 'train.step': did you mean 'train.steps'"),
        (["--schedule.step_epochs", "0"], "schedule.step_epochs is 0; it must be at least 1"),
        (["--clip.flip", "2"], "clip.flip is 2.0; it must be at least 0 and at most 1"),
        (["--clip.crop_padding", "112"], "clip.crop_padding is 112"),
        (["--eval.occlusion", "1.5"], "eval.occlusion is 1.5; it must be at least 0 and at most 1"),
        (["--eval.resolution", "0"], "eval.resolution is 0; it must be at least 1, or null"),
    ],
)
def test_bad_settings_are_one_line_and_exit_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr that names the key, exit status 2."""
    with pytest.raises(SystemExit) as exit_info:
        parse(argv)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("model: {widht: 64}", "model.widht", "model.width"),
        ("optm: {lr: 1.0}", "optm.lr", "optim.lr"),
        ("optm: 1", "optm", "optim"),
    ],
)
def test_an_unknown_key_in_a_file_is_refused(text: str, wrong: str, right: str, tmp_path: Path) -> None:
    """The nearest valid key is named, in a section or instead of one."""
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=f"bad.yaml: unknown setting {wrong!r}: did you mean {right!r}"):
        load_config(tmp_path / "bad.yaml")


def test_a_tilde_in_a_setting_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every setting that is a path, from a YAML, a flag or an experiment's row; not in a URL. The name of a YAML,
    too. config.yaml holds the whole path. A user that does not exist is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("run: ~/runs/x\nmodel: {init: ~/start.pth}\n")
    config = parse(["--config=~/mine.yaml", "--data.shards=~/data/x"])
    paths = (f"{tmp_path}/runs/x", f"{tmp_path}/data/x", f"{tmp_path}/start.pth")
    assert (config.run, config.data.shards, config.model.init) == paths
    save_config(config, tmp_path / "config.yaml")
    assert "~" not in (tmp_path / "config.yaml").read_text()
    changed = override(config, {"model.init": "~/other.pth", "data.shards": "s3://bucket/~/x"})
    assert (changed.model.init, changed.data.shards) == (f"{tmp_path}/other.pth", "s3://bucket/~/x")
    with pytest.raises(SystemExit):
        parse(["--run=~nobody-here/x"])
    assert "~nobody-here is no user's home folder" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["run", "data.shards", "model.init"])
def test_a_name_that_is_no_utf8_is_refused(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml could not hold it, and the run could not be opened again: refused before the run, not after it."""
    with pytest.raises(SystemExit):
        parse([f"--{key}", os.fsdecode(b"na\xefve/x")])
    assert r"'na\udcefve/x' is not valid UTF-8: rename the file, or give a link to it" in capsys.readouterr().err


MEANT = [
    ("train: {precision: no}", "train.precision", "no"),
    ("train: {precision: No}", "train.precision", None),  # refused: another word
    ("data: {split: 0}", "data.split", "0"),
    ("data: {split: 00}", "data.split", "00"),
    ("data: {split: 010}", "data.split", "010"),
    ("data: {protocol: 1}", "data.protocol", "1"),
    ("data: {protocol: on}", "data.protocol", "on"),
    ("data: {protocol: 1e3}", "data.protocol", "1e3"),
    ("data: {split: 1:30}", "data.split", "1:30"),
    ("data: {split: ~}", "data.split", ...),
    ("data: {split:}", "data.split", ...),
    ("run: 2024-01-01", "run", "2024-01-01"),
    ("run: 5", "run", "5"),
    ("model: {init: no}", "model.init", "no"),
    ("optim: {lr: 1e-3}", "optim.lr", 1e-3),
    ("optim: {lr: 2}", "optim.lr", 2.0),
    ("optim.lr: 3", "optim.lr", 3.0),
    ("train: {compile: on}", "train.compile", True),
    ("train: {compile: yes}", "train.compile", True),
    ("train: {compile: off}", "train.compile", False),
    ("model:\n  image_size:\n  - 64\n  - 32", "model.image_size", (64, 32)),
    ("model: {stages: [I, II]}", "model.stages", ("I", "II")),
    ("loss: {margin: null}", "loss.margin", ...),
    ("optim:\n  # lr: 3\n", "optim.lr", 1e-3),
    ("\ufeffseed: 4", "seed", 4),
    ("optim: &a {lr: 3}", "optim.lr", 3.0),
    ("<<: {seed: 3}\nrun: a", "seed", 3),
]


@pytest.mark.parametrize(("text", "key", "value"), MEANT, ids=[case[0] for case in MEANT])
def test_a_word_in_a_file_means_what_it_means_in_a_flag(text: str, key: str, value: object, tmp_path: Path) -> None:
    """YAML 1.1 has other ideas of `no`, `0`, dates and `1e-3`; `...` stands for null, None for a refusal that names the
    key."""
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    if value is None:
        with pytest.raises(UserError, match=key):
            load_config(tmp_path / "a.yaml")
        return
    assert attrgetter(key)(load_config(tmp_path / "a.yaml")) == (None if value is ... else value)


def test_a_file_may_be_utf_16(tmp_path: Path) -> None:
    """As Windows' editors write it."""
    (tmp_path / "a.yaml").write_text("run: Läufe/é", encoding="utf-16")
    assert load_config(tmp_path / "a.yaml").run == "Läufe/é"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nrun: a\nseed: 2", "line 3: seed is already in the file, in line 1"),
        ("optim: {lr: 1}\nseed: 1\noptim: {momentum: 0}", "line 3: optim is already in the file, in line 1"),
        ("optim:\n  lr: 1\n  name: sgd\n  lr: 2", "line 4: lr is already in optim, in line 2"),
        ("optim: {lr: 1}\noptim.lr: 2", "line 2: optim.lr is already set in line 1"),
        ("", ": empty"),
        ("# all of it\n", ": empty"),
        ("- seed: 1", "line 1: the file must be a mapping"),
        ("seed", "line 1: the file must be a mapping"),
        ("optim: sgd", "line 1: optim must be a mapping"),
        ("optim: [1]", "line 1: optim must be a mapping"),
        ("seed: {a: 1}", "unknown setting 'seed.a'"),
        ("optim: {lr: {a: 1}}", "optim.lr must be a value"),
        ("optim:\n\tlr: 1", "not valid YAML: .* line 2"),
        ("seed: 1\n---\nseed: 2", "not valid YAML: .*another document"),
        ("seed: 1: 2", "not valid YAML"),
        ("? [a]\n: 1", "a key must be a plain name"),
        ("run: null", "run is null: give a value"),
        ("run:", "run is null: give a value"),
        ("run: ''", "run is '' in quotes"),
        ("run: 'null'", "'null' in quotes"),
        ("loss: {metric: ~}", "loss.metric"),
        ("seed: 010", "seed is 010"),
        ("seed: 1:30", "seed is 1:30"),
        ("model: {image_size: [064, 32]}", "model.image_size is 064"),
        ("seed: 1.5", "seed"),
        ("seed: true", "seed"),
        ("optim: {lr: nan}", "optim.lr"),
        ("config: other.yaml", "unknown setting 'config'"),
        ("help: 1", "unknown setting 'help'"),
        ("run: !!python/name:os.system ''", "run has the tag"),
    ],
)
def test_what_a_file_cannot_mean_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """By file and key or line."""
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as refusal:
        load_config(tmp_path / "bad.yaml")
    assert "bad.yaml" in str(refusal.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Latin-1, and a folder."""
    (tmp_path / "bad.yaml").write_bytes("run: Läufe".encode("latin-1"))
    with pytest.raises(UserError, match=r"bad\.yaml: not valid YAML"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("data.split", "0", "0"),
        ("data.split", "null", None),
        ("data.split", "1:30", "1:30"),
        ("train.precision", "no", "no"),
        ("train.steps", "null", None),
        ("train.steps", "40", 40),
        ("optim.clip_grad_norm", "0.5", 0.5),
        ("model.stages", "[I]", ("I",)),
    ],
)
def test_override_takes_a_word_for_a_word(key: str, text: str, value: object) -> None:
    """As the command line does: a split may be named 0, and a precision no."""
    section, _, name = key.partition(".")
    assert getattr(getattr(override(Config(), {key: text}), section), name) == value
