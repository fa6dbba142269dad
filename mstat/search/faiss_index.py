"""Search by an index of FAISS, with its recall against exact search; an optional package, `mstat[search]`.

    flat    every item, as exact search, by FAISS's own matrix products; memory: 4 bytes a number
    hnsw    a graph of neighbours (Malkov and Yashunin 2018); memory: as flat, and 256 bytes an item
    ivfpq   inverted lists of product codes (Jegou et al. 2011); memory: at most 64 bytes an item

An index only proposes items: their cosine similarities are computed from the stored features, so a threshold means the
same with each index. Features are normalised and added in blocks.

Shape suffixes: Q queries, B items of a block, D feature dimensions, K nearest items, C items that the index proposes.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.narrow_cone import norm
from mstat.evaluation.ranking import BLOCK, Progress, silent
from mstat.report.progress import Count
from mstat.search.gallery import Gallery
from mstat.search.queries import Queries

Kind = Literal["flat", "hnsw", "ivfpq"]
ROWS = 8192  # items that are added at a time
SAMPLE = 1_000  # most queries of which recall is measured
NEIGHBOURS = 32  # M of HNSW: edges of an item in the graph; twice as many in its lowest layer
BUILD_BREADTH, SEARCH_BREADTH = 100, 256  # efConstruction and efSearch of HNSW
CODE_BYTES = 64  # most bytes of a product code
CENTROIDS = 256  # values of a byte of it
FEWEST_EACH = 39  # items that FAISS wants for each centroid that it learns
FEWEST_PROBES, PROBED = 64, 8  # a query reads one of `PROBED` inverted lists, and at least so many
ROUNDING = 1e-6  # largest difference of two computations of a cosine
PROPOSED = {"flat": 1, "hnsw": 1, "ivfpq": 10}  # proposed items for each that is wanted


@dataclass(frozen=True)
class FaissGallery(Gallery):
    """Features that are searched by an index of FAISS, which `index` builds.

    Attributes:
        kind: Type of the index.

    Raises:
        UserError: If FAISS is missing, or the features are too few for `ivfpq`.
    """

    kind: Kind = "flat"

    def __post_init__(self) -> None:
        _faiss(self.kind)
        num_items, fewest = len(self.saved.table), FEWEST_EACH * CENTROIDS
        if self.kind == "ivfpq" and num_items < fewest:
            raise UserError(
                f"--index ivfpq learns {CENTROIDS} centroids and wants {fewest:,} tracklets, not {num_items:,}: use "
                "--index hnsw, or exact search"
            )

    @cached_property
    def index(self) -> Any:
        """The index with all features.

        Raises:
            UserError: If features are not finite.
        """
        faiss = _faiss(self.kind)
        num_items, dims = self.saved.features_ND.shape
        if self.kind == "flat":
            index = faiss.IndexFlatIP(dims)
        elif self.kind == "hnsw":
            index = faiss.IndexHNSWFlat(dims, NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = BUILD_BREADTH
        else:
            index = self._trained(faiss, num_items, dims)
        with Count(f"{self.kind} index", num_items, "tracklets") as progress:
            for first in range(0, num_items, ROWS):
                index.add(self._unit(torch.arange(first, min(first + ROWS, num_items))).numpy())
                progress.show(min(first + ROWS, num_items))
        return index

    def nearest(
        self,
        query_QD: Tensor,
        k: int,
        *,
        cameras: Sequence[int] | None = None,
        itself: Sequence[int | None] = (),
        progress: Progress = silent,
    ) -> tuple[Tensor, Tensor]:
        """Return what `Gallery.nearest` returns, for the items that the index finds."""
        if query_QD.ndim != 2 or query_QD.shape[1] != self.saved.features_ND.shape[1]:
            raise UserError(
                f"queries of shape {tuple(query_QD.shape)} are not comparable with features of "
                f"{self.saved.features_ND.shape[1]:,} dims"
            )
        query_QD = query_QD.float()
        query_QD = query_QD / norm(query_QD)
        ignored_G = self.ignored(cameras)
        similarity_QK = torch.full((len(query_QD), k), -torch.inf, dtype=torch.float64)
        row_QK = torch.full((len(query_QD), k), -1)
        wanted = min(k * PROPOSED[self.kind] + 1, len(self.camids_G))  # one more: the query itself is left out
        parameters = self._parameters(None if cameras is None else ~ignored_G, wanted)
        # pytorch-metric-learning may replace `search` by one without parameters (faiss.contrib.torch_utils).
        search = getattr(self.index, "search_numpy", self.index.search)
        for first in range(0, len(query_QD), BLOCK):
            query_BD = query_QD[first : first + BLOCK]
            _, row_BC = search(query_BD.numpy(), wanted, params=parameters)
            for place, rows in enumerate(row_BC, start=first):
                own = itself[place] if place < len(itself) else None
                self._choose(query_QD[place], rows[(rows >= 0) & (rows != own)], similarity_QK[place], row_QK[place])
            progress(len(query_BD))
        return similarity_QK, row_QK

    def _choose(self, query_D: Tensor, rows: np.ndarray, similarity_K: Tensor, row_K: Tensor) -> None:
        """Write the nearest of the proposed items, of equal ones the lower row first."""
        row_C = torch.from_numpy(np.sort(rows))
        similarity_C = self._unit(row_C).double() @ query_D.double()
        order_K = similarity_C.argsort(descending=True, stable=True)[: len(row_K)]
        similarity_K[: len(order_K)] = similarity_C[order_K]
        row_K[: len(order_K)] = row_C[order_K]

    def _unit(self, rows: Tensor) -> Tensor:
        """Return features (B, D) fp32 of unit length."""
        features_BD = self.saved.features_ND[rows].float()
        return features_BD / norm(features_BD)

    def _trained(self, faiss: Any, num_items: int, dims: int) -> Any:
        """Return an empty index of inverted lists and product codes, learned on a seeded sample."""
        lists = min(int(4 * math.sqrt(num_items)), num_items // FEWEST_EACH)
        code = max(number for number in range(1, CODE_BYTES + 1) if dims % number == 0)
        index = faiss.IndexIVFPQ(faiss.IndexFlatIP(dims), dims, lists, code, 8, faiss.METRIC_INNER_PRODUCT)
        generator = torch.Generator().manual_seed(0)
        sample = torch.randperm(num_items, generator=generator)[: FEWEST_EACH * max(lists, CENTROIDS)]
        with Count(f"{lists:,} lists and codes of {code} bytes, learned on {len(sample):,} tracklets"):
            index.train(self._unit(sample.sort().values).numpy())
        return index

    def _parameters(self, kept_G: Tensor | None, wanted: int) -> Any:
        faiss = _faiss(self.kind)
        options: dict[str, Any] = {}
        if kept_G is not None:
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(kept_G.numpy(), bitorder="little"))
        if self.kind == "flat":
            return faiss.SearchParameters(**options)
        if self.kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(SEARCH_BREADTH, 2 * wanted), **options)
        return faiss.SearchParametersIVF(nprobe=max(FEWEST_PROBES, self.index.nlist // PROBED), **options)


def recall(gallery: FaissGallery, queries: Queries, k: int, cameras: Sequence[int] | None = None) -> str:
    """Measure the recall of an index against exact search, on a seeded sample of the queries; return it in words.

    Recall is the share of the `k` nearest items of exact search, or of all if there are fewer, that the index finds. Of
    items that are as similar as the farthest of them, the row does not matter.
    """
    num, k = len(queries.table), min(k, len(gallery.camids_G))
    sample_B = torch.randperm(num, generator=torch.Generator().manual_seed(0))[:SAMPLE].sort().values
    query_BD, itself = queries.features(sample_B), [queries.rows[place] for place in sample_B.tolist()]
    with Count("recall, by exact search", len(sample_B), "queries") as progress:
        exact_BK, _ = Gallery(gallery.saved).nearest(
            query_BD, k, cameras=cameras, itself=itself, progress=progress.advance
        )
    found_BK, _ = gallery.nearest(query_BD, k, cameras=cameras, itself=itself)
    num_B = (exact_BK > -torch.inf).sum(dim=1)
    farthest_B1 = exact_BK.gather(1, (num_B - 1).clamp(min=0)[:, None])
    found_B = ((found_BK >= farthest_B1 - ROUNDING) & (found_BK > -torch.inf)).sum(dim=1).minimum(num_B)
    share = float(found_B.sum() / num_B.sum().clamp(min=1))
    total = f"{num:,} {'query' if num == 1 else 'queries'}"
    sampled = total if len(sample_B) == num else f"a sample of {len(sample_B):,} of {total}"
    return f"recall@{k} of {gallery.kind} against exact search: {100 * share:.1f} %, on {sampled}"


def _faiss(kind: str) -> Any:
    # After torch: both carry an OpenMP, and the first one that is loaded serves both.
    try:
        return importlib.import_module("faiss")
    except ImportError:
        raise UserError(f"--index {kind} needs the package faiss-cpu: pip install 'mstat[search]'") from None
