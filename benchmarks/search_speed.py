"""Exact search compared with FAISS's flat index at a million features, time and memory: `make bench-search`.

Both search the same made-up features, which are in memory, for 1,000 queries and their 20 nearest. FAISS copies the
features of unit length into its index, which counts as its time and memory. It needs 8 GB of memory.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import torch

from benchmarks.harness import Figure, call_elsewhere, forget_peak, resident, run_main, save, table
from mstat.evaluation.saved_features import SCHEMA, SavedFeatures
from mstat.search.gallery import Gallery

QUERIES, ITEMS, DIMS, TOP = 1_000, 1_000_000, 512, 20
IDENTITY = 12  # tracklets of an identity
LATENT = 64  # dimensions of an identity's vector
ROWS = 8192  # features that are drawn, or added to FAISS's index, at a time
THREADS = torch.get_num_threads()
MIB = 2**20


class Measured(NamedTuple):
    """One search.

    Attributes:
        build: Seconds until features can be searched.
        search: Seconds of the search for all queries.
        peak: Most bytes of memory beside the features.
        rows: Rows found for each query.
    """

    build: float
    search: float
    peak: int
    rows: list[list[int]]


def main() -> None:
    names = {"mstat float32": (ours, "float32"), "mstat float16": (ours, "float16"), "faiss": (flat, "float32")}
    measured = {name: Measured(*call_elsewhere(*call)) for name, call in names.items()}
    exact, half, theirs = measured.values()
    equal = np.mean([len(set(a) & set(b)) / TOP for a, b in zip(exact.rows, theirs.rows, strict=True)])
    version = f"faiss-cpu {faiss.__version__}"
    rows = [
        [name, f"{m.build:.1f}", f"{m.search:.1f}", f"{m.peak / MIB:,.0f}"]
        for name, m in (
            ("mstat, float32", exact),
            ("mstat, float16", half),
            (f"{version}, IndexFlatIP, float32", theirs),
        )
    ]
    text = (
        f"{QUERIES:,} queries, {ITEMS:,} made-up features of {DIMS} dims, the {TOP} nearest; {THREADS} threads, each "
        f"row one run in a process of its own. Memory is the highest resident set beside the features, which take "
        f"{4 * ITEMS * DIMS / MIB:,.0f} MiB in float32. {100 * equal:.2f} % of the rows that mstat finds are those of "
        "FAISS."
    )
    what = f"exact search, {QUERIES:,} x {ITEMS:,} x {DIMS}"
    ours_s, theirs_s = exact.build + exact.search, theirs.build + theirs.search
    figures = [
        Figure(what, f"{ours_s:.1f} s", version, f"{theirs_s:.1f} s", theirs_s / ours_s),
        Figure(
            f"{what}, memory beside the features",
            f"{exact.peak / MIB:,.0f} MiB",
            version,
            f"{theirs.peak / MIB:,.0f} MiB",
            theirs.peak / exact.peak,
        ),
    ]
    save("search", "Search", text, table(["search", "seconds to build", "seconds to search", "memory, MiB"], rows),
         figures=figures)  # fmt: skip


def features(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw features of queries (Q, D) fp32 and of the gallery (G, D)."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(ITEMS // IDENTITY, LATENT, generator=generator)
    projection = torch.randn(LATENT, DIMS, generator=generator)
    gallery_GD = torch.empty(ITEMS, DIMS, dtype=dtype)

    def drawn(rows: torch.Tensor) -> torch.Tensor:
        return (own[rows % len(own)] + torch.randn(len(rows), LATENT, generator=generator)) @ projection

    for first in range(0, ITEMS, ROWS):
        part = gallery_GD[first : first + ROWS]
        part.copy_(drawn(torch.arange(first, first + len(part))))
    return drawn(torch.arange(QUERIES)), gallery_GD


def ours(name: str) -> Measured:
    """Measure mstat's exact search."""
    query_QD, gallery_GD = features(getattr(torch, name))
    zeros = pa.array(np.zeros(ITEMS, np.int64))
    columns = {field.name: zeros.cast(field.type) for field in SCHEMA}
    gallery = Gallery(SavedFeatures(gallery_GD, pa.table(columns, schema=SCHEMA), {}))
    before = resident("VmRSS")
    forget_peak()
    began = time.perf_counter()
    _, row_QK = gallery.nearest(query_QD, TOP)
    return Measured(0.0, time.perf_counter() - began, resident("VmHWM") - before, row_QK.tolist())


def flat(name: str) -> Measured:
    """Measure FAISS's flat index."""
    query_QD, gallery_GD = features(getattr(torch, name))
    normal = torch.nn.functional.normalize
    before = resident("VmRSS")
    forget_peak()
    began = time.perf_counter()
    index = faiss.IndexFlatIP(DIMS)
    for part in gallery_GD.split(ROWS):
        index.add(normal(part).numpy())
    built = time.perf_counter()
    _, row_QK = index.search(normal(query_QD).numpy(), TOP)
    return Measured(built - began, time.perf_counter() - built, resident("VmHWM") - before, row_QK.tolist())


if __name__ == "__main__":
    run_main(main, __doc__)
