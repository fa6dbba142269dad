"""YAML that somebody else may have written: plain values within bounds, or one line."""

from __future__ import annotations

import pytest

from mstat.config.plain_yaml import parse_plain_yaml
from mstat.errors import UserError


def test_plain_values_are_read() -> None:
    """Numbers, words, lists and mappings; an empty text is None."""
    text = "a: {b: [1, 2.5, x, null, true]}\n'c': ! d\n"
    assert parse_plain_yaml(text, "x.yaml") == {"a": {"b": [1, 2.5, "x", None, True]}, "c": "d"}
    assert parse_plain_yaml("# nothing\n", "x.yaml") is None


@pytest.mark.parametrize(
    "text",
    ["a: &b [1]\nc: *b", "!!python/name:os.system ''", "!!binary AAAA", "[" * 50_000, "a: 2001-99-99", '{"a\\e": ['],
    ids=["alias", "object", "binary", "deep", "date", "cut"],
)
def test_what_could_grow_or_run_is_refused(text: str) -> None:
    """By the name of the file, in a line that a terminal may print."""
    with pytest.raises(UserError, match=r"^x\.yaml: ") as caught:
        parse_plain_yaml(text, "x.yaml")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("digits", ["9" * 5000, "0x" + "f" * 5000, "1" + ":59" * 3000], ids=["plain", "hex", "sixties"])
def test_an_endless_number_stays_a_word(digits: str) -> None:
    """Python would refuse to print the number, and takes long to make it."""
    assert parse_plain_yaml(f"a: {digits}", "x.yaml") == {"a": digits}
