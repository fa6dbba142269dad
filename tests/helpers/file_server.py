"""An HTTP server of one folder that answers for parts of files, counts requests, and fails as it is told."""

from __future__ import annotations

import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves a folder, parts of files too, and counts what it is asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []  # path and Range of each GET
        self.refuse = 0  # so many of the next requests lose their connection
        self.cut = 0  # so many of the next answers end early, and without a sign of it
        self.knows_ranges = True
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bytes_once(self) -> int:
        """Return how many bytes the answers for parts have; fail if a byte is in two of them."""
        ranges = [(path, part.removeprefix("bytes=").split("-")) for path, part in self.asked if part]
        parts = sorted((path, int(first), int(last)) for path, (first, last) in ranges)
        for (path, _, last), (other, first, _) in pairwise(parts):
            assert path != other or last < first, (path, last, first)
        return sum(last - first + 1 for _, first, last in parts)


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def _whole(self) -> bytes | None:
        if self.server.refuse:
            self.server.refuse -= 1
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return None
        return path.read_bytes()

    def do_HEAD(self) -> None:
        if (data := self._whole()) is not None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()

    def do_GET(self) -> None:
        part = self.headers.get("Range")
        self.server.asked.append((self.path, part))
        if (data := self._whole()) is None:
            return
        if part and self.server.knows_ranges:
            start, _, end = part.removeprefix("bytes=").partition("-")
            size = len(data)
            data = data[int(start) : int(end) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{int(start) + len(data) - 1}/{size}")
        else:
            self.send_response(200)
        if self.server.cut:
            self.server.cut -= 1
            data = data[:1000]
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass
