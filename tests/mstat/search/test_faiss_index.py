"""Indexes of FAISS: exact similarities of what they find, cameras, the query itself, recall."""

from __future__ import annotations

import importlib
import sys

import pyarrow as pa
import pytest
import torch

from mstat.errors import UserError
from mstat.evaluation.saved_features import SCHEMA, SavedFeatures
from mstat.search.faiss_index import FaissGallery, Kind, recall
from mstat.search.gallery import Gallery
from mstat.search.queries import from_keys


def made(num: int, dims: int) -> SavedFeatures:
    """Features of persons with five tracklets each, in fp16."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(num // 5, dims, generator=generator).repeat_interleave(5, dim=0)
    features_ND = own + 0.3 * torch.randn(num, dims, generator=generator)
    numbers = list(range(num))
    columns = {
        "index": numbers, "key": [f"t{n:05}" for n in numbers], "pid": [n // 5 for n in numbers],
        "camid": [n % 3 for n in numbers], "outfit": [-1] * num, "num_frames": [4] * num,
        "query": [False] * num, "gallery": [False] * num, "junk": [False] * num,
    }  # fmt: skip
    return SavedFeatures(features_ND.half(), pa.table(columns, schema=SCHEMA), {"ignore": None})


@pytest.fixture(scope="module")
def saved() -> SavedFeatures:
    importlib.import_module("pytorch_metric_learning.utils.inference")  # it replaces methods of FAISS
    return made(10_000, 24)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_an_index_finds_the_persons(saved: SavedFeatures, kind: Kind) -> None:
    """Its hits have the similarities of exact search, which few of them miss; cameras and the query itself count."""
    keys = [f"t{n:05}" for n in range(0, 10_000, 97)]
    gallery, exact = FaissGallery(saved, kind), Gallery(saved)
    queries = from_keys(exact, keys)
    query_QD = queries.features(slice(None))
    found_QK, row_QK = gallery.nearest(query_QD, 4, itself=queries.rows)
    assert not (row_QK == torch.tensor(queries.rows)[:, None]).any()
    expected_QK, exact_QK = exact.nearest(query_QD, 4, itself=queries.rows)
    share = float((row_QK == exact_QK).double().mean())
    assert share == 1 if kind == "flat" else share > 0.9
    same = row_QK == exact_QK
    torch.testing.assert_close(found_QK[same], expected_QK[same], atol=1e-6, rtol=0)
    assert (found_QK.diff(dim=1) <= 0).all()
    assert gallery.search(query_QD[:1], 1, itself=queries.rows[:1])[0][0].pid == 0

    (hits,) = gallery.search(query_QD[:1], 30, cameras=[1])
    assert {hit.camid for hit in hits} == {1}
    text = recall(gallery, queries, 4)
    assert text.startswith(f"recall@4 of {kind} against exact search: ")
    assert text.endswith(f" %, on {len(keys)} queries")
    assert float(text.split(": ")[1].split(" %")[0]) >= (100 if kind == "flat" else 90)


def test_recall_counts_what_is_missing(saved: SavedFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that proposes too few items, or items of the wrong half, has a lower recall, from a sample."""
    monkeypatch.setattr("mstat.search.faiss_index.SAMPLE", 50)
    gallery = FaissGallery(saved, "flat")
    queries = from_keys(gallery, [f"t{n:05}" for n in range(0, 10_000, 100)])
    whole = gallery.index
    half = type(whole)(whole.d)
    half.add(gallery._unit(torch.arange(5_000)).numpy())
    gallery.__dict__["index"] = half
    text = recall(gallery, queries, 1)
    assert text.endswith(" %, on a sample of 50 of 100 queries")
    assert 20 < float(text.split(": ")[1].split(" %")[0]) < 80


def test_more_hits_than_tracklets_and_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are padded; too few tracklets, features of other dims or not finite and a missing package are refused."""
    small = made(10, 8)
    gallery = FaissGallery(small, "flat")
    similarity_QK, row_QK = gallery.nearest(small.features_ND[:2].float(), 20)
    assert (row_QK >= 0).sum(dim=1).tolist() == [10, 10]
    assert (similarity_QK[row_QK < 0] == -torch.inf).all()
    assert recall(gallery, from_keys(gallery, ["t00000"]), 10**12).startswith("recall@10 of flat")
    assert len(gallery.search(small.features_ND[:1].float(), 20, threshold=0.0)[0]) < 20
    with pytest.raises(UserError, match="wants 9,984 tracklets, not 10"):
        FaissGallery(small, "ivfpq")
    with pytest.raises(UserError, match="not comparable with features of 8 dims"):
        gallery.nearest(torch.ones(1, 9), 1)
    with pytest.raises(UserError, match="not finite"):
        FaissGallery(SavedFeatures(small.features_ND * torch.inf, small.table, {}), "hnsw").index  # noqa: B018
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"--index hnsw needs the package faiss-cpu: pip install 'mstat\[search\]'"):
        FaissGallery(small, "hnsw")
