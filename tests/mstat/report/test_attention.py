"""Figs. 10 to 12 in the report of a run whose model and shards are there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml

from mstat.config import ModelConfig
from mstat.model import MSTAT
from mstat.report.html import write_report
from mstat.weights.export import export
from shards.read import Reader
from tests.mstat.report.conftest import TRACKLETS
from tests.mstat.report.test_html import Page

SMALL = ModelConfig(
    image_size=(32, 16), patch_size=8, width=32, num_heads=2, depths=(1, 1, 1), num_attributes=5,
    num_temporal_attributes=3, num_prototypes=4,
)  # fmt: skip
KEYS = list(TRACKLETS)


def give_model(run: Path, model: ModelConfig = SMALL) -> None:
    torch.manual_seed(0)
    weights = {f"model.{name}": value for name, value in MSTAT(model).state_dict().items()}
    export(run, weights, model)


@pytest.fixture
def learned(lean: Path) -> Path:
    """A run folder with a model, points in the plane, and cameras; it wants pictures."""
    give_model(lean)
    (lean / "config.yaml").write_text(yaml.safe_dump({"seed": 7, "eval": {"pictures": True}}))
    evaluation = json.loads((lean / "evaluation.json").read_text())
    evaluation["cameras"] = [
        {"query": query, "gallery": 3 - query, "num_valid_query": 10 * query, "rank1": rank1}
        for query, rank1 in ((1, 0.25), (2, 0.875))
    ]
    evaluation["distances"] = {"cosine": {"intra": 0.25, "intra_correct": 0.2, "inter": 0.5, "inter_mean": None}}
    (lean / "evaluation.json").write_text(json.dumps(evaluation))
    points = {"points": [[0, 0], [1, 1], [5, 5]], "pids": [1, 1, 2]}
    (lean / "embedding.json").write_text(json.dumps(points))
    return lean


def test_chosen_proxies_in_chosen_tracklets(learned: Path, reader: Reader) -> None:
    """One picture a tracklet, its consecutive frames named, the proxies in the order asked for, one colour each in all
    of them; what an earlier report left of other tracklets is gone."""
    (learned / "figures").mkdir()
    (learned / "figures" / "attention-old.jpg").touch()
    page = Page(write_report(learned, reader, proxies=[3, 1], tracklets=KEYS[:2]))
    files = {path.name for path in (learned / "figures").iterdir()}
    assert files == {
        "proxies.svg", "embedding.svg", "cameras.svg", "failures.jpg",
        f"attention-{KEYS[0]}.jpg", f"attention-{KEYS[1]}.jpg",
    }  # fmt: skip
    alts = [alt for alt in page.values("alt") if "attention of attributes of Stage I" in alt]
    assert [alt.split(";")[0] for alt in alts] == [f"Frames 1 to 4 of {key}" for key in KEYS[:2]]
    for alt in alts:
        assert "orange: proxy 3, " in alt
        assert "; blue: proxy 1, " in alt
        assert "green" not in alt


def test_without_a_choice(learned: Path, reader: Reader) -> None:
    """Four proxies, whatever the number of colours, or as many as there are; no query, no picture."""
    page = Page(write_report(learned, reader, tracklets=KEYS[:1]))
    assert sum("proxy " in alt and alt.count(": proxy") == 4 for alt in page.values("alt")) == 1
    give_model(learned, dataclasses.replace(SMALL, num_attributes=2))
    page = Page(write_report(learned, reader, tracklets=KEYS[:1]))
    assert sum(alt.count(": proxy") == 2 for alt in page.values("alt")) == 1
    page = Page(write_report(learned, reader))
    assert not any(": proxy" in alt for alt in page.values("alt"))
    assert "between two of them" in page.text


def test_what_is_not_there_is_refused(learned: Path, reader: Reader) -> None:
    """A proxy, a tracklet, attributes or weights that a run does not have: told before anything is written."""
    for choice, message in (
        ({"proxies": [5]}, "no proxy 5; proxies are 0 to 4"),
        ({"proxies": [-1]}, "no proxy -1"),
        ({"tracklets": ["0009C1T0001"]}, "no tracklet '0009C1T0001'; its keys look like '0001C1T0001'"),
    ):
        with pytest.raises(ValueError, match=message):
            write_report(learned, reader, **choice)
    with pytest.raises(ValueError, match=r"No frames: config\.yaml does not name the shards"):
        write_report(learned, tracklets=KEYS[:1])
    give_model(learned, dataclasses.replace(SMALL, stage1_aap=False))
    with pytest.raises(ValueError, match="no attributes"):
        write_report(learned, reader, proxies=[0])
    (learned / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: no such file"):
        write_report(learned, reader, proxies=[0])
    assert not (learned / "report.html").exists()
    page = Page(write_report(learned, reader))
    assert "model.safetensors: no such file" in page.text


def test_cameras_plane_and_distances(learned: Path, reader: Reader) -> None:
    """Each figure says in words what it shows; the matrix is a table, too, with its numbers of queries."""
    page = Page(write_report(learned, reader))
    assert "best from 2 in 1, 87.5 % and worst from 1 in 2, 25.0 %" in page.text
    assert "from 1 – 25.0 / – of 10 from 2 87.5 / – of 20 –" in page.text
    assert "3 tracklets of 2 people" in page.text
    assert "cosine 0.2500 0.2000 0.5000 –" in page.text
    ids = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert ids == [
        "scores",
        "cmc",
        "training",
        "cameras",
        "embedding",
        "distances",
        "attributes",
        "failures",
        "settings",
    ]


def test_pictures_are_not_wanted(learned: Path, reader: Reader) -> None:
    """With `eval.pictures` false there are none, unless they are asked for."""
    (learned / "config.yaml").write_text(yaml.safe_dump({"eval": {"pictures": False}}))
    assert "similarity of the 5 attribute proxies" not in Page(write_report(learned, reader)).text
    assert "similarity of the 5 attribute proxies" in Page(write_report(learned, reader, proxies=[0])).text
