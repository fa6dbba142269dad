"""HTML of a report: the document, its sections and their elements.

A page has no JavaScript and loads nothing from the network, so it opens from disk, on a phone and on paper. All text
from files goes through `escape`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape as escape_text
from importlib.resources import files
from typing import Any, Generic, TypeVar

from shards.text import printable

MOST_CHARACTERS = 300  # most characters of an error in a note
# Errors that the content of an untrusted file may cause.
UNEXPECTED = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError, OSError)
SVG, JPEG = "image/svg+xml", "image/jpeg"
Subject = TypeVar("Subject")
# Forbids scripts, forms, <base> and everything from the network.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def escape(value: object) -> str:
    """Escape text for HTML; control and bidirectional characters become visible escapes."""
    return escape_text(printable(value, keep="\n\t"), quote=True)


def document(title: str, header: str, sections: Iterable[str]) -> str:
    """Return a whole page with style.css.

    Args:
        title: Text.
        header: HTML.
        sections: HTML; empty ones are left out.
    """
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
    """Section of a page, with the anchor #name.

    Attributes:
        heading: Text.
        make: Returns the HTML for the page's subject; the section is left out if it is empty.
        file: File of the run folder that errors of `make` are attributed to.
        half: Whether the section may share a row with another half.
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
    """Return a note about the report itself, such as a missing file."""
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """Return a highlighted warning about the scores."""
    return f'<p class="note warning">{escape(text)}</p>'


def shown(file: str, make: Callable[..., str], *contents: Any) -> str:
    """Return the HTML that `make` returns, or a note that the file has unexpected content."""
    try:
        return make(*contents)
    except UNEXPECTED as error:
        return note(f"{file} cannot be shown: {reason(error)}.")


def reason(error: Exception) -> str:
    """Return why the content of a file cannot be used, without a full stop."""
    text = f"it lacks {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return text[:MOST_CHARACTERS]


def picture(data: bytes, kind: str, alt: str, size: tuple[int, int] | None = None) -> str:
    """Return an image as a data URI. `kind` is a MIME type, `size` the displayed (width, height)."""
    shown = f' width="{size[0]}" height="{size[1]}"' if size else ""
    return f'<img src="data:{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(alt)}"{shown}>'


def figure(svg: bytes, alt: str, caption: str) -> str:
    """Return an SVG with a caption, which is text."""
    return f"<figure>{picture(svg, SVG, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Return a table of names and values."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n' for name, value in rows)
    return f'<table class="facts">\n{body}</table>'


def details(summary: str, body: str) -> str:
    """Return a collapsed part. `summary` is text, `body` is HTML."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{body}\n</details>"
