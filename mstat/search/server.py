"""A local web page of the search: Flask makes the pages, waitress serves them, at 127.0.0.1 only.

The page has no login, so nothing else may use it: requests under another host name (DNS rebinding), and uploads that
other pages start, are refused, and no other page may show its pictures. It loads nothing from the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from flask import Flask, Response, render_template, request
from markupsafe import Markup
from waitress import create_server
from werkzeug.exceptions import Forbidden, HTTPException, RequestEntityTooLarge

from mstat.errors import UserError
from mstat.search.gallery import Gallery
from mstat.search.pages import Pages
from mstat.search.queries import Queries
from mstat.search.threshold import Measured
from mstat.search.uploads import MAX_BYTES, MAX_PICTURES
from shards.read import Reader
from shards.records import DataError
from shards.terminal import print_line
from shards.text import printable

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # a browser sends one of them as Host
THREADS = 4  # requests that are answered at a time
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def create_app(
    gallery: Gallery,
    reader: Reader | str,
    embed: Callable[[Reader], Queries] | str,
    thresholds: Measured | str,
    *,
    top: int = 20,
    threshold: float | None = None,
) -> Flask:
    """Return the application.

    Args:
        gallery: Features that are searched.
        reader: Their opened shards, or a sentence on why there are none.
        embed: Embeds the data set of an upload as the features were, or a sentence on why uploads are not possible.
        thresholds: Measured thresholds, or a sentence on why there are none.
        top: Most results of a query.
        threshold: Least cosine similarity of a result; None for no limit. The page can change both.
    """
    app = Flask("mstat.search", static_folder=None)
    app.config.update(TRUSTED_HOSTS=list(NAMES), MAX_CONTENT_LENGTH=MAX_BYTES, MAX_FORM_PARTS=MAX_PICTURES + 10)
    app.jinja_options = {"finalize": visible, "trim_blocks": True}
    pages = Pages(gallery, reader, embed, thresholds, top, threshold)
    app.add_url_rule("/", view_func=pages.tracklets)
    app.add_url_rule("/search", view_func=pages.results)
    app.add_url_rule("/pictures", view_func=pages.pictures, methods=["POST"])
    app.add_url_rule("/video", view_func=pages.video, methods=["POST"])
    app.add_url_rule("/strip/<int:row>/<int:num_frames>", view_func=pages.strip)
    app.add_url_rule("/upload/<token>", view_func=pages.upload_strip)
    own = files("mstat.search") / "static"
    style = (files("mstat.report") / "style.css").read_text("utf-8") + (own / "page.css").read_text("utf-8")
    script = (own / "page.js").read_text("utf-8")
    app.add_url_rule("/style.css", "style", lambda: Response(style, mimetype="text/css"))
    app.add_url_rule("/page.js", "script", lambda: Response(script, mimetype="text/javascript"))
    app.before_request(refuse_other_origins)
    app.after_request(add_headers)
    app.register_error_handler(HTTPException, show_http_error)
    for kind in (UserError, DataError):
        app.register_error_handler(kind, show_error)
    return app


def visible(value: Any) -> Any:
    """Make control and bidirectional characters of text visible; Jinja then escapes it for HTML."""
    return printable(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def refuse_other_origins() -> None:
    """Refuse an upload that a page of another origin started. Programs without a browser send no origin."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    origin = request.headers.get("Origin")
    if origin not in (None, request.host_url.rstrip("/")) or request.headers.get("Sec-Fetch-Site") == "cross-site":
        raise Forbidden("only this page itself may upload to it")


def add_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


def show_error(error: Exception) -> tuple[str, int]:
    return render_template("error.html", heading="This cannot be searched", message=error), 400


def show_http_error(error: HTTPException) -> tuple[str, int]:
    message = error.description
    if isinstance(error, RequestEntityTooLarge):
        message = f"The upload is larger than {MAX_BYTES >> 20} MiB, or has more than {MAX_PICTURES} files: send less."
    return render_template("error.html", heading=error.name, message=message), error.code or 500


def serve(app: Flask, port: int) -> None:
    """Serve the application at 127.0.0.1 until Ctrl-C.

    Args:
        port: 0 takes a free one.

    Raises:
        UserError: If the port cannot be used.
    """
    try:
        server = create_server(
            app, host=HOST, port=port, threads=THREADS, ident=None, max_request_body_size=2 * MAX_BYTES
        )
    except OSError as error:
        raise UserError(f"--port {port}: {HOST} cannot be served ({error.strerror}): give another --port") from None
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of each page with many pictures
    print_line(f"http://{HOST}:{server.effective_port}/ (Ctrl-C ends it)")
    server.run()  # returns on Ctrl-C
    print_line("ended")
