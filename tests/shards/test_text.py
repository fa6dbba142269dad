"""Text that comes from data never steers a terminal."""

from __future__ import annotations

import pytest

from shards.text import breaks_lines, markup, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0001C1T0001", "0001C1T0001"),
        ("Ünïcode 人物", "Ünïcode 人物"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\udcff", r"\udcff"),
        (7, "7"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_its_escape(text: object, shown: str) -> None:
    """Control, bidirectional and zero-width characters and surrogates; all else stays."""
    assert printable(text) == shown


def test_what_may_stay() -> None:
    """Text of several lines keeps them."""
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_markup() -> None:
    """Brackets are no markup of rich's."""
    from rich.text import Text

    assert Text.from_markup(markup("[red]x[/] \x1b")).plain == r"[red]x[/] \x1b"


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x00", "\x85", "\u2028", "\u2029", "\x7f", "\udc80"])
def test_what_breaks_a_line(text: str) -> None:
    """Every character at which some program ends a line, and those that no name should have."""
    assert breaks_lines(text)
    assert not breaks_lines('it\'s "quoted" $HOME %j 人')
