"""`launch/push.py` and `mstat.load` against a stand-in for the Hub: a model goes there and comes back with its bits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file

import mstat
from launch.push import main
from mstat.errors import UserError
from tests.conftest import PROJECT
from tests.helpers.hub import TOKEN, Hub

FILES = {"README.md", "config.yaml", "evaluation.json", "model.json", "model.safetensors"}
# Loads each name, and prints a sum of the model's weights, or the error.
LOAD = """
import sys, mstat
for name in sys.argv[1:]:
    try:
        print(name, sum(float(value.double().sum()) for value in mstat.load(name).state_dict().values()))
    except mstat.errors.UserError as error:
        print(error)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    serving = Hub()
    yield serving
    serving.shutdown()
    serving.server_close()


def test_a_model_goes_to_the_hub_and_comes_back(hub: Hub, reference: Path, tmp_path: Path) -> None:
    """It is pushed with a token alone, twice as well; loaded by name and revision, and offline from the cache; what is
    no model, or behind a gate, or not there is said in a line, and no other file is fetched."""

    def python(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = hub.environment(tmp_path / "cache", PYTHONPATH=str(PROJECT), **variables)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [sys.executable, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    push = [PROJECT / "launch/push.py", "--run", reference, "--to", "org/model", "--licence", "apache-2.0"]
    refused = python(*push)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "hf://org/model: the Hub refuses it; with a token that" in refused.stderr
    for _ in range(2):
        done = python(*push, HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"pushed: {hub.url}/org/model/commit/")
        assert TOKEN not in done.stdout + done.stderr
    files = hub.repositories["org/model"]
    assert set(files) == FILES
    assert ModelCard(files["README.md"].decode()).data.to_dict()["license"] == "apache-2.0"

    others = ("pytorch_model.bin", "modeling.py", "../model.json", "../../model.safetensors", "a/model.json")
    hub.repositories["org/code"] = dict.fromkeys(others, b"raise SystemExit")
    weights = files["model.safetensors"]
    hub.repositories["org/damaged"] = {**files, "model.safetensors": weights[:-1] + bytes([weights[-1] ^ 1])}
    hub.repositories["org/gated"] = files
    hub.gated.add("org/gated")
    hub.asked.clear()
    names = [
        "org/model",
        "hf://org/model@main",
        "org/model@v9",
        "org/none",
        "org/code",
        "org/gated",
        "org/damaged",
        "hf://model",
        "hf://org/model@../../../refs",
    ]
    lines = python("-c", f"import mstat.errors{LOAD}", *names).stdout.splitlines()
    total = sum(float(value.double().sum()) for value in mstat.load(reference).state_dict().values())
    assert lines[:2] == [f"{name} {total}" for name in names[:2]]
    for line, message in zip(
        lines[2:],
        (
            "org/model@v9: no such file or folder here; on the Hub: hf://org/model@v9: no such branch, tag or commit",
            "org/none: no such file or folder here; on the Hub: hf://org/none: no such repository, or it is private",
            "org/code: no such file or folder here; on the Hub: hf://org/code: no model.safetensors and no model.json",
            "org/gated: no such file or folder here; on the Hub: hf://org/gated: access must be granted",
            f"{tmp_path / 'cache'}/hub/models--org--damaged/snapshots/",
            "hf://model: not a repository: write hf://organisation/name",
            "hf://org/model@../../../refs: not a repository",
        ),
        strict=True,
    ):
        assert line.startswith(message)
    assert "copy it again (a copy from the Hub: `hf cache rm model/org/damaged` removes it from the cache)" in lines[6]
    fetched = {path.split("/resolve/")[1].partition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert fetched == {"model.safetensors", "model.json"}

    hub.asked.clear()
    lines = python("-c", f"import mstat.errors{LOAD}", "org/model", "org/none", HF_HUB_OFFLINE="1").stdout.splitlines()
    assert lines[0] == f"org/model {total}"
    assert "hf://org/none: not in the cache, and the Hub was not reached" in lines[1]
    assert not hub.asked


def test_a_second_push(
    hub: Hub, reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing goes to a public repository with --private; scores of an earlier model do not stay, all else does."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # read from HF_ENDPOINT at import
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    push = ["--run", str(reference), "--checkpoint", "15", "--to"]
    earlier = {"evaluation.json": b"{}", "notes.md": b"mine"}
    hub.repositories["org/public"] = dict(earlier)
    assert main([*push, "org/public", "--private"]) == 1
    assert "hf://org/public: exists and is public, so nothing was sent: make it private" in capsys.readouterr().err
    assert hub.repositories["org/public"] == earlier
    assert main([*push, "org/public"]) == 0
    assert set(hub.repositories["org/public"]) == FILES - {"evaluation.json"} | {"notes.md"}
    for _ in range(2):
        assert main([*push, "org/private", "--private"]) == 0
    assert hub.private == {"org/private"}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    assert main([*push, "org/public"]) == 1
    assert "Connection refused: check the network, then try again" in capsys.readouterr().err


def test_a_folder_for_others(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the same model, no path of this machine, and a card with scores, intervals, seed, commit and versions."""
    out = tmp_path / "model"
    out.mkdir()  # an empty folder is taken
    assert main(["--run", str(reference), "--out", str(out)]) == 0
    assert "the card states no licence" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    ours, theirs = load_file(out / "model.safetensors"), load_file(reference / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert mstat.load(out).embedding == mstat.load(reference).embedding
    for path in out.iterdir():
        assert str(reference.parent).encode() not in path.read_bytes()
        assert str(PROJECT).encode() not in path.read_bytes()
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["shards"] == "shards"

    evaluation = json.loads((reference / "evaluation.json").read_text())
    environment = json.loads((reference / "environment.json").read_text())
    card = ModelCard.load(out / "README.md")
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results or []}
    assert scores["mAP"] == round(100 * evaluation["mAP"], 2)
    low, high = evaluation["intervals"]["mAP"]
    for text in (
        f"| mAP | {100 * evaluation['mAP']:.1f} | {100 * low:.1f}–{100 * high:.1f} |",
        "Not comparable with published scores",
        "| seed | 0 |",
        f"| commit of mstat | {environment['commit'] or 'unknown'} |",
        f"torch {environment['versions']['torch']}",
        "They were trained from scratch.",
        "What it must not be used for",
    ):
        assert text in card.text


def test_names_of_a_stranger_are_text(reference: Path, tmp_path: Path) -> None:
    """Names and warnings of a data set stay text on the card, and of its URL only the name is written; scores that
    lack a part are refused by file and key."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("model.json", "model.safetensors"):
        (run / name).symlink_to(reference / name)
    settings = yaml.safe_load((reference / "config.yaml").read_text())
    settings["data"]["shards"] = "https://user:secret@host/mars?signature=secret"
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    evaluation = json.loads((reference / "evaluation.json").read_text())
    evaluation["dataset"]["name"] = "<img src=x>\n# [a](http://b) | c"
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    mstat.save_pretrained(run, tmp_path / "model")
    assert yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())["data"]["shards"] == "mars"
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert r"\<img src=x\> \# \[a\](http://b) \| c, protocol official" in card.text
    assert "<img" not in card.text.replace(r"\<img", "")
    del evaluation["num_gallery"]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(UserError, match=r"evaluation.json: it lacks num_gallery: evaluate the run again"):
        mstat.save_pretrained(run, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_weights_of_a_checkpoint_have_no_scores(reference: Path, tmp_path: Path) -> None:
    mstat.save_pretrained(reference, tmp_path / "model", checkpoint="15")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Not measured: these are the weights of step-000000015" in card
    assert not (tmp_path / "model" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "give --to ORG/NAME to push, or --out FOLDER"),
        (["--out", "o", "--private"], 2, "--private: of a repository"),
        (["--to", "name"], 1, "--to name: not a repository: write organisation/name"),
        (["--to", "a/b@main"], 1, "--to a/b@main: not a repository"),
        (["--out", "."], 1, "exists, and is not an empty folder"),
        (["--out", "o", "--init-licence", "mit"], 1, "the run has no start weights (model.init): leave it out"),
        (["--out", "o", "--checkpoint", "3"], 1, "not a checkpoint"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str],
    status: int,
    message: str,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit) as end:
        sys.exit(main(["--run", str(reference), *flags]))
    assert end.value.code == status
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
