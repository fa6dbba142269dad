"""Pages of the search: the list of tracklets, the results of a query, uploads and pictures.

Each page is the answer to a GET with all choices in its address. An upload is embedded once; its feature and its strip
are then kept in memory under a random name, so that its threshold and cameras can be changed in the same way.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from flask import Response, abort, redirect, render_template, request
from markupsafe import Markup
from torch import Tensor
from werkzeug.datastructures import FileStorage
from werkzeug.wrappers import Response as AnyResponse

from mstat.errors import UserError
from mstat.report.galleries import person
from mstat.report.images import encode_strip, even_numbers
from mstat.search.gallery import Gallery, Hit
from mstat.search.queries import Queries
from mstat.search.roc import svg
from mstat.search.threshold import Measured, chosen
from mstat.search.uploads import MAX_BYTES, MAX_FRAMES, MAX_PICTURES, Sent, pictures_set, video_set
from shards.read import Reader
from shards.records import DataError
from shards.text import counted

ON_PAGE = 24  # tracklets
MOST_HITS = 100
N = TypeVar("N", int, float)
STRIPS = (4, 8)  # frames of the strip of a result, and of a query
KEPT = 16  # uploads


@dataclass(frozen=True)
class Upload:
    """An embedded upload: its feature (1, D), comparable with the gallery's, and its strip, a JPEG."""

    name: str
    num_frames: int
    feature_1D: Tensor
    strip: bytes


