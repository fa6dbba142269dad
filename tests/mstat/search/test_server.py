"""The page of the search: its pages, uploads, what it refuses, and a user in a real browser."""

from __future__ import annotations

import io
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait
from waitress import create_server
from werkzeug.test import TestResponse

import shards
from mstat.config import changed
from mstat.config.cli import load_config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.embed_set import Form, embed_set
from mstat.metrics import load_features
from mstat.model import MSTAT
from mstat.search import uploads
from mstat.search.gallery import Gallery
from mstat.search.pages import KEPT
from mstat.search.queries import Queries, from_shards
from mstat.search.server import HOST, create_app, serve
from mstat.search.threshold import Measured, Point
from mstat.search.uploads import Sent, pictures_set, video_set
from shards.__main__ import main as shards_main
from shards.read import Reader
from tests.helpers.browser import Browser, chromium, why_not
from tests.helpers.distributed import as_launched

MEASURED = Measured(
    Path("evaluation.json"),
    "6 pairs",
    (Point(0.1, 0.25, 0.75), Point(0.01, 0.5, 0.25)),
    ((0.0001, 0.0), (0.01, 0.25), (0.1, 0.75), (1.0, 1.0)),
)


class World:
    """A gallery of a small set, its reader, and the model that embeds uploads."""

    def __init__(self, tiny_config: Path, folder: Path) -> None:
        config = load_config(tiny_config, ["--run", str(folder / "run"), "--eval.mode", "clips"])
        self.reader = shards.open(config.data.shards)
        torch.manual_seed(0)
        with as_launched(), Engine(config) as engine:
            model = engine.place(MSTAT(config.model))
            for name, form in {"plain": Form(), "projected": Form(dims=8)}.items():
                embed_set(engine, model, self.reader, config, form, folder / name)
        self.gallery, self.projected = (Gallery(load_features(folder / name)) for name in ("plain", "projected"))
        config = changed(config, {"model": model.config})
        self.embed = partial(from_shards, engine, model, config=config)
        self.keys: list[str] = self.gallery.saved.table["key"].to_pylist()

    def embed_upload(self, reader: Reader) -> Queries:
        return self.embed(reader, gallery=self.gallery)

    def pictures(self, row: int) -> list[tuple[str, bytes]]:
        """Names and stored bytes of a tracklet's frames; the order of the names is that of numbers, not of letters."""
        return [(f"f{n}.jpg", self.reader.encoded(row, n)) for n in range(int(self.reader.num_frames[row]))]


@pytest.fixture(scope="module")
def world(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tiny_config, tmp_path_factory.mktemp("world"))


