"""Exact search: the order of all cosines, cameras, thresholds, and a query that is in the gallery itself."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from mstat.errors import UserError
from mstat.evaluation.saved_features import SCHEMA, SavedFeatures
from mstat.search.gallery import Gallery


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    num = 700
    features_ND = torch.randn(num, 24, generator=torch.Generator().manual_seed(0))
    numbers = list(range(num))
    columns = {
        "index": numbers, "key": [f"t{n:04}" for n in numbers], "pid": [n // 5 for n in numbers],
        "camid": [n % 3 for n in numbers], "outfit": [-1] * num, "num_frames": [4] * num,
        "query": [False] * num, "gallery": [False] * num, "junk": [False] * num,
    }  # fmt: skip
    return Gallery(SavedFeatures(features_ND, pa.table(columns, schema=SCHEMA), {"ignore": None}))


def test_hits_are_the_nearest_of_all(gallery: Gallery) -> None:
    query_QD = torch.randn(1_100, 24, generator=torch.Generator().manual_seed(1))  # more than a block
    normal = torch.nn.functional.normalize
    similarity_QG = normal(query_QD.double()) @ normal(gallery.saved.features_ND.double()).T
    expected, row_QK = similarity_QG.topk(10)
    found, rows = gallery.nearest(query_QD, 10)
    assert torch.equal(rows, row_QK)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_cameras_threshold_and_itself(gallery: Gallery) -> None:
    rows = gallery.rows_of(["t0004", "t0300"])
    query_QD = gallery.saved.features_ND[rows]
    with_itself = gallery.search(query_QD, 5)
    assert [hits[0].row for hits in with_itself] == rows == [4, 300]
    assert [hits[0].key for hits in with_itself] == ["t0004", "t0300"]
    assert [hit.rank for hit in with_itself[0]] == [1, 2, 3, 4, 5]
    without = gallery.search(query_QD, 4, itself=rows)
    assert [[hit.row for hit in hits] for hits in without] == [[hit.row for hit in hits[1:]] for hits in with_itself]
    alone = gallery.search(query_QD[:1], 5, itself=[None])[0]  # a single query is a narrow cone, so it rounds otherwise
    assert [hit.row for hit in alone] == [hit.row for hit in with_itself[0]]
    assert {hit.camid for hit in gallery.search(query_QD, 700, cameras=[2])[0]} == {2}
    assert len(gallery.search(query_QD, 700, cameras=[2])[0]) == 233
    assert len(gallery.search(query_QD, 10**12)[0]) == 700  # no memory for more than there are
    limit = with_itself[0][2].similarity
    assert [hit.rank for hit in gallery.search(query_QD, 5, threshold=limit)[0]] == [1, 2, 3]
    assert gallery.search(query_QD, 5, threshold=0.9999, itself=rows) == [[], []]


def test_what_cannot_be_searched_is_refused(gallery: Gallery) -> None:
    with pytest.raises(UserError, match="t9: no tracklet of the features has this key"):
        gallery.rows_of(["t0001", "t9"])
    with pytest.raises(UserError, match="no tracklet is of camera 7; the features have 0, 1, 2"):
        gallery.search(torch.ones(1, 24), 5, cameras=[1, 7])
    with pytest.raises(UserError, match="equal dimensions"):
        gallery.search(torch.ones(1, 25), 5)
    with pytest.raises(UserError, match="not finite"):
        gallery.search(torch.full((1, 24), torch.nan), 5)