@dataclass
class Pages:
    """Content of the pages, and the uploads that they keep.

    Attributes:
        gallery: Features that are searched.
        reader: Their opened shards, or a sentence on why there are none.
        embed: Embeds a data set of one tracklet, or a sentence on why uploads cannot be embedded.
        thresholds: Measured thresholds, or a sentence on why there are none.
        top, threshold: Choices of a query that makes none.
    """

    gallery: Gallery
    reader: Reader | str
    embed: Callable[[Reader], Queries] | str
    thresholds: Measured | str
    top: int
    threshold: float | None
    uploads: OrderedDict[str, Upload] = field(default_factory=OrderedDict)
    reading: threading.Lock = field(default_factory=threading.Lock)
    computing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cameras(self) -> list[int]:
        """All cameras of the gallery."""
        cameras: list[int] = np.unique(self.gallery.camids_G).tolist()
        return cameras

    def tracklets(self) -> str:
        """Show the tracklets whose key contains `key`, of `camera`."""
        key, camera = request.args.get("key", ""), _number("camera", int, None)
        table = self.gallery.saved.table
        keep = pc.match_substring(table["key"], key)
        if camera is not None:
            keep = pc.and_(keep, pc.equal(table["camid"], pa.scalar(camera, pa.int64())))
        rows = np.flatnonzero(keep.to_numpy())
        pages = max(1, -(-len(rows) // ON_PAGE))
        page = _number("page", int, 1, 1, pages) or 1
        shown = rows[(page - 1) * ON_PAGE : page * ON_PAGE]
        listed = table.take(pa.array(shown)).select(["key", "pid", "camid", "num_frames"]).to_pylist()

        def other_page(number: int) -> str:
            return _address("/", key=key, camera="" if camera is None else camera, page=number)

        return render_template(
            "tracklets.html",
            dataset=self._dataset(),
            total=len(table),
            key=key,
            camera=camera,
            cameras=self.cameras,
            tracklets=[
                {**labels, "row": row, "person": person(labels["pid"])}
                for row, labels in zip(shown.tolist(), listed, strict=True)
            ],
            page=page,
            pages=pages,
            other_page=other_page,
            no_pictures=self._no_pictures(),
            no_upload=self.embed if isinstance(self.embed, str) else "",
            limits={"pictures": MAX_PICTURES, "frames": MAX_FRAMES, "megabytes": MAX_BYTES >> 20, "kept": KEPT},
        )

    def results(self) -> str:
        """Show the tracklets nearest to `key` or `upload`, of each `camera`."""
        query, feature_1D, itself = self._query()
        cameras = [_integer("camera", text) for text in request.args.getlist("camera")]
        top = _number("top", int, self.top, 1, MOST_HITS) or self.top
        threshold = self.threshold
        if "threshold" in request.args:  # empty: none
            threshold = _number("threshold", float, None, -1, 1)
        hide = request.args.get("hide") == "1"
        with self.computing:
            hits = self.gallery.search(feature_1D, top, cameras=cameras or None, itself=[itself])[0]
        passing = [hit for hit in hits if threshold is None or hit.similarity >= threshold]
        choices = {query["kind"]: query["value"], "camera": cameras, "top": top, "hide": "1" if hide else ""}

        def with_threshold(value: float | None) -> str:
            return _address("/search", **choices, threshold="" if value is None else value)

        def link(hit: Hit) -> str:
            kept = {**choices, query["kind"]: [], "key": hit.key}
            return _address("/search", **kept, threshold="" if threshold is None else threshold)

        if threshold is None:
            rates = self.thresholds if isinstance(self.thresholds, str) else "No threshold is chosen."
        else:
            rates = chosen(threshold, self.thresholds)[1]
        rates = f"{rates[:1].upper()}{rates[1:]}".rstrip(".") + "."
        return render_template(
            "results.html",
            query=query,
            cameras=self.cameras,
            chosen=cameras,
            top=top,
            most=MOST_HITS,
            threshold=threshold,
            least=min([hit.similarity for hit in hits] + [1.0 if threshold is None else threshold]),
            hide=hide,
            hits=[
                {**vars(hit), "person": person(hit.pid), "link": link(hit), "passes": hit in passing}
                for hit in (passing if hide else hits)
            ],
            verdict=verdict(len(passing), len(hits), threshold),
            rates=rates,
            curve=None
            if isinstance(self.thresholds, str)
            else Markup(svg(self.thresholds, threshold, with_threshold)),  # `svg` escapes its texts
            no_pictures=self._no_pictures(),
        )

    def pictures(self) -> AnyResponse:
        """Embed uploaded pictures, and lead to their results."""
        files = [sent for sent in request.files.getlist("pictures") if sent.filename]
        return self._uploaded(partial(pictures_set, [_sent(file) for file in files]), counted(len(files), "picture"))

    def video(self) -> AnyResponse:
        """Embed a person of an uploaded video, and lead to its results."""
        video, tracks = (_sent(request.files.get(name)) for name in ("video", "tracks"))
        text = request.form.get("id", "").strip()
        pid = _integer("id", text) if text else None
        name = video.name if pid is None else f"id {pid} of {video.name}"
        return self._uploaded(partial(video_set, video, tracks, pid), name)

    def strip(self, row: int, num_frames: int) -> Response:
        """Show frames of a tracklet as one JPEG."""
        if num_frames not in STRIPS or not 0 <= row < len(self.gallery.saved.table) or isinstance(self.reader, str):
            abort(404)
        labels = self.gallery.saved.table.slice(row, 1).select(["index", "key"]).to_pylist()[0]
        try:
            with self.reading:
                tracklet = self.reader[labels["index"]]
                if tracklet.key != labels["key"]:
                    abort(404)
                frames_THWC = self.reader.frames(labels["index"], even_numbers(tracklet.num_frames, num_frames))
        except (DataError, IndexError, OSError) as error:
            abort(404, str(error))
        return Response(encode_strip(frames_THWC)[0], mimetype="image/jpeg")

    def upload_strip(self, token: str) -> Response:
        """Show frames of an upload as one JPEG."""
        return Response(self._upload(token).strip, mimetype="image/jpeg")

    def _query(self) -> tuple[dict[str, Any], Tensor, int | None]:
        """Return what the page shows of the query, its feature (1, D), and its row in the gallery."""
        if token := request.args.get("upload"):
            upload = self._upload(token)
            query = {"kind": "upload", "value": token, "name": f"an upload: {upload.name}"}
            query |= {"label": counted(upload.num_frames, "frame"), "picture": f"/upload/{token}"}
            return query, upload.feature_1D, None
        if not (key := request.args.get("key")):
            abort(404, "no tracklet is chosen")
        try:
            row = self.gallery.rows_of([key])[0]
        except UserError as error:
            abort(404, str(error))
        labels = self.gallery.saved.table.slice(row, 1).select(["pid", "camid", "num_frames"]).to_pylist()[0]
        label = f"{person(labels['pid'])}, camera {labels['camid']}, {counted(labels['num_frames'], 'frame')}"
        picture = "" if isinstance(self.reader, str) else f"/strip/{row}/{STRIPS[1]}"
        query = {"kind": "key", "value": key, "name": key, "label": label, "picture": picture}
        return query, self.gallery.saved.features_ND[row : row + 1].float(), row

    def _upload(self, token: str) -> Upload:
        if (upload := self.uploads.get(token)) is None:
            abort(404, f"this upload is gone: the server keeps the last {KEPT}; upload the files again")
        return upload

    def _uploaded(self, build: Callable[[Path], Reader], name: str) -> AnyResponse:
        if isinstance(self.embed, str):
            raise UserError(self.embed)
        with TemporaryDirectory(prefix="mstat-upload-") as folder, self.computing:
            reader = build(Path(folder))
            queries = self.embed(reader)
            num_frames = reader[0].num_frames
            strip, _ = encode_strip(reader.frames(0, even_numbers(num_frames, STRIPS[1])))
            feature_1D = queries.features(slice(0, 1)).clone()
            token = secrets.token_urlsafe(12)
            self.uploads[token] = Upload(name, num_frames, feature_1D, strip)
            while len(self.uploads) > KEPT:
                self.uploads.popitem(last=False)
        return redirect(_address("/search", upload=token), 303)

    def _no_pictures(self) -> str:
        return self.reader if isinstance(self.reader, str) else ""

    def _dataset(self) -> str:
        named = self.gallery.saved.info.get("dataset")
        return str(named.get("name")) if isinstance(named, dict) else "features"


def verdict(num_passing: int, num_hits: int, threshold: float | None) -> str:
    """Return the result of a search in words."""
    if not num_hits:
        return "Nobody: no other tracklet is of these cameras."
    if threshold is None:
        return f"The nearest {counted(num_hits, 'tracklet')}; no threshold is chosen."
    if not num_passing:
        return "Nobody: no tracklet reaches the threshold."
    return f"{num_passing} of the nearest {counted(num_hits, 'tracklet')} reach the threshold."


def _sent(file: FileStorage | None) -> Sent:
    return Sent("", cast(BinaryIO, None)) if file is None else Sent(file.filename or "", cast(BinaryIO, file.stream))


def _integer(name: str, text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 19):
        raise UserError(f"{name}: {text[:80]!r} is not a whole number")
    return int(text)


def _number(name: str, kind: type[N], default: N | None, least: float = -np.inf, most: float = np.inf) -> N | None:
    """Return an argument of the address as a number; the default if it is missing or empty."""
    text = request.args.get(name, "")
    if not text:
        return default
    if kind is int:
        _integer(name, text)
    try:
        value = kind(text)
    except ValueError:
        raise UserError(f"{name}: {text[:80]!r} is not a number") from None
    if not least <= value <= most:
        raise UserError(f"{name}: {text[:80]} is not between {least:g} and {most:g}")
    return value


def _address(path: str, **choices: str | float | Sequence[object] | None) -> str:
    """Return an address with choices; empty ones stay, so that they replace a default."""
    return f"{path}?{urlencode({name: value for name, value in choices.items() if value is not None}, doseq=True)}"
