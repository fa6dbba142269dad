"""Streaming a set from object storage compared with random access and plain webdataset: `make bench-streaming`.

A server on this machine answers as object storage does: each request waits for its first byte, and each connection has
a limited rate. Each rival reads the whole set once, in one process: mstat as `launch/embed.py` does (8 frames of each
tracklet, decoded), and webdataset, whose URLs are read by curl, without decoding. It needs the video of ../shared/data
(MSTAT_SHARED), and curl.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import webdataset

from benchmarks import realistic
from benchmarks.harness import Figure, in_turn, medians, run_main, save, table
from shards.read import Reader
from shards.stream import StreamedReader
from shards.write import building, write

NUM_TRACKLETS, FRAMES, SIZE = 1200, 8, (224, 112)
LATENCY, RATE, CHUNK = 0.03, 100e6, 1 << 18  # seconds to the first byte; bytes a second of a connection; of one send
ROUNDS = 3


class Storage(BaseHTTPRequestHandler):
    """Answers like object storage; `files` is set by `serve`."""

    protocol_version = "HTTP/1.1"
    files: Mapping[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        time.sleep(LATENCY)
        data = memoryview(self.files[self.path.lstrip("/")])
        part = self.headers.get("Range")
        if part:
            first, last = map(int, part.removeprefix("bytes=").split("-"))
            data = data[first : last + 1]
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        began = time.perf_counter()
        for start in range(0, len(data) if body else 0, CHUNK):
            time.sleep(max(0.0, began + start / RATE - time.perf_counter()))
            self.wfile.write(data[start : start + CHUNK])

    def log_message(self, *args: object) -> None:
        pass


def serve(folder: Path, pipe: Connection) -> None:
    Storage.files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    pipe.send(server.server_address[1])
    server.serve_forever()


def read(reader: Reader) -> None:
    """Read evenly spaced frames of all tracklets, as an evaluation does."""
    for i in range(len(reader)):
        reader.frames(i, np.linspace(0, reader.num_frames[i] - 1, FRAMES).astype(int), SIZE)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-streaming-") as name:
        folder = Path(name)
        source = realistic.source(folder / "files", realistic.crops(folder), NUM_TRACKLETS)
        with building(folder / "set") as place:
            write(source, place, workers=2)
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder / "set", theirs), daemon=True)
        process.start()
        url = f"http://127.0.0.1:{ours.recv()}"
        tars = [path.name for path in sorted((folder / "set").glob("*.tar"))]
        size = sum((folder / "set" / tar).stat().st_size for tar in tars)
        round_number = iter(range(100))

        def random_access() -> None:
            read(Reader(url, cache=folder / f"cache-{next(round_number)}"))

        def plain() -> None:
            for tar in tars:
                with urlopen(f"{url}/{tar}") as answer:
                    while answer.read(1 << 20):
                        pass

        def of_webdataset() -> None:
            for _ in webdataset.WebDataset([f"{url}/{tar}" for tar in tars], shardshuffle=False):
                pass

        calls: dict[str, Callable[[], object]] = {
            "mstat, streamed, frames decoded": lambda: read(StreamedReader(url, [])),
            "mstat, random access, frames decoded": random_access,
            "webdataset, not decoded": of_webdataset,
            "one GET for each tar": plain,
        }
        seconds = medians(in_turn(calls, ROUNDS))
        process.kill()
    streamed, cached, rival, limit = calls
    rows = [[what, f"{taken:.2f}", f"{size / taken / 1e6:,.0f}"] for what, taken in seconds.items()]
    text = (
        f"{NUM_TRACKLETS:,} tracklets of {realistic.LENGTH} frames, {size / 1e6:,.0f} MB in {len(tars)} tars, behind a "
        f"server that waits {1000 * LATENCY:.0f} ms for each request and sends {RATE / 1e6:.0f} MB/s on a connection. "
        f"Decoded are {FRAMES} frames of a tracklet, at {SIZE[0]}x{SIZE[1]}. One process each; medians of {ROUNDS} "
        "rounds in turn. Random access starts with an empty cache, which it fills."
    )
    figures = [
        Figure(
            f"a set of {size / 1e6:,.0f} MB read once from object storage",
            f"{seconds[streamed]:.1f} s",
            name,
            f"{seconds[name]:.1f} s",
            seconds[name] / seconds[streamed],
            "",
            f"{seconds[limit]:.1f} s for the bytes alone",
            seconds[limit] / seconds[streamed],
        )
        for name in (cached, rival)
    ]
    save("streaming", "Streaming", text, table(["", "seconds", "MB/s"], rows), figures=figures)


if __name__ == "__main__":
    run_main(main, __doc__)
