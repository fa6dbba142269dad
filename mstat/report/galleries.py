"""Ranked galleries of the HTML report: a query as a strip of frames, beneath it what the model took for nearest.

Shapes: T frames, H height, W width, C colours (RGB).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mstat.report import page
from mstat.report.scores import percent
from shards.records import DISTRACTOR_PID, DataError

if TYPE_CHECKING:
    from shards.read import Reader

NUM_QUERIES = 24  # a page that a mail still carries: about 5 MB
QUERY_FRAMES, GALLERY_FRAMES = 8, 4
SHOWN_HEIGHT = 96  # CSS pixels; stored at up to twice that for sharp screens
GAP = 2  # grey pixels between two frames of a strip
JPEG_QUALITY = 82


def galleries(rankings: Mapping[str, Any], reader: Reader | None) -> str:
    """HTML of the first NUM_QUERIES queries of rankings.json, in its order; without pictures where reader is None."""
    queries = rankings["queries"]
    if not queries:
        return page.note("rankings.json lists no query.")
    shown = queries[:NUM_QUERIES]
    intro = (
        f"The {len(shown)} hardest of {len(queries)} listed queries, worst average precision first. "
        "✓ and a solid line: the same person; ✗ and a dashed line: somebody else."
    )
    return f'<p class="soft">{page.escape(intro)}</p>\n' + "\n".join(_query(query, reader) for query in shown)


def _query(query: Mapping[str, Any], reader: Reader | None) -> str:
    ranked = query["gallery"]
    hit = f"first right match at rank {query['first_hit']:,}"
    if query["first_hit"] > len(ranked):
        hit += " (not shown)"
    facts = (
        f"{_person(query['pid'])}, camera {query['camid']} · average precision {percent(query['ap'])} % · {hit} · "
        f"{query['num_positives']} right in the gallery"
    )
    alt = f"Query {query['key']}: {_person(query['pid'])}, camera {query['camid']}"
    return (
        f'<article class="query">\n<h3>Query {page.escape(query["key"])}</h3>\n'
        f'<p class="soft">{page.escape(facts)}</p>\n'
        f"{_strip(reader, query, QUERY_FRAMES, alt)}\n"
        f'<ol class="ranks">\n' + "\n".join(_ranked(item, reader) for item in ranked) + "\n</ol>\n</article>"
    )


def _ranked(item: Mapping[str, Any], reader: Reader | None) -> str:
    verdict = "right" if item["correct"] else "wrong"
    mark = "✓" if item["correct"] else "✗"
    alt = f"Rank {item['rank']}, {verdict}: {item['key']}, {_person(item['pid'])}, camera {item['camid']}"
    caption = f"{_person(item['pid'])}, camera {item['camid']}"
    return (
        f'<li class="{verdict}">{_strip(reader, item, GALLERY_FRAMES, alt)}\n'
        f"<b>{mark} {item['rank']:d} {verdict}</b> · {item['similarity']:.3f}<br>{page.escape(caption)}<br>"
        f'<span class="soft">{page.escape(item["key"])}</span></li>'
    )


def _person(pid: int) -> str:
    return "distractor" if pid == DISTRACTOR_PID else f"person {pid}"


def _strip(reader: Reader | None, item: Mapping[str, Any], num_frames: int, alt: str) -> str:
    """The tracklet of a query or gallery entry as one picture, or the reason why there is none."""
    if reader is None:
        return ""
    try:
        index = item["index"]
        tracklet = reader[index]
        if tracklet.key != item["key"]:
            raise DataError(f"the shards hold {tracklet.key} at its place {index}")
        jpeg, size = encode_strip(reader.frames(index, even_numbers(tracklet.num_frames, num_frames)))
    except (DataError, IndexError, OSError) as error:
        return page.note(f"No frames of {item['key']}: {error}")
    return page.picture(jpeg, "image/jpeg", alt, size)


def even_numbers(total: int, wanted: int) -> list[int]:
    """Numbers of at most `wanted` frames, spread evenly over a tracklet of `total` from its first to its last."""
    return [int(number) for number in np.unique(np.linspace(0, total - 1, min(wanted, total)).round())]


def encode_strip(frames_THWC: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """Frames side by side as one JPEG, and the (width, height) in CSS pixels at which it keeps its proportions."""
    import simplejpeg
    from PIL import Image

    num_frames, height, width, _ = frames_THWC.shape
    scale = min(1.0, 2 * SHOWN_HEIGHT / height)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    strip = np.full((tall, num_frames * (wide + GAP) - GAP, 3), 128, dtype=np.uint8)
    for number, frame in enumerate(frames_THWC):
        left = number * (wide + GAP)
        strip[:, left : left + wide] = Image.fromarray(frame).resize((wide, tall), Image.Resampling.BILINEAR)
    jpeg = simplejpeg.encode_jpeg(strip, quality=JPEG_QUALITY, colorspace="RGB")
    return jpeg, (round(strip.shape[1] * SHOWN_HEIGHT / tall), SHOWN_HEIGHT)