@pytest.fixture
def client(world: World) -> FlaskClient:
    return create_app(world.gallery, world.reader, world.embed_upload, MEASURED, top=5).test_client()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A video of 12 frames, and the tracks of two ids in it."""
    folder = tmp_path_factory.mktemp("filmed")
    rng = np.random.default_rng(0)
    with av.open(str(folder / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            picture = rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    rows = [f"{frame},{pid},{5 * pid + frame},4,20,40,1,-1,-1,-1" for frame in range(1, 13) for pid in (3, 4)]
    (folder / "a.txt").write_text("\n".join(rows))
    return folder / "a.avi", folder / "a.txt"


def sent(pictures: list[tuple[str, bytes]]) -> list[Sent]:
    return [Sent(name, io.BytesIO(data)) for name, data in pictures]


def post(client: FlaskClient, path: str, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    """Send a form; bytes are files with a name."""
    return client.post(path, data=fields, content_type="multipart/form-data", headers=headers)


def message(answer: TestResponse) -> str:
    found = re.search(r'role="alert">(.*?)</p>', answer.text, re.S)
    assert found, answer.text
    return found[1]


def test_the_list_is_filtered_and_paged(client: FlaskClient, world: World) -> None:
    first, last = client.get("/").text, client.get("/?page=2").text
    assert re.findall(r"/search\?key=([^\"]*)", first + last)[:30] == world.keys[:30]
    key = world.keys[-1]
    assert re.findall(r"<b>(.*?)</b>", client.get(f"/?key={key[3:]}").text) == [k for k in world.keys if key[3:] in k]
    shown = client.get("/?camera=2").text
    assert "camera 2," in shown
    assert "camera 1," not in shown
    assert "No tracklet has such a key" in client.get("/?key=nobody").text
    assert client.get("/strip/3/4").data.startswith(b"\xff\xd8")


def test_results_are_those_of_the_gallery(client: FlaskClient, world: World) -> None:
    key = world.keys[7]
    expected = world.gallery.search(world.gallery.saved.features_ND[7:8], 5, cameras=[1, 2], itself=[7])[0]
    text = client.get(f"/search?key={key}&camera=1&camera=2").text
    assert [float(value) for value in re.findall(r'data-similarity="(.*?)"', text)] == [h.similarity for h in expected]
    assert re.findall(r'alt="Rank \d+: (.*?)"', text) == [hit.key for hit in expected]
    assert "No threshold is chosen." in text
    between = (expected[1].similarity + expected[2].similarity) / 2
    text = client.get(f"/search?key={key}&camera=1&camera=2&threshold={between}").text
    assert "2 of the nearest 5 tracklets reach the threshold." in text
    assert text.count("found below") == 3
    text = client.get(f"/search?key={key}&camera=1&camera=2&threshold={between}&hide=1").text
    assert text.count("data-similarity") == 2
    text = client.get(f"/search?key={key}&threshold=1").text
    assert "Nobody: no tracklet reaches the threshold." in text


def test_measured_thresholds(client: FlaskClient, world: World) -> None:
    """Rates of a measured threshold and of one between two; each circle of the curve is a link; no run, no rates."""
    key = world.keys[0]
    text = client.get(f"/search?key={key}&threshold=0.5").text
    assert "Measured TPR 25 %" in text
    assert f'href="/search?key={key}&amp;top=5&amp;hide=&amp;threshold=0.25"' in text
    assert text.count('circle class="chosen"') == 1
    text = client.get(f"/search?key={key}&threshold=0.3").text
    assert "Measured TPR 25 to 75 %, FPR 1 to 10 %" in text
    assert 'polyline class="chosen"' in text
    app = create_app(world.gallery, "no pictures here", "no uploads here", "no thresholds here", threshold=0.5)
    text = app.test_client().get(f"/search?key={key}").text
    assert "TPR and FPR were not measured: no thresholds here." in text
    assert "<svg" not in text
    assert "<img" not in text
    assert "no pictures here" in text
    assert "no uploads here" in app.test_client().get("/").text
    assert "no uploads here" in message(post(app.test_client(), "/pictures"))


@pytest.mark.parametrize("name", ["plain", "projected"])
def test_uploaded_pictures_have_the_stored_features(name: str, world: World, tmp_path: Path) -> None:
    """Equal within 1e-6 to those that were embedded with the set."""
    gallery = {"plain": world.gallery, "projected": world.projected}[name]
    for row in (0, 9):
        pictures = world.pictures(row)
        reader = pictures_set(sent(pictures[::-1]), tmp_path / str(row))
        assert [reader.encoded(0, n) for n in range(len(pictures))] == [data for _, data in pictures]
        found_1D = world.embed(reader, gallery=gallery).features(slice(0, 1))
        torch.testing.assert_close(found_1D[0], gallery.saved.features_ND[row], atol=1e-6, rtol=0)


def test_a_video_is_cut_as_a_build_cuts_it(filmed: tuple[Path, Path], tmp_path: Path) -> None:
    video, tracks = filmed
    words = ["--video", str(video), "--tracks", str(tracks), "--unlabelled", "--workers", "1"]
    assert shards_main(["build", "mot", *words, "--out", str(tmp_path / "built")]) == 0
    built = shards.open(tmp_path / "built")
    for place, pid in enumerate((3, 4)):
        files = Sent("a.avi", io.BytesIO(video.read_bytes())), Sent("a.txt", io.BytesIO(tracks.read_bytes()))
        (tmp_path / str(pid)).mkdir()
        reader = video_set(*files, pid, tmp_path / str(pid))
        assert [reader.encoded(0, n) for n in range(12)] == [built.encoded(place, n) for n in range(12)]


def test_an_upload_is_found_and_leaves_no_file(
    client: FlaskClient, world: World, filmed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearest tracklet of a copy is the original; the files are gone, also after a refusal; the last uploads are
    kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = [(io.BytesIO(data), name) for name, data in world.pictures(9)]
    answer = post(client, "/pictures", pictures=files)
    assert answer.status_code == 303
    text = client.get(answer.location).text
    assert re.findall(r'alt="Rank 1: (.*?)"', text) == [world.keys[9]]
    assert re.findall(r'data-similarity="(.*?)"', text)[0][:6] in ("1.0", "0.9999", "1.0000")
    picture = re.search(r'"(/upload/[^"]*)"', text)
    assert picture
    assert client.get(picture[1]).data.startswith(b"\xff\xd8")
    video, tracks = filmed
    refused = post(client, "/video", video=(io.BytesIO(video.read_bytes()), "a.avi"), tracks=(tracks.open("rb"), "t"))
    assert refused.status_code == 400
    assert message(refused) == "no id was given: the tracks have 3, 4"
    fields: dict[str, Any] = {
        "video": (video.open("rb"), "../../a.avi"),
        "tracks": (tracks.open("rb"), "a.txt"),
        "id": "3",
    }
    assert "id 3 of ../../a.avi" in client.get(post(client, "/video", **fields).location).text
    assert list(tmp_path.iterdir()) == []
    small = world.pictures(0)[:1]
    for _ in range(KEPT):
        post(client, "/pictures", pictures=[(io.BytesIO(data), name) for name, data in small])
    gone = client.get(answer.location)
    assert gone.status_code == 404
    assert "this upload is gone" in message(gone)


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("/pictures", {}, "no picture was chosen"),
        ("/pictures", {"pictures": b"GIF89a no"}, "&lt;b&gt;x: not a picture that can be used"),
        ("/pictures", {"pictures": [b"\xff\xd8"] * 4}, "4 pictures, more than 3"),
        ("/video", {}, "a video and its tracks file are needed"),
        ("/video", {"video": b"nothing", "tracks": b"1,1,1,1,1,1"}, "&lt;b&gt;x: cannot be decoded"),
        ("/video", {"video": b"x", "tracks": b"y", "id": "one"}, "id: &#39;one&#39; is not a whole number"),
        ("/video", {"tracks": b"y", "video": b"x" * 2000}, "larger than 1,000 bytes"),
        ("/video", {"tracks": b"1,3,a,4,20,40"}, "could not convert|not a number|a is"),
        ("/video", {"id": "9"}, "id 9 is not in the tracks: the tracks have 3, 4"),
        ("/video", {"id": "3", "most": 11}, "12 frames, more than 11"),
        ("/video", {"id": "3", "boxes": 11}, "id 3 has 12 boxes, more than 11"),
        ("/video", {"id": "3", "pixels": 1000}, "64x48 pixels, more than 1,000"),
    ],
)
def test_bad_uploads(
    path: str,
    fields: dict[str, Any],
    expected: str,
    client: FlaskClient,
    filmed: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One message, escaped, that names the file as the user does."""
    files: dict[str, Any] = {name: value for name, value in fields.items() if name in ("pictures", "video", "tracks")}
    if path == "/video" and fields:
        files = {"video": filmed[0].read_bytes(), "tracks": filmed[1].read_bytes()} | files
    monkeypatch.setattr(uploads, "MAX_PICTURES", fields.get("boxes", 3 if path == "/pictures" else 500))
    monkeypatch.setattr(uploads, "MAX_FRAMES", fields.get("most", 100))
    if "larger" in expected:
        monkeypatch.setattr(uploads, "MAX_BYTES", 1000)
    if "pixels" in fields:
        monkeypatch.setenv("MSTAT_MAX_PIXELS", str(fields["pixels"]))
    data: dict[str, Any] = {
        name: [(io.BytesIO(one), "<b>x") for one in (value if isinstance(value, list) else [value])]
        for name, value in files.items()
    }
    answer = post(client, path, **data, **({"id": fields["id"]} if "id" in fields else {}))
    assert answer.status_code == 400
    assert re.search(expected, message(answer)), message(answer)
    assert "<b>" not in message(answer)
    assert tempfile.gettempdir() + "/" not in message(answer)


