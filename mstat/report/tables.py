"""A table as a value: made once, then shown on a terminal, in Markdown or on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import rich.table
from rich import box

from mstat.report.page import escape, warning
from shards.text import markup, printable

Emphasis = Literal["", "strong", "faint", "warning"]  # also classes of style.css
TERMINAL_STYLES: dict[Emphasis, str | None] = {"": None, "strong": "bold", "faint": "dim", "warning": "yellow"}
NO_BREAK = "\N{NON-BREAKING HYPHEN}"


class Cell(NamedTuple):
    """A text, a remark behind it, which a page shows small, and an address, to which the text leads on a page."""

    text: str
    remark: str = ""
    link: str = ""

    def plain(self) -> str:
        return " ".join(filter(None, (self.text, self.remark)))

    def html(self) -> str:
        text = f'<a href="{escape(self.link)}">{escape(self.text)}</a>' if self.link else escape(self.text)
        return f"{text} <small>{escape(self.remark)}</small>" if self.remark else text


class Row(NamedTuple):
    """A row: its name, which is the cell of the first column, and its other cells."""

    name: str | Cell
    others: Sequence[str | Cell] = ()
    emphasis: Emphasis = ""

    def cells(self) -> list[Cell]:
        return [cell if isinstance(cell, Cell) else Cell(cell) for cell in (self.name, *self.others)]


class Part(NamedTuple):
    """The beginning of a part, which a line or a title parts from the rows before."""

    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text, which each form escapes.

    Attributes:
        headings: Of the columns, that of the names first.
        rows: Rows, and beginnings of parts between them.
        title: Not shown on a page, where the section has a heading.
        caption: Sentences beneath the table.
        warnings: Sentences that catch the eye.
        align: "l" or "r" for each column; empty: names stand left and all others, which are numbers, right.
        framed: Whether a terminal draws lines around the cells.
    """

    headings: Sequence[str]
    rows: Sequence[Row | Part]
    title: str = ""
    caption: str = ""
    warnings: Sequence[str] = ()
    align: str = ""
    framed: bool = True

    @property
    def sides(self) -> str:
        """Return "l" or "r" for each column."""
        return self.align or "l" + "r" * (len(self.headings) - 1)

    def __rich__(self) -> rich.table.Table:
        """Return the table for a terminal: where that is narrow, columns of words are folded and numbers stay whole."""
        warnings = [f"[not dim bold yellow]{markup(text)}[/]" for text in self.warnings]
        result = rich.table.Table(
            title=markup(self.title),
            caption=" ".join([markup(self.caption), *warnings]),
            box=box.HEAVY_HEAD if self.framed else box.SIMPLE_HEAD,
        )
        for heading, side in zip(self.headings, self.sides, strict=True):
            if side == "l":
                result.add_column(markup(heading), overflow="fold")
            else:
                result.add_column(markup(heading), justify="right", no_wrap=True)
        for row in self.rows:
            if isinstance(row, Row):
                texts = [markup(cell.plain()) for cell in row.cells()]
                result.add_row(*texts, style=TERMINAL_STYLES[row.emphasis])
            else:
                result.add_section()
                if row.title:
                    result.add_row(markup(row.title), style="bold")
        return result

    def markdown(self) -> str:
        """Return the title as a heading, the caption, and the rows; each part with a title is a table of its own."""
        rule = "|" + "".join("---|" if side == "l" else "---:|" for side in self.sides)
        lines = [f"# {printable(self.title)}", "", printable(" ".join([self.caption, *self.warnings]))]
        first, begins = self.headings[0], True
        for row in self.rows:
            if isinstance(row, Part):
                if row.title:
                    first, begins = row.title, True
                continue
            if begins:
                lines += ["", _markdown_row([first, *self.headings[1:]]), rule]
                begins = False
            lines.append(_markdown_row([cell.plain() for cell in row.cells()], row.emphasis))
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Return the warnings and the table, which scrolls in itself where it is wider than the page."""
        sides = [' class="left"' if side == "l" else "" for side in self.sides]
        head = "".join(
            # A column of numbers is narrow: its heading has no hyphen at which it could break.
            f'<th scope="col"{side}>{escape(heading) if side else escape(heading).replace("-", NO_BREAK)}</th>'
            for heading, side in zip(self.headings, sides, strict=True)
        )
        table = (
            '<div class="scroll" tabindex="0"><table class="scores">\n'
            f"<caption><span>{escape(self.caption)}</span></caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n"
            + "".join(_html_row(row, sides) for row in self.rows)
            + "</tbody>\n</table></div>"
        )
        return "\n".join([*map(warning, self.warnings), table])


def _markdown_row(texts: Sequence[str], emphasis: Emphasis = "") -> str:
    """A line of a Markdown table: the figures of a strong row are bold, and the name of a faint one is in italics."""
    name, *others = (printable(text).strip().replace("|", r"\|") for text in texts)
    if emphasis == "strong":
        others = [f"**{text}**" if text else "" for text in others]
    return f"| {' | '.join([f'*{name}*' if emphasis == 'faint' else name, *others])} |"


def _html_row(row: Row | Part, sides: Sequence[str]) -> str:
    if isinstance(row, Part):
        if not row.title:
            return ""
        row = Row(row.title, emphasis="strong")
    emphasis = f' class="{row.emphasis}"' if row.emphasis else ""
    name, *others = (cell.html() for cell in row.cells())
    cells = "".join(f"<td{side}>{text}</td>" for text, side in zip(others, sides[1:], strict=bool(others)))
    return f'<tr{emphasis}><th scope="row"{sides[0]}>{name}</th>{cells}</tr>\n'
