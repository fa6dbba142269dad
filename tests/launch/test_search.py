"""`launch/search.py`: what it finds, prints and writes, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import urllib3

import shards
from launch.search import main
from mstat.config import Config
from mstat.config.cli import load_config, save_config
from mstat.distributed.engine import Engine
from mstat.evaluation.embed_set import Form, embed_set
from mstat.evaluation.evaluate import evaluate_run
from mstat.metrics import load_features
from mstat.training.task import Task
from mstat.weights.export import export, load_model
from tests.conftest import PROJECT
from tests.helpers.distributed import as_launched

FLAGS = ["--eval.baselines", "false", "--eval.features", "true", "--eval.flip", "true", "--eval.stage_norm", "false"]


def embed(config: Config, out: Path, form: Form) -> None:
    with as_launched(), Engine(config) as engine:
        model = engine.place(load_model(config.run))
        embed_set(engine, model, shards.open(config.data.shards), config, form, out)


@pytest.fixture(scope="module")
def config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings of a run with random weights, which is evaluated: RUN/features are those of its protocol."""
    run = tmp_path_factory.mktemp("search") / "run"
    run.mkdir()
    config = load_config(tiny_config, ["--run", str(run), *FLAGS])
    save_config(config, run / "config.yaml")
    torch.manual_seed(0)
    export(run, Task(config, 9).state_dict(), config.model)
    with as_launched(), Engine(config) as engine:
        evaluate_run(engine, engine.place(load_model(run)), shards.open(config.data.shards), config)
    return config


@pytest.fixture(scope="module")
def run(config: Config) -> Path:
    return Path(config.run)


@pytest.fixture(scope="module")
def features(config: Config, run: Path) -> Path:
    """Features of all tracklets."""
    embed(config, run.parent / "features", Form())
    return run.parent / "features"


