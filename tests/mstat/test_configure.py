"""Settings: a YAML changed by flags; what does not exist is refused with what does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstat.config import Config
from mstat.configure import load_config, override, parse, save_config

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
    """save_config, load_config: equal, also with nulls and pairs of numbers."""
    config = parse(["--loss.margin", "null", "--model.image_size", "[64,32]", "--train.precision", "no"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert config.model.image_size == (64, 32)


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
        (["--schedule.step_epochs", "0"], "schedule.step_epochs is 0, it must be at least 1"),
        (["--clip.flip", "2"], "clip.flip is 2.0, it must be at least 0 and at most 1"),
        (["--clip.crop_padding", "112"], "clip.crop_padding is 112"),
        (["--eval.occlusion", "1.5"], "eval.occlusion is 1.5, it must be at least 0 and at most 1"),
        (["--eval.resolution", "0"], "eval.resolution is 0, it must be at least 1, or null"),
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
def test_an_unknown_key_in_a_file_is_refused(
    text: str, wrong: str, right: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nearest valid key is named, in a section or instead of one."""
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(SystemExit):
        load_config(tmp_path / "bad.yaml")
    assert f"unknown setting {wrong!r}: did you mean {right!r}" in capsys.readouterr().err


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
