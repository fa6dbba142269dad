"""Re-ranking compared with torchreid's: equality, time and peak memory: `make bench-reranking`.

It re-ranks made-up features at the size of MARS, by torchreid's `re_ranking` and by mstat from the same distances, and
by mstat from the features. It also re-ranks a gallery of 100,000, where torchreid would hold several matrices of 41 GB,
so its memory is only computed. It needs 8 GB of memory, and as much for torchreid.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.harness import Figure, call_elsewhere, forget_peak, load_file, resident, run_main, save, table
from mstat.evaluation.metrics import cmc_map_from_distances
from mstat.evaluation.reranking import rerank, rerank_distances

QUERIES, MARS, LARGE = 1_980, 11_310, 100_000
DIMS = 2_304  # three stages of 768
IDENTITY = 12  # tracklets of an identity in the mean
LATENT, NOISE = 64, 1.0  # drawn features: dimensions of an identity's vector, scale of a tracklet's noise
# Arrays (N, N) of 4 bytes that torchreid holds at its peak, as its code reads: distances, V, ranks, first in int64.
MATRICES = 5
THREADS = torch.get_num_threads()
MIB, GIB = 2**20, 2**30


class Measured(NamedTuple):
    """One re-ranking.

    Attributes:
        seconds: From the arguments to the distances.
        peak: Most bytes of memory beside the arguments.
        arguments: Bytes of the arguments.
        map: mAP after re-ranking.
    """

    seconds: float
    peak: int
    arguments: int
    map: float


def main() -> None:
    theirs, ours = (Measured(*call_elsewhere(from_distances, MARS, name)) for name in ("torchreid", "mstat"))
    difference = call_elsewhere(largest_difference, MARS)
    features, large = (Measured(*call_elsewhere(from_features, num)) for num in (MARS, LARGE))
    plain = call_elsewhere(plain_map, MARS)
    rows = [
        [name, f"{m.seconds:.1f}", f"{m.peak / MIB:,.0f}", f"{m.arguments / MIB:,.0f}", f"{100 * m.map:.2f}"]
        for name, m in (
            ("torchreid 0.2.5, from distances", theirs),
            ("mstat, from the same distances", ours),
            ("mstat, from features", features),
            (f"mstat, from features, {LARGE:,}", large),
        )
    ]
    estimate = MATRICES * 4 * (QUERIES + LARGE) ** 2
    text = (
        f"{QUERIES:,} queries, {MARS:,} gallery items (the size of MARS) or {LARGE:,}; {DIMS:,} made-up features, "
        f"{IDENTITY} tracklets of an identity in the mean; k1 20, k2 6, lambda 0.3; {THREADS} threads, each row one "
        "run in a process of its own. Memory is the highest resident set beside the arguments, which are the matrices "
        f"of distances or the features. mAP without re-ranking at the size of MARS: {100 * plain:.2f}. The largest "
        f"difference between torchreid's distances and ours, from the same matrices: **{difference:.1e}**. At "
        f"{LARGE:,}, torchreid was not run: its {MATRICES} matrices (N, N) of 4 bytes take {estimate / GIB:,.0f} GiB."
    )
    head = ["re-ranking", "seconds", "memory, MiB", "arguments, MiB", "mAP"]
    what = f"re-ranking, {QUERIES:,} x {MARS:,}, from distances"
    at_large = f"re-ranking, {QUERIES:,} x {LARGE:,} x {DIMS:,}, memory beside the features"
    figures = [
        Figure(what, f"{ours.seconds:.1f} s", "torchreid", f"{theirs.seconds:.1f} s", theirs.seconds / ours.seconds),
        Figure(
            f"{what}, memory beside them",
            f"{ours.peak / MIB:,.0f} MiB",
            "torchreid",
            f"{theirs.peak / MIB:,.0f} MiB",
            theirs.peak / ours.peak,
        ),
        Figure(
            at_large,
            f"{large.peak / GIB:.1f} GiB, {large.seconds:.0f} s",
            "torchreid, computed",
            f"{estimate / GIB:,.0f} GiB",
            estimate / large.peak,
            "8 GB with the features",
        ),
    ]
    save("reranking", "Re-ranking", text, table(head, rows), figures=figures)


def features(num_gallery: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Draw features (Q, D) and (G, D), and the identities of all."""
    generator = torch.Generator().manual_seed(0)
    num_items = QUERIES + num_gallery
    pids = torch.randint(0, num_items // IDENTITY, (num_items,), generator=generator)
    own = torch.randn(num_items // IDENTITY, LATENT, generator=generator)
    projection = torch.randn(LATENT, DIMS, generator=generator)
    items = torch.empty(num_items, DIMS)
    for rows, of_rows in zip(items.split(4096), pids.split(4096), strict=True):
        latent = own[of_rows] + NOISE * torch.randn(len(rows), LATENT, generator=generator)
        torch.mm(latent, projection, out=rows)
    return items[:QUERIES], items[QUERIES:], pids.numpy()


def distances(num_gallery: int) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Return Euclidean distances of unit features (Q, G), (Q, Q) and (G, G), and the identities."""
    query_QD, gallery_GD, pids = features(num_gallery)
    query_QD, gallery_GD = (torch.nn.functional.normalize(side) for side in (query_QD, gallery_GD))
    pairs = (query_QD, gallery_GD), (query_QD, query_QD), (gallery_GD, gallery_GD)
    first, second, third = (torch.mm(a, b.T).mul_(-2).add_(2).clamp_(min=0).sqrt_().numpy() for a, b in pairs)
    return (first, second, third), pids


def mean_average_precision(distance_QG: np.ndarray, pids: np.ndarray) -> float:
    """Score distances; queries and gallery have different cameras."""
    cameras = np.zeros(QUERIES, int), np.ones(distance_QG.shape[1], int)
    scores = cmc_map_from_distances(distance_QG, pids[:QUERIES], cameras[0], pids[QUERIES:], cameras[1])
    return float(scores["mAP"])


def from_distances(num_gallery: int, name: str) -> Measured:
    """Measure a re-ranking of given distances."""
    matrices, pids = distances(num_gallery)
    function = load_file("torchreid", "reid/utils/rerank.py").re_ranking if name == "torchreid" else rerank_distances
    before = resident("VmRSS")
    forget_peak()
    began = time.perf_counter()
    result = function(*matrices)
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    return Measured(seconds, peak, sum(matrix.nbytes for matrix in matrices), mean_average_precision(result, pids))


def from_features(num_gallery: int) -> Measured:
    """Measure a re-ranking of features."""
    query_QD, gallery_GD, pids = features(num_gallery)
    before = resident("VmRSS")
    forget_peak()
    began = time.perf_counter()
    result = rerank(query_QD, gallery_GD)
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    return Measured(seconds, peak, query_QD.nbytes + gallery_GD.nbytes, mean_average_precision(result, pids))


def largest_difference(num_gallery: int) -> float:
    """Return the largest difference between torchreid's re-ranked distances and ours, after a check of 1e-5."""
    matrices, _ = distances(num_gallery)
    theirs = load_file("torchreid", "reid/utils/rerank.py").re_ranking(*matrices)
    difference = float(np.abs(theirs - rerank_distances(*matrices)).max())
    assert difference <= 1e-5, difference
    return difference


def plain_map(num_gallery: int) -> float:
    """Return the mAP without re-ranking."""
    matrices, pids = distances(num_gallery)
    return mean_average_precision(matrices[0], pids)


if __name__ == "__main__":
    run_main(main, __doc__)
