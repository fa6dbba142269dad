"""Sets behind a URL: a real HTTP server that answers for parts, and fsspec's memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pytest

import shards
from shards import storage
from shards.cache import Cache
from shards.index import _checksum
from shards.read import Reader
from shards.records import DataError
from shards.storage import BLOCK_BYTES, RemoteFiles
from shards.summary import summary
from tests.conftest import PROJECT
from tests.helpers.file_server import Server
from tests.shards.trees import build_mars, contents, mars_tree


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with a shard of several blocks."""
    folder = tmp_path_factory.mktemp("set")
    return build_mars(
        mars_tree(folder / "tree", size=(512, 256), repeat=6), folder / "out", shard_bytes=3 * BLOCK_BYTES
    )


@pytest.fixture
def server(out: Path) -> Iterator[Server]:
    serving = Server(out)
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WAITS", (0.01, 0.01))


def test_a_set_behind_http_is_the_local_one(out: Path, server: Server, tmp_path: Path) -> None:
    """Every row, every frame and the summary; shards are fetched in parts, and each part once, also by a second reader
    and after the first one's end."""
    near, far = shards.open(out), shards.open(server.url + "/", cache=tmp_path / "cache")
    assert summary(far) == summary(near)
    order = np.random.default_rng(0).permutation(len(near)).tolist()
    for i in order:
        assert far[i] == near[i]
        for number in range(near.num_frames[i]):
            assert far.encoded(i, number) == near.encoded(i, number)
    parts = [(path, part) for path, part in server.asked if path.endswith(".tar")]
    assert len(parts) == len(set(parts)) > len(near.description.shards)
    assert all(part for _, part in parts)
    server.asked.clear()
    again = shards.open(server.url, cache=tmp_path / "cache")
    np.testing.assert_array_equal(again.frames(3, [1, 0]), near.frames(3, [1, 0]))
    assert server.asked == [("/dataset.json", None)]


def test_a_set_in_memory(out: Path, tmp_path: Path) -> None:
    """Any file system of fsspec will do."""
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, data in contents(out).items():
        memory.pipe_file(f"/set/{name}", data)
    far, near = shards.open("memory://set", cache=tmp_path), shards.open(out)
    assert far.checksum == near.checksum
    np.testing.assert_array_equal(far.frames(0, [2, 0]), near.frames(0, [2, 0]))
    memory.rm("/set", recursive=True)


def test_a_file_url_is_a_local_folder(out: Path) -> None:
    """Nothing is copied into a cache."""
    assert shards.open(f"file://{out}").encoded(0, 0) == shards.open(out).encoded(0, 0)


@pytest.mark.usefixtures("impatient")
def test_a_lost_connection_is_tried_again(server: Server, tmp_path: Path, out: Path) -> None:
    """Two requests lose their connection: the third gives the bytes. Where none comes through, the error names the URL
    and how often it was tried; later the same reader goes on."""
    far = shards.open(server.url, cache=tmp_path)
    server.refuse = 2
    assert far.encoded(0, 0) == shards.open(out).encoded(0, 0)
    last = len(far) - 1
    server.refuse = 1000
    with pytest.raises(DataError, match=rf"^{server.url}/shard-\d+\.tar: cannot be read \(.+\), 3 times in a row"):
        far.encoded(last, 0)
    server.refuse = 0
    assert far.encoded(last, 0) == shards.open(out).encoded(last, 0)


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_ends_early_is_a_lost_connection(server: Server, tmp_path: Path, out: Path) -> None:
    """Without a length in the answer nothing but the missing bytes tells: it is tried again, and never called damage
    of the set."""
    far = shards.open(server.url, cache=tmp_path)
    server.cut = 2
    assert far.encoded(0, 0) == shards.open(out).encoded(0, 0)
    last = len(far) - 1
    server.cut = 1000
    with pytest.raises(
        DataError, match=r"cannot be read \(received 1,000 bytes of at least [\d,]+\), 3 times in a row"
    ):
        far.encoded(last, 0)
    server.cut = 0
    assert far.encoded(last, 0) == shards.open(out).encoded(last, 0)


def test_a_shard_that_vanishes_is_named(server: Server, tmp_path: Path, out: Path) -> None:
    """It was there when the set was opened."""
    far = shards.open(server.url, cache=tmp_path)
    server.folder = tmp_path / "nowhere"
    with pytest.raises(DataError, match=rf"^{server.url}/shard-\d+\.tar: missing; bring it back"):
        far.encoded(0, 0)


