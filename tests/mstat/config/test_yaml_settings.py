"""A YAML of settings as the words of a command line: a value means the same in both places."""

from __future__ import annotations

from pathlib import Path

import pytest

from mstat.config.yaml_settings import flags_of
from mstat.errors import UserError

SECTIONS = ("data", "train")


def flags(text: str, tmp_path: Path) -> list[str]:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return flags_of(path, SECTIONS)


def test_values_are_the_words_of_the_file(tmp_path: Path) -> None:
    """YAML 1.1 would make false, 8, 90 and a date of these; only null and lists are the structure's."""
    text = (
        "seed: 010\ndata: {split: no, shards: 1:30, protocol: 2026-01-02, num_workers: ~}\ntrain: {steps: [1, '2', a]}"
    )
    assert flags(text, tmp_path) == [
        "--seed=010",
        "--data.split=no",
        "--data.shards=1:30",
        "--data.protocol=2026-01-02",
        "--data.num_workers=null",
        "--train.steps=[1, 2, a]",
    ]


def test_a_section_of_comments_sets_nothing(tmp_path: Path) -> None:
    assert flags("data:\n  # shards: a\nseed: 1\n", tmp_path) == ["--seed=1"]


def test_own_keys_replace_merged_ones(tmp_path: Path) -> None:
    text = "data: &base {shards: a, split: b}\ntrain: {<<: *base, split: c}\n"
    assert flags(text, tmp_path) == [
        "--data.shards=a", "--data.split=b", "--train.shards=a", "--train.split=c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; it must hold settings"),
        ("- a", "line 1: the file must be a mapping of settings"),
        ("data: 7", "line 1: data must be a mapping of settings"),
        ("seed: 1\nseed: 2", "line 2: seed is already in the file, in line 1: merge the two"),
        ("data.split: a\ndata: {split: b}", "line 2: data.split is already set in line 1: keep one of them"),
        ("data: {a: {b: 1}}", "line 1: data.a must be a value, not a mapping"),
        ("data:\n  a: [[1]]", "line 2: data.a must be a list of at most 100 plain values"),
        ("seed: !!python/name:os.system ''", "line 1: seed has the tag .*: write a plain value"),
        ("data: {split: ''}", "line 1: data.split is '' in quotes: write null without quotes for no value"),
        ("? [1]\n: 2", "line 1: a key must be a plain name"),
        ("seed: [", "not valid YAML: "),
        ("a: &a [1]\n" + "".join(f"k{number}: *a\n" for number in range(21)), "more than 20 aliases"),
        ("seed: " + "9" * 5000, "line 1: seed has 5,000 characters; at most 4,096 are allowed"),
        ("#" * (1 << 15) + "\nseed: 1", "has more than 32 KiB"),
        ("[" * 5000, "nested too deeply|not valid YAML"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_file_of_settings_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """By file and line, with the way out."""
    with pytest.raises(UserError, match=rf"a\.yaml(, |: ).*({message})|a\.yaml.*{message}"):
        flags(text, tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read: No such file"):
        flags_of(tmp_path / "none.yaml", SECTIONS)
