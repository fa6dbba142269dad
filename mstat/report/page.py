"""The shell of an HTML report: its one style sheet and the few elements that every section is made of.

No JavaScript and nothing from the network: the page opens from disk, on a phone, on paper, in light and dark. Whatever
comes from a file goes through `escape`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from html import escape as escape_text
from typing import Any

from shards.text import printable

MOST_CHARACTERS = 300  # of an error that a note quotes
SVG, JPEG = "image/svg+xml", "image/jpeg"
STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f5f6f8; --text: #1c2027; --soft: #5b6370;
  --line: #d9dde3; --right: #0f7a3d; --wrong: #c2261c; --accent: #1f66c0; }
@media (prefers-color-scheme: dark) { :root { --back: #14171c; --card: #1d2128; --text: #e7eaef; --soft: #a1a9b6;
  --line: #363c47; --right: #4cc983; --wrong: #ff7b70; --accent: #7fb2f5; } }
@media print { :root { color-scheme: light; --back: #ffffff; --card: #ffffff; --text: #000000; --soft: #444444;
  --line: #bbbbbb; --right: #0f7a3d; --wrong: #c2261c; --accent: #1f66c0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 3rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; }
p { margin: .25rem 0; }
img { display: block; max-width: 100%; height: auto; }
.soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.note { background: var(--card); border-left: 4px solid var(--line); padding: .5rem .75rem; }
.warning { border-color: var(--wrong); color: var(--wrong); font-weight: 600; }
.state { display: inline-block; padding: 0 .6rem; border: 1.5px solid currentColor; border-radius: 1rem;
  font-size: .875rem; font-weight: 600; color: var(--accent); }
.state.done { color: var(--right); }
.state.failed { color: var(--wrong); }
.headline { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1rem 0 0; }
.headline div { display: flex; flex-direction: column-reverse; }
.headline dt { color: var(--soft); font-size: .875rem; }
.headline dd { margin: 0; font-size: 2.75rem; font-weight: 650; line-height: 1.1; font-variant-numeric: tabular-nums; }
.headline small { font-size: 1.25rem; font-weight: 400; color: var(--soft); }
.scroll { overflow-x: auto; container-type: inline-size; }
caption span { display: block; position: sticky; left: 0; max-width: min(100cqw, 44rem); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .5rem; }
th, td { padding: .3rem clamp(.3rem, 1.5vw, .7rem); text-align: right; border-bottom: 1px solid var(--line); }
.scores { min-width: min(100%, 22rem); }
.scores th:first-child { min-width: 5.5rem; }
.scores th, .scores td { overflow-wrap: normal; }
.scores td { white-space: nowrap; }
.words td, .words th { text-align: left; }
.scroll + .scroll { margin-top: 1.5rem; }
@media (max-width: 30rem) { .scores { font-size: .8125rem; } }
th:first-child { text-align: left; padding-left: 0; }
th, .baseline { color: var(--soft); font-weight: 500; }
tr.whole > * { color: var(--text); font-weight: 700; }
.facts th { vertical-align: top; white-space: nowrap; }
.facts td { text-align: left; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1.5rem;
  margin-top: 1rem; }
.three { grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); align-items: start; }
@media (min-width: 62rem) { main { display: grid; grid-template-columns: 1fr 1fr; column-gap: 3rem; }
  section { grid-column: span 2; min-width: 0; } section.half { grid-column: span 1; } }
figure { margin: 0; max-width: 34rem; break-inside: avoid; }
figure img { width: 100%; }
.wide figure { max-width: none; }
.wide img { min-width: 44rem; }
@media print { .wide img { min-width: 0; } }
.swatch { width: .8em; height: .8em; vertical-align: -.05em; border: 1px solid var(--line); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem;
  margin: 1rem 0; }
article > img, article > .note { margin: .5rem 0 .75rem; }
.ranks { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(9.25rem, 1fr)); }
@media (min-width: 48rem) { .ranks { grid-template-columns: repeat(auto-fill, minmax(12.5rem, 1fr)); } }
.ranks li { border-top: 4px dashed var(--wrong); padding-top: .3rem; font-size: .8125rem; line-height: 1.35;
  break-inside: avoid; }
.ranks li.right { border-top-style: solid; border-top-color: var(--right); }
.ranks img { margin-bottom: .25rem; }
.ranks .soft { font-size: inherit; }
.ranks b { color: var(--wrong); }
.ranks .right b { color: var(--right); }
.query { break-inside: avoid; }
details { margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .25rem 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem; margin: .5rem 0;
  overflow-x: auto; font-size: .8125rem; white-space: pre-wrap; }
@media print { :root { font-size: 12px; } * { print-color-adjust: exact; } body { padding: 0; }
  h2 { margin-top: 1.5rem; } h2, h2 + .soft { break-after: avoid; } .soft { break-inside: avoid; }
  .figures { grid-template-columns: 1fr 1fr; } .ranks { grid-template-columns: repeat(5, 1fr); }
  details::details-content { content-visibility: visible; height: auto; } }
"""


# Nothing is loaded from anywhere, nothing runs, and forms and <base> have no effect.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def escape(value: object) -> str:
    """Text as HTML; control and bidirectional characters are shown as escapes."""
    return escape_text(printable(value, keep="\n\t"), quote=True)


def document(title: str, header: str, sections: Iterable[str]) -> str:
    """A whole page. `title` is text; `header` and `sections` are HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header>\n{header}\n</header>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def section(name: str, heading: str, body: str, half: bool = False) -> str:
    """Return a section that can be linked to as #name.

    `heading` is text, `body` HTML. Where there is room, two halves stand side by side.
    """
    kind = ' class="half"' if half else ""
    return (
        f'<section id="{name}"{kind} aria-labelledby="{name}-heading">\n'
        f'<h2 id="{name}-heading">{escape(heading)}</h2>\n{body}\n</section>'
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


def figure(data: bytes, kind: str, alt: str, caption: str, size: tuple[int, int] | None = None) -> str:
    """A picture with a caption, which is text."""
    return f"<figure>{picture(data, kind, alt, size)}<figcaption>{escape(caption)}</figcaption></figure>"


def table(
    headings: Sequence[str], rows: Iterable[tuple[str, str, Sequence[str]]], caption: str, words: bool = False
) -> str:
    """A table of figures, or of words, which scrolls in itself where it is wider than the page.

    Args:
        headings: Text of the columns, that of the names first.
        rows: (class, HTML of the name, HTML of the other cells).
        caption: Text.
    """
    heading = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings)
    body = "\n".join(
        f'<tr class="{kind}"><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for kind, name, cells in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="scores{" words" * words}">\n'
        f"<caption><span>{escape(caption)}</span></caption>\n"
        f"<thead><tr>{heading}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n' for name, value in rows)
    return f'<table class="facts">\n{body}</table>'


def details(summary: str, body: str) -> str:
    """A part that starts folded. `summary` is text, `body` HTML."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{body}\n</details>"
