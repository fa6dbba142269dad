"""The shell of an HTML report: its document, its sections and the few elements that these are made of.

No JavaScript and nothing from the network: the page opens from disk, on a phone, on paper, in light and dark. Whatever
comes from a file goes through `escape`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape as escape_text
from importlib.resources import files
from typing import Any, Generic, TypeVar

from shards.text import printable

MOST_CHARACTERS = 300  # of an error that a note quotes
SVG, JPEG = "image/svg+xml", "image/jpeg"
Subject = TypeVar("Subject")
# Nothing is loaded from anywhere, nothing runs, and forms and <base> have no effect.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def escape(value: object) -> str:
    """Text as HTML; control and bidirectional characters are shown as escapes."""
    return escape_text(printable(value, keep="\n\t"), quote=True)


def document(title: str, header: str, sections: Iterable[str]) -> str:
    """A whole page, styled by style.css. `title` is text; `header` and `sections` are HTML, empty ones left out."""
    style = (files("mstat.report") / "style.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header>\n{header}\n</header>\n<main>\n" + "\n".join(filter(None, sections)) + "\n</main>\n</body>\n</html>\n"
    )


@dataclass(frozen=True)
class Section(Generic[Subject]):
    """A section of a page, which can be linked to as #name.

    Attributes:
        heading: Text.
        make: Gives the HTML of what the page is about; empty: there is no such section.
        file: Of the run folder, which is blamed if it does not hold what `make` reads.
        half: Two halves stand side by side where there is room.
    """

    name: str
    heading: str
    make: Callable[[Subject], str]
    file: str = "evaluation.json"
    half: bool = False

    def html(self, subject: Subject) -> str:
        body = shown(self.file, self.make, subject)
        kind = ' class="half"' if self.half else ""
        return body and (
            f'<section id="{self.name}"{kind} aria-labelledby="{self.name}-heading">\n'
            f'<h2 id="{self.name}-heading">{escape(self.heading)}</h2>\n{body}\n</section>'
        )


def note(text: str) -> str:
    """A remark of the report about itself: what is missing and why."""
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """A remark on what speaks against the scores, in a colour that is seen."""
    return f'<p class="note warning">{escape(text)}</p>'


def shown(file: str, make: Callable[..., str], *contents: Any) -> str:
    """The HTML that `make` gives, or a note that the file does not hold what it should."""
    try:
        return make(*contents)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, OSError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        return note(f"{file} cannot be shown: {what[:MOST_CHARACTERS]}.")


def picture(data: bytes, kind: str, alt: str, size: tuple[int, int] | None = None) -> str:
    """An image inlined as a data URI. `kind` is a MIME type, `size` the (width, height) at which it is shown."""
    shown = f' width="{size[0]}" height="{size[1]}"' if size else ""
    return f'<img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(alt)}"{shown}>'


def figure(svg: bytes, alt: str, caption: str) -> str:
    """An SVG with a caption, which is text."""
    return f"<figure>{picture(svg, SVG, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n' for name, value in rows)
    return f'<table class="facts">\n{body}</table>'


def details(summary: str, body: str) -> str:
    """A part that starts folded. `summary` is text, `body` HTML."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{body}\n</details>"
