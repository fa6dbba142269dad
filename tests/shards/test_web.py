"""Servers that answer without end, not at all, compressed, or send readers elsewhere; URLs that are not opened."""

from __future__ import annotations

import gzip
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import shards
from shards import storage
from shards.index import INDEX_FILE
from shards.paths import check_url, without_password
from shards.records import DataError
from tests.shards.hostile import describe
from tests.shards.trees import build_mars, mars_tree

CHUNK = bytes(1 << 16)


class Server(ThreadingHTTPServer):
    """Serves a folder, but for the files whose name a trick has: that answers in its own way."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.folder = folder
        self.tricks: dict[str, Callable[[Handler], None]] = {}
        self.tricks_heads = False  # on GET alone
        self.asked: list[str] = []  # paths of GETs
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.command == "GET":
            self.server.asked.append(self.path)
        trick = next((trick for name, trick in self.server.tricks.items() if self.path.endswith(name)), None)
        try:
            if trick and (self.command == "GET" or self.server.tricks_heads):
                trick(self)
            else:
                self.send_file()
        except (BrokenPipeError, ConnectionResetError):  # the reader has seen enough
            self.close_connection = True

    do_HEAD = do_GET

    def send_file(self) -> None:
        data = (self.server.folder / self.path.lstrip("/")).read_bytes()
        first, _, last = self.headers.get("Range", f"bytes=0-{len(data) - 1}").removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    def send_without_end(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(CHUNK)

    def send_compressed(self) -> None:
        """Answer any request with a gigabyte of zeros."""
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(gzip.compress(bytes(1 << 20)) * 1024)

    def say_nothing(self) -> None:
        threading.Event().wait(5)

    def redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    return build_mars(mars_tree(folder / "tree"), folder / "out")


@pytest.fixture
def server(out: Path) -> Iterator[Server]:
    serving = Server(out)
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAITS", (0.01,))


def refusal(place: str, cache: Path) -> str:
    with pytest.raises(DataError) as error:
        shards.open(place, cache=cache).encoded(0, 0)
    return str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dataset.json", "more than 33,554,432 bytes"),
        (INDEX_FILE, "the server sends more than"),
        (".tar", "does not support HTTP Range"),
    ],
)
def test_answers_without_end_cost_bounded_memory(server: Server, tmp_path: Path, name: str, reason: str) -> None:
    """No more is kept than such a file can have, and what is wrong is said once, not tried again."""
    server.tricks[name] = Handler.send_without_end
    tracemalloc.start()
    try:
        message = refusal(server.url, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()
    assert reason in message
    assert len([path for path in server.asked if path.endswith(name)]) == 1


def test_an_index_has_the_size_of_its_rows(server: Server, out: Path, tmp_path: Path) -> None:
    """The description tells how large it can be; a description that tells of absurd numbers does not help a server."""
    copy = Path(tmp_path / "copy")
    copy.mkdir()
    for path in out.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    server.folder = copy
    server.tricks[INDEX_FILE] = Handler.send_without_end
    assert "more than 1,0" in refusal(server.url, tmp_path)
    describe(copy, lambda content: content["counts"].update(frames=2**62, tracklets=2**62))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shards.index.MAX_INDEX_BYTES", 1 << 22)
        assert "more than 4,194,304 bytes" in refusal(server.url, tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", INDEX_FILE, ".tar"])
def test_compressed_answers_are_refused(server: Server, tmp_path: Path, name: str) -> None:
    """A megabyte of them could be a gigabyte."""
    server.tricks[name] = Handler.send_compressed
    assert ": compressed (Content-Encoding: gzip)" in refusal(server.url, tmp_path)


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers."""
    monkeypatch.setattr(storage, "TIMEOUT_SECONDS", 1)
    server.tricks["dataset.json"] = Handler.say_nothing
    assert "cannot be read" in refusal(server.url, tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", INDEX_FILE, ".tar"])
def test_redirects_to_another_server_are_refused(server: Server, out: Path, tmp_path: Path, name: str) -> None:
    """Another host, or another port of the same: it is named, and gets no request."""
    other = Server(out)
    server.tricks_heads = True
    for target in (other.url, f"http://localhost:{other.server_address[1]}", "https://127.0.0.1:9/x"):

        def elsewhere(handler: Handler, target: str = target) -> None:
            handler.redirect(target + handler.path)

        server.tricks[name] = elsewhere
        message = refusal(server.url, tmp_path / "cache")
        assert "redirects to another server" in message
        assert target.rpartition("/x")[0] in message or target in message
    assert not other.asked
    other.shutdown()
    other.server_close()


def test_redirects_on_the_same_server_are_followed(server: Server, out: Path, tmp_path: Path) -> None:
    """As of a folder that was moved; a circle of them ends."""
    server.tricks_heads = True
    server.tricks["/old/dataset.json"] = lambda handler: handler.redirect("/dataset.json")
    server.tricks["/circle/dataset.json"] = lambda handler: handler.redirect(handler.path)
    for name in (INDEX_FILE, *(path.name for path in out.glob("*.tar"))):

        def to_new_place(handler: Handler, name: str = name) -> None:
            handler.redirect(f"/{name}")

        server.tricks[f"/old/{name}"] = to_new_place
    near, far = shards.open(out), shards.open(f"{server.url}/old", cache=tmp_path)
    assert far.encoded(3, 1) == near.encoded(3, 1)
    assert "cannot be read" in refusal(f"{server.url}/circle", tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "reference://x::/etc/passwd",
        "simplecache::http://host/set",
        "http://host/set::memory://x",
        "zip://a::file:///tmp/a.zip",
        "file:///tmp/x::http://host/a",
        "memory://a::b",
        "http://[::1]/a::b",
        "reference://x",
        "filecache://x",
        "dir://x",
        "ftp://host/set",
        "ssh://host/set",
        "github://org:repo@main/set",
        "data:text/plain://x",
        "HTTP+x://host",
        "://x",
        "http://",
        "http:///",
    ],
)
def test_chains_and_other_protocols_are_refused(url: str, tmp_path: Path) -> None:
    """Before fsspec sees them: it would chain file systems that read, write and run what the URL says."""
    assert refusal(url, tmp_path).startswith(without_password(url))


@pytest.mark.parametrize("url", ["http://[::1]:8000/set", "https://host/a:b/set", "s3://bucket/set", "file:///a/b"])
def test_good_urls_pass(url: str) -> None:
    """An address of IPv6 holds colons, and chains nothing."""
    check_url(url)