@pytest.fixture
def search(features: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Search and return the exit status, stdout and stderr."""

    def run_it(*words: object, of: Path = features) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["--features", str(of), *map(str, words)])
        return status, *capsys.readouterr()

    return run_it


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_table_json_and_page(
    search: Callable[..., tuple[int, str, str]], run: Path, features: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    """A query is not among its own hits; cameras and --top hold in all three; frames are on the page."""
    key = load_features(features).table["key"][0].as_py()
    flags = ["--query", key, "--cameras", 2, "--top", 3]
    status, table, _ = search(*flags, "--json", tmp_path / "a.jsonl", "--page", tmp_path / "a.html", "--run", run)
    assert status == 0
    (line,) = lines((tmp_path / "a.jsonl").read_text())
    assert line["query"] == key
    assert [hit["rank"] for hit in line["hits"]] == [1, 2, 3]
    assert {hit["camid"] for hit in line["hits"]} == {2}
    assert list(line["hits"][0]) == ["rank", "key", "pid", "camid", "similarity"]
    assert all(hit["key"] in table and f"{hit['similarity']:.4f}" in table for hit in line["hits"])
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/jpeg") == 4
    assert all(hit["key"] in page for hit in line["hits"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.jsonl"]

    status, output, notes = search(*flags, "--json", "-", "--page", tmp_path / "b.html")
    assert lines(output) == [line]
    assert "tracklets are searched (exact search)" in notes
    assert "data:image/jpeg" not in (tmp_path / "b.html").read_text()
    assert "give it as --shards" in (tmp_path / "b.html").read_text()
    search(*flags, "--page", tmp_path / "b.html", "--shards", tiny_shards)
    assert (tmp_path / "b.html").read_text().count("data:image/jpeg") == 4


def test_each_kind_of_query_finds_the_same(
    search: Callable[..., tuple[int, str, str]], config: Config, run: Path, features: Path, tiny_shards: Path
) -> None:
    """Rows, a set that is embedded, features of it, also where the searched ones are projected, and each index."""
    keys = load_features(features).table["key"].to_pylist()
    expected = lines(search("--query", *keys, "--top", 5, "--json", "-")[1])
    assert [line["query"] for line in expected] == keys
    for flags in (
        ["--query-shards", tiny_shards, "--run", run],
        ["--query-features", features],
        ["--query-features", features, "--index", "flat"],
        ["--query-features", features, "--index", "hnsw"],
    ):
        status, output, notes = search(*flags, "--top", 5, "--json", "-")
        assert status == 0, notes
        found = lines(output)
        assert [line["query"] for line in found] == keys
        for ours, one in zip(found, expected, strict=True):
            assert [hit["similarity"] for hit in ours["hits"]] == pytest.approx(
                [hit["similarity"] for hit in one["hits"]], abs=2e-6
            )
        if "--index" in flags:
            assert f"recall@5 of {flags[-1]} against exact search: 100.0 %, on {len(keys)} queries" in notes

    projected = features.with_name("projected")
    embed(config, projected, Form("float16", 8))
    own = lines(search("--query", keys[3], "--top", 5, "--json", "-", of=projected)[1])
    other = lines(search("--query-features", features, "--top", 5, "--json", "-", of=projected)[1])
    assert [hit["key"] for hit in other[3]["hits"]] == [hit["key"] for hit in own[0]["hits"]]
    status, _, message = search("--query-features", projected)
    assert status == 1
    assert f"error: {projected}: its principal components are not those of the searched features" in message
    _, output, _ = search("--query", keys[3], "--threshold", 0.5, "--run", run, of=projected)
    assert "TPR and FPR were not measured: thresholds are measured on features as extracted" in output


def test_thresholds(search: Callable[..., tuple[int, str, str]], run: Path, features: Path) -> None:
    """Rates are those that the run measured, or unknown; nobody passes 1, which no similarity reaches."""
    scores = json.loads((run / "evaluation.json").read_text())["verification"]["cosine"]
    key = load_features(run / "features").table["key"][0].as_py()
    query = ["--query", key]
    for flags in ({"of": run / "features"}, {}):  # the run around the features, or the one that is named
        _, output, _ = search(*query, "--threshold", "fpr=0.1", *([] if flags else ["--run", run]), **flags)
        assert f"threshold {scores['threshold_at_0.1']:.4f}: measured TPR {100 * scores['tpr_at_0.1']:.4g} %" in output
    _, output, _ = search(*query, "--threshold", 1)
    assert "nobody passes the threshold" in output
    assert "TPR and FPR were not measured: no run is given (--run)" in output
    assert lines(search(*query, "--threshold", 1, "--json", "-")[1]) == [{"query": key, "hits": []}]
    status, _, message = search(*query, "--threshold", "fpr=0.5", "--run", run)
    assert status == 1
    assert f"--threshold fpr=0.5: not measured in {run / 'evaluation.json'}, which has fpr=0.1" in message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weights", "0" * 64, "its weights have the digest 000000000000, those of the searched features"),
        ("weights", None, "no digest of the weights is recorded"),
        ("eval", {"num_frames": 7}, "embedded with eval.num_frames 7, but the searched features with 4"),
    ],
)
def test_features_that_are_not_comparable(
    key: str,
    value: object,
    message: str,
    search: Callable[..., tuple[int, str, str]],
    run: Path,
    features: Path,
    tmp_path: Path,
) -> None:
    """Both values are named; weights of a run are compared as well."""
    other = tmp_path / "other"
    shutil.copytree(features, other)
    info = json.loads((other / "features.json").read_text())
    (other / "features.json").write_text(json.dumps({**info, key: value}))
    status, _, error = search("--query-features", other)
    assert status == 1
    assert f"error: {other}: {message}" in error
    if value == "0" * 64:
        status, _, error = search("--query", "x", "--run", run, of=other)
        assert status == 1
        assert "those of the searched features 000000000000" in error


def test_what_is_refused(
    search: Callable[..., tuple[int, str, str]],
    features: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one line, with nothing written; bad usage exits with 2."""
    out, pipe = tmp_path / "a.jsonl", tmp_path / "pipe"
    os.mkfifo(pipe)
    key = load_features(features).table["key"][0].as_py()
    for words, message in (
        (["--query", "nobody"], "nobody: no tracklet of the features has this key"),
        (["--query", key, "--cameras", 77], "no tracklet is of camera 77; the features have 1, 2"),
        (["--query", key, "--index", "ivfpq"], "wants 9,984 tracklets"),
        (["--query", key, "--cameras", 1, 77], "no tracklet is of camera 77; the features have 1, 2"),
        (["--query", key, "--page", tmp_path], f"{tmp_path}: is a folder"),
        (["--query", key, "--page", pipe], f"{pipe}: is not a regular file"),
        (["--query", key, "--page", out / "b", "--shards", tmp_path], "no dataset.json"),
        (["--query", key, "--threshold", "fpr=0.1"], "no threshold was measured: no run is given (--run)"),
    ):
        status, _, error = search(*words, "--json", out)
        assert status == 1
        assert message in error
        assert not out.is_file()
        shutil.rmtree(out, ignore_errors=True)
    assert pipe.is_fifo()
    assert "error: .: is a folder" in search("--query", key, "--json", "")[2]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("os._exit", lambda status: None)
    assert "start it without accelerate launch" in search("--query", key)[2]
    for words, message in (
        (["--query", key, "--threshold", "2"], "neither a cosine similarity, -1 to 1, nor a name such as fpr=0.01"),
        (["--query", key, "--top", "0"], "0 is below 1"),
        (["--query-shards", str(tmp_path)], "needs --run or --checkpoint"),
        (["--query", key, "--query-features", str(tmp_path)], "not allowed with argument"),
        (["--query", key, "--json", str(out), "--page", str(out)], f"--json and --page are both {out}"),
        (["--query", key, "--port", "80"], "--port is for --serve"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["--features", str(features), *words])
        assert end.value.code == 2
        assert message in capsys.readouterr().err


def test_a_page_is_served_until_ctrl_c(
    search: Callable[..., tuple[int, str, str]], run: Path, features: Path, tiny_shards: Path
) -> None:
    """An upload is embedded by the run, and found; a second server of the port and Ctrl-C are one line each."""
    words = [sys.executable, "launch/search.py", "--features", features, "--run", run, "--serve", "--port"]
    with subprocess.Popen(
        [*map(str, words), "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=PROJECT
    ) as process:
        assert process.stdout
        first = process.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", first)
        assert found, first + process.stdout.read()
        reader = shards.open(tiny_shards)
        form = urllib3.encode_multipart_formdata(
            [("pictures", (f"{n}.jpg", reader.encoded(0, n))) for n in range(int(reader.num_frames[0]))]
        )
        request = urllib.request.Request(f"http://127.0.0.1:{found[1]}/pictures", form[0], {"Content-Type": form[1]})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert f'alt="Rank 1: {reader[0].key}"' in answer.read().decode()
        assert search("--run", run, "--serve", "--port", found[1])[0::2] == (
            1,
            f"error: --port {found[1]}: 127.0.0.1 cannot be served (Address already in use): give another --port\n",
        )
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 0