def test_names_that_lead_out_of_the_cache_are_refused(out: Path, tmp_path: Path) -> None:
    """A server may say that its shards are called anything, and its checksum fits: nothing is written elsewhere."""
    import fsspec

    memory = fsspec.filesystem("memory")
    content = json.loads((out / "dataset.json").read_text())
    content.pop("checksum")
    for change in ({"shards": [{**content["shards"][0], "file": "../../shard-000000.tar"}]}, {"index_sha256": "../x"}):
        changed = {**content, **change}
        for name, data in contents(out).items():
            memory.pipe_file(f"/a/b/set/{name}", data)
            memory.pipe_file(f"/a/b/set/../../{name}", data)
        text = json.dumps({**changed, "checksum": _checksum(changed)})
        memory.pipe_file("/a/b/set/dataset.json", text.encode())
        (tmp_path / "set" / "dataset.json").parent.mkdir(exist_ok=True)
        (tmp_path / "set" / "dataset.json").write_text(text)
        for place in ("memory://a/b/set", tmp_path / "set"):
            with pytest.raises(DataError, match=r"dataset.json: (shard )?'\.\./.* is not "):
                shards.open(place, cache=tmp_path / "in" / "cache").encoded(0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    memory.rm("/a", recursive=True)


@pytest.mark.usefixtures("impatient")
def test_what_is_wrong_with_a_url_is_said(server: Server, tmp_path: Path, out: Path) -> None:
    """No set there, no server, no such protocol, a shard missing or of another size, a server that gives all of a file
    where a part was asked for: each has its message."""

    def complaint(url: str) -> str:
        with pytest.raises(DataError) as error:
            shards.open(url, cache=tmp_path / "cache").encoded(len(shards.open(out)) - 1, 0)
        return str(error.value)

    assert complaint(f"{server.url}/nowhere").startswith(f"{server.url}/nowhere: no dataset.json")
    assert "protocol" in complaint("nonsense://host/set").lower()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert "3 times in a row" in complaint(f"http://127.0.0.1:{free.getsockname()[1]}/set")
    server.knows_ranges = False
    assert "does not support HTTP Range" in complaint(server.url)
    copy = build_mars(mars_tree(tmp_path / "tree"), tmp_path / "copy")
    server.folder = copy
    shard = sorted(copy.glob("*.tar"))[-1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert "cut off or changed" in complaint(server.url)
    shard.unlink()
    assert f"{server.url}/{shard.name}" in complaint(server.url)


def test_a_damaged_cache_is_no_damaged_set(server: Server, tmp_path: Path, out: Path) -> None:
    """A block that was spoiled or cut on the local disk is fetched anew; one that is spoiled on the server is an
    error that says so."""
    near = shards.open(out)
    shards.open(server.url, cache=tmp_path).encoded(0, 0)
    (block,) = tmp_path.rglob("000000")
    whole = block.read_bytes()
    for spoiled in (bytes(len(whole)), whole[:100], b""):
        block.write_bytes(spoiled)
        assert shards.open(server.url, cache=tmp_path).encoded(0, 0) == near.encoded(0, 0)
        assert block.read_bytes() == whole
    block.unlink()
    server.folder = tmp_path / "spoiled"
    for name, data in contents(out).items():
        (server.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (server.folder / name).write_bytes(bytes(len(data)) if name.endswith(".tar") else data)
    with pytest.raises(DataError, match="its bytes have changed since the build"):
        shards.open(server.url, cache=tmp_path).encoded(0, 0)


def test_another_build_at_the_same_url_is_not_mixed_with_the_first(server: Server, tmp_path: Path) -> None:
    """Blocks are kept by the checksum of their set."""
    before = shards.open(server.url, cache=tmp_path / "cache").encoded(0, 0)
    server.folder = build_mars(mars_tree(tmp_path / "tree", size=(128, 64)), tmp_path / "other")
    after = shards.open(server.url, cache=tmp_path / "cache").encoded(0, 0)
    assert after == shards.open(server.folder).encoded(0, 0) != before


def test_the_cache_keeps_its_size(tmp_path: Path) -> None:
    """The cache keeps its size under any load; the newest files stay, temporary ones do not."""
    cache, version = Cache(tmp_path, limit=1_000_000), 64 * "a"
    for number in range(300):
        assert cache.put(f"{version}/{number:03d}", bytes(20_000))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1_000_000
    assert cache.get(f"{version}/299") == bytes(20_000)
    assert cache.get(f"{version}/000") is None


def test_the_cache_keeps_its_size_with_many_processes(tmp_path: Path) -> None:
    """Each counts only what it writes itself; what sixteen of them add before one looks is little, too."""
    caches = [Cache(tmp_path, limit=8_000_000) for _ in range(16)]
    for number in range(12):
        for process, cache in enumerate(caches):
            assert cache.put(f"{64 * 'a'}/{process}-{number}", bytes(100_000))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 8_000_000


def test_blocks_of_one_url_are_not_read_for_another(server: Server, tmp_path: Path) -> None:
    """A server can claim the checksum of another's set; what it sent stays apart in a shared cache."""

    def requests(url: str) -> int:
        server.asked.clear()
        shards.open(url, cache=tmp_path).encoded(0, 0)
        return sum(".tar" in path and ranges is not None for path, ranges in server.asked)

    assert requests(server.url) > 0
    assert requests(server.url) == 0
    assert requests(server.url.replace("127.0.0.1", "localhost")) > 0


def test_python_ends_in_silence(out: Path) -> None:
    """A reader that is still there when Python ends closes its files without a word."""
    code = f"import shards\nreader = shards.open({str(out)!r})\nframes = reader.frames(0, [0])\n"
    code += "import shards.storage\nshards.storage.os = None"  # as when modules are cleared before their objects
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert (end.returncode, end.stderr) == (0, "")


def test_a_password_is_not_printed(server: Server, tmp_path: Path) -> None:
    """Neither where a server does not answer, nor where a URL is refused."""
    for url in (server.url.replace("://", "://me:secret@") + "/none", "gopher://me:secret@host/set"):
        with pytest.raises(DataError) as error:
            shards.open(url, cache=tmp_path)
        assert "secret" not in str(error.value)
        assert "me:***@" in str(error.value)


def test_the_cache_leaves_the_files_of_others_alone(tmp_path: Path) -> None:
    """A folder with something else in it may be given: that is not the cache's to remove, old as it may be."""
    theirs = tmp_path / "thesis" / "final.tex"
    theirs.parent.mkdir()
    theirs.write_bytes(bytes(2_000_000))
    os.utime(theirs, (1, 1))
    cache = Cache(tmp_path, limit=1_000_000)
    for number in range(100):
        assert cache.put(f"{64 * 'a'}/{number:03d}", bytes(20_000))
    assert theirs.is_file()
    assert cache.get(f"{64 * 'a'}/000") is None


def test_a_cache_that_cannot_be_written_is_told_once(server: Server, tmp_path: Path, out: Path) -> None:
    """Reading goes on, each block from the server; only the index must have a place."""
    far = shards.open(server.url, cache=tmp_path)
    assert isinstance(far._files, RemoteFiles)
    version = tmp_path / far._files.blocks
    version.write_text("a file where a folder should be")
    near, rows = shards.open(out), (0, len(far) - 1)
    with pytest.warns(UserWarning, match="cannot write the cache") as warned:
        frames = [far.encoded(i, 0) for i in rows]
    assert len(warned) == 1
    assert frames == [near.encoded(i, 0) for i in rows]
    taken = tmp_path / "file"
    taken.write_text("")
    with (
        pytest.warns(UserWarning, match="cannot write the cache"),
        pytest.raises(DataError, match="set MSTAT_CACHE to a folder with free space"),
    ):
        shards.open(server.url, cache=taken)


def test_the_environment_says_where_and_how_much(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MSTAT_CACHE and MSTAT_CACHE_GB, which the processes of a training inherit."""
    monkeypatch.setenv("MSTAT_CACHE", str(tmp_path / "here"))
    shards.open(server.url).encoded(0, 0)
    assert len(list((tmp_path / "here").rglob("000000"))) == 1
    monkeypatch.setenv("MSTAT_CACHE_GB", "much")
    with pytest.raises(DataError, match="MSTAT_CACHE_GB=much: not a number"):
        shards.open(server.url)


def read_all(given: Reader | bytes, order: list[int], answers: SimpleQueue[list[bytes]]) -> None:
    reader: Reader = pickle.loads(given) if isinstance(given, bytes) else given
    answers.put([reader.encoded(i, 0) for i in order])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_many_processes_read_at_once(method: str, server: Server, tmp_path: Path, out: Path) -> None:
    """Four workers, forked from a process that has read already, or spawned, share one cache and give the same."""
    far, near = shards.open(server.url, cache=tmp_path), shards.open(out)
    far.encoded(0, 0)
    context = multiprocessing.get_context(method)
    assert isinstance(context, ForkContext | SpawnContext)
    answers = context.SimpleQueue()
    given = far if method == "fork" else pickle.dumps(far)
    order = list(range(len(near)))
    workers = [context.Process(target=read_all, args=(given, order, answers)) for _ in range(4)]
    for worker in workers:
        worker.start()
    expected = [near.encoded(i, 0) for i in order]
    for _ in workers:
        assert answers.get() == expected
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="looks for its memory in /proc")
@pytest.mark.parametrize("place", ["local", pytest.param("http", marks=pytest.mark.soak)])
def test_memory_does_not_grow(place: str, server: Server, tmp_path: Path, out: Path) -> None:
    """100,000 reads of random frames leave the memory of a process as 10,000 did."""
    reader = shards.open(out if place == "local" else server.url, cache=tmp_path)
    rng = np.random.default_rng(0)

    def read(count: int) -> None:
        for i in rng.integers(len(reader), size=count).tolist():
            reader.encoded(i, int(rng.integers(reader.num_frames[i])))

    read(10_000)
    before = resident_bytes()
    read(100_000)
    assert resident_bytes() - before < 4 << 20
