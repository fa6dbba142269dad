"""A table value with three forms: terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import rich.table
from rich import box

from mstat.report.page import escape, warning
from shards.text import markup, printable

Emphasis = Literal["", "strong", "faint", "warning"]  # the names are classes in style.css, too
STYLES: dict[Emphasis, str | None] = {"": None, "strong": "bold", "faint": "dim", "warning": "yellow"}
# Of rich columns, by alignment: on a narrow terminal, words wrap before numbers do.
COLUMN_OPTIONS: dict[str, dict[str, Any]] = {"l": {"overflow": "fold"}, "r": {"justify": "right", "no_wrap": True}}
NO_BREAK = "\N{NON-BREAKING HYPHEN}"


class Row(NamedTuple):
    """Row: the first cell, which names it, and the others; trailing cells may be missing."""

    name: str
    cells: Sequence[str] = ()
    emphasis: Emphasis = ""
    link: str = ""  # target of the name on a page


class Part(NamedTuple):
    """Start of a part of the rows: a line, and a title if it is not empty."""

    title: str = ""

    def row(self) -> Row:
        return Row(self.title, emphasis="strong")


@dataclass(frozen=True)
class Table:
    """Table of text, which each form escapes.

    Attributes:
        headings: Heading of each column, starting with the column of names.
        rows: Rows and starts of parts.
        title: Title; pages omit it, because the section has a heading.
        caption: Sentences below the table.
        warnings: Sentences to highlight.
        align: "l" or "r" for each column; by default, names are left-aligned and all others (numbers) right-aligned.
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
        """Return the table for a terminal."""
        caption = [markup(self.caption), *(f"[not dim bold yellow]{markup(text)}[/]" for text in self.warnings)]
        lines = box.HEAVY_HEAD if self.framed else box.SIMPLE_HEAD
        table = rich.table.Table(title=markup(self.title), caption=" ".join(caption), box=lines)
        for heading, side in zip(self.headings, self.sides, strict=True):
            table.add_column(markup(heading), **COLUMN_OPTIONS[side])
        for row in self.rows:
            if isinstance(row, Part):
                table.add_section()
                if not row.title:
                    continue
                row = row.row()
            table.add_row(*map(markup, (row.name, *row.cells)), style=STYLES[row.emphasis])
        return table

    def markdown(self) -> str:
        """Return the title, if any, as a heading, the caption, and the rows; a titled part is a table of its own."""
        rule = "|" + "".join("---|" if side == "l" else "---:|" for side in self.sides)
        lines = [f"# {printable(self.title)}", ""] if self.title else []
        lines.append(printable(" ".join([self.caption, *self.warnings])))
        head: str | None = self.headings[0]  # of a table that has no rows yet
        for row in self.rows:
            if isinstance(row, Part):
                head = row.title or head
                continue
            if head is not None:
                lines += ["", _markdown_row([head, *self.headings[1:]]), rule]
                head = None
            lines.append(_markdown_row([row.name, *row.cells], row.emphasis))
        return "\n".join(lines).lstrip("\n") + "\n"

    def html(self) -> str:
        """Return the warnings and the table, which scrolls if it is wider than the page."""
        sides = [' class="left"' if side == "l" else "" for side in self.sides]
        head = "".join(
            # Columns of numbers are narrow, so hyphens in their headings must not break.
            f'<th scope="col"{side}>{escape(heading if side else heading.replace("-", NO_BREAK))}</th>'
            for heading, side in zip(self.headings, sides, strict=True)
        )
        rows = [row.row() if isinstance(row, Part) else row for row in self.rows if row != Part()]
        body = "".join(_html_row(row, sides) for row in rows)
        table = (
            '<div class="scroll" tabindex="0"><table class="scores">\n'
            f"<caption><span>{escape(self.caption)}</span></caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>"
        )
        return "\n".join([*map(warning, self.warnings), table])


def _markdown_row(texts: Sequence[str], emphasis: Emphasis = "") -> str:
    """Return a line of a Markdown table; strong rows have bold numbers, faint rows a name in italics."""
    name, *others = (printable(text).strip().replace("|", r"\|") for text in texts)
    if emphasis == "strong":
        others = [f"**{text}**" if text else "" for text in others]
    return f"| {' | '.join([f'*{name}*' if emphasis == 'faint' else name, *others])} |"


def _html_row(row: Row, sides: Sequence[str]) -> str:
    emphasis = f' class="{row.emphasis}"' if row.emphasis else ""
    name = f'<a href="{escape(row.link)}">{escape(row.name)}</a>' if row.link else escape(row.name)
    cells = "".join(f"<td{side}>{escape(cell)}</td>" for cell, side in zip(row.cells, sides[1:], strict=False))
    return f'<tr{emphasis}><th scope="row"{sides[0]}>{name}</th>{cells}</tr>\n'