@pytest.mark.parametrize(
    ("address", "status", "expected"),
    [
        ("/search", 404, "no tracklet is chosen"),
        ("/search?key=nope", 404, "nope: no tracklet of the features has this key"),
        ("/search?upload=nope", 404, "this upload is gone"),
        ("/search?key=KEY&camera=x", 400, "camera: &#39;x&#39; is not a whole number"),
        ("/search?key=KEY&camera=77", 400, "no tracklet is of camera 77"),
        ("/search?key=KEY&top=0", 400, "top: 0 is not between 1 and 100"),
        ("/search?key=KEY&threshold=nan", 400, "threshold: nan is not between"),
        ("/search?key=KEY&threshold=2", 400, "threshold: 2 is not between"),
        ("/search?key=%3Cb%3E%E2%80%AE", 404, r"&lt;b&gt;\\u202e: no tracklet"),
        ("/?page=99", 400, "page: 99 is not between 1 and"),
        ("/strip/9999/4", 404, ""),
        ("/strip/0/500", 404, ""),
        ("/style.css/../../server.py", 404, ""),
    ],
)
def test_bad_addresses(address: str, status: int, expected: str, client: FlaskClient, world: World) -> None:
    answer = client.get(address.replace("KEY", world.keys[0]))
    assert answer.status_code == status
    assert re.search(expected, message(answer))


def test_only_the_page_itself_may_use_it(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host name, another origin, a page of another site, an upload that is too large."""
    assert client.get("/", headers={"Host": "evil.test:8000"}).status_code == 400
    assert client.get("/", headers={"Host": "127.0.0.1:8000"}).status_code == 200
    mine = {"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:8000"}
    assert "no picture was chosen" in message(post(client, "/pictures", mine))
    for other in ({"Origin": "http://evil.test"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:8001"}):
        assert post(client, "/pictures", mine | other).status_code == 403
    assert post(client, "/video", {"Sec-Fetch-Site": "cross-site"}).status_code == 403
    for answer in (client.get("/"), client.get("/nothing"), client.get("/strip/0/4")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in answer.headers
    client.application.config["MAX_CONTENT_LENGTH"] = 1000
    answer = post(client, "/pictures", pictures=(io.BytesIO(b"x" * 2000), "x"))
    assert answer.status_code == 413
    assert "larger than 256 MiB" in message(answer)
    assert client.put("/pictures").status_code == 405


def test_a_used_port_is_one_line(client: FlaskClient) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: 127.0.0.1 cannot be served .*in use.*: give another"):
            serve(client.application, port)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if reason := why_not():
        pytest.skip(reason)
    with chromium(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture
def address(client: FlaskClient) -> Iterator[str]:
    server = create_server(client.application, host=HOST, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield f"http://{HOST}:{server.effective_port}/"
    server.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_user_in_a_browser(width: int, browser: Browser, address: str, world: World, tmp_path: Path) -> None:
    """Choose a tracklet, choose a measured threshold on the curve, move the slider, upload pictures."""
    driver = browser.driver

    def leave(act: Callable[[], object]) -> None:
        """Do what leads to another page, and wait for that page."""
        page = driver.find_element(By.TAG_NAME, "html")
        act()
        WebDriverWait(driver, 60).until(staleness_of(page))

    def click(selector: str) -> None:
        found = driver.find_element(By.CSS_SELECTOR, selector)
        driver.execute_script("arguments[0].scrollIntoView()", found)
        leave(found.click)

    def check() -> None:
        look = browser.look(driver.current_url, width)
        assert (look.width, look.wide, look.broken, look.silent, look.console) == (width, [], [], 0, [])
        assert all(url.startswith(address) for url in look.requests)

    browser.look(address, width)
    check()
    click(".ranks a")
    assert driver.find_element(By.TAG_NAME, "h1").text == f"Search for {world.keys[0]}"
    check()
    assert len(driver.find_elements(By.CSS_SELECTOR, "#hits li")) == 5
    click("svg a[aria-label^='threshold 0.2500'] circle")
    assert driver.find_element(By.ID, "threshold").get_attribute("value") == "0.25"
    assert "Measured TPR 75 %" in driver.page_source
    slide = "slider.value = 1; for (const name of ['input', 'change']) slider.dispatchEvent(new Event(name))"
    leave(partial(driver.execute_script, slide))
    check()
    assert driver.find_element(By.ID, "verdict").text.startswith("Nobody")
    paths = []
    for name, data in world.pictures(9):
        (tmp_path / name).write_bytes(data)
        paths.append(str(tmp_path / name))
    driver.get(address)
    driver.find_element(By.NAME, "pictures").send_keys("\n".join(paths))
    click("form[action='/pictures'] button")
    assert "an upload" in driver.find_element(By.TAG_NAME, "h1").text
    check()
    assert world.keys[9] in driver.find_element(By.CSS_SELECTOR, "#hits li").text
