"""Speed of evaluation compared with rivals and limits: `make bench-evaluation`.

With the identities and cameras of MARS (../shared/data, or MSTAT_SHARED), it compares the ranking with torchreid's on
one matrix of distances, and distances and ranking with the matrix product alone. It also measures a gallery of a
million, verification compared with scikit-learn, and the extraction of features compared with the model alone. It needs
8 GB of memory.

torchreid's packages lack the source of its compiled ranker; pyppbox-torchreid contains the compiled file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import torch

from benchmarks.extraction_speed import extraction
from benchmarks.harness import (
    SHARED,
    Figure,
    call_elsewhere,
    forget_peak,
    in_turn,
    load_file,
    medians,
    resident,
    run_main,
    save,
    table,
)
from benchmarks.verification_speed import verifying
from mstat.evaluation.matches import make_pairs
from mstat.evaluation.metrics import cmc_map, cmc_map_from_distances
from mstat.evaluation.ranking import count_similarities
from mstat.evaluation.verification import BINS

ROUNDS = 5
THREADS = torch.get_num_threads()
QUERIES, GALLERY, DIMS = 1_980, 11_310, 19_968
CONCATENATED = 2_304  # three stages of 768
MILLION, NARROW = 1_000_000, 512
CONE = 1e-3  # scale of the differences in a narrow cone
LATENT, NOISE = 64, 1.0  # drawn features: dimensions of an identity's vector, scale of a tracklet's noise
MIB = 2**20
Part = tuple[list[str], list[Figure]]  # of the record


class Labels(NamedTuple):
    """Labels in the order of `cmc_map_from_distances`."""

    query_pids: np.ndarray
    query_camids: np.ndarray
    gallery_pids: np.ndarray
    gallery_camids: np.ndarray


def main() -> None:
    labels = mars_labels()
    query_QD, gallery_GD = features(labels, DIMS)
    parts = [ranking(labels, query_QD, gallery_GD), searching(labels, query_QD, gallery_GD)]
    del query_QD, gallery_GD
    parts += [verifying(*features(labels, CONCATENATED), *labels), million_items(), extraction()]
    save(
        "evaluation",
        "Evaluation",
        f"{QUERIES:,} queries, {GALLERY:,} gallery items, identities and cameras of MARS; {DIMS:,} made-up features: a "
        f"random vector of {LATENT} for each identity and noise for each tracklet, projected. Times are medians of "
        f"{ROUNDS} rounds in turn (3 of products), with {THREADS} threads unless said otherwise.",
        *(line for lines, _ in parts for line in lines),
        figures=[figure for _, figures in parts for figure in figures],
    )


def mars_labels() -> Labels:
    """Read the labels of the official test set, without junk."""
    folder = SHARED / "data" / "mars"
    tracks = scipy.io.loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
    queries = scipy.io.loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(np.int64) - 1
    pids, camids = tracks[:, 2], tracks[:, 3]
    kept = pids != -1
    labels = Labels(pids[queries], camids[queries], pids[kept], camids[kept])
    assert (len(labels.query_pids), len(labels.gallery_pids)) == (QUERIES, GALLERY)
    return labels


def features(labels: Labels, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw features (Q, D) and (G, D). Each distractor (identity 0) is an identity of its own."""
    generator = torch.Generator().manual_seed(0)
    pids, num_query = torch.as_tensor(np.concatenate([labels.query_pids, labels.gallery_pids])), len(labels.query_pids)
    _, identity = pids.unique(return_inverse=True)
    own = torch.randn(int(identity.max()) + 1, LATENT, generator=generator)[identity]
    own[pids == 0] = torch.randn(int((pids == 0).sum()), LATENT, generator=generator)
    latent = own + NOISE * torch.randn(own.shape, generator=generator)
    projection = torch.randn(LATENT, dims, generator=generator)
    return latent[:num_query] @ projection, latent[num_query:] @ projection


def on_one_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(1)
        try:
            return function()
        finally:
            torch.set_num_threads(THREADS)

    return run


def ranking(labels: Labels, query_QD: torch.Tensor, gallery_GD: torch.Tensor) -> Part:
    """Measure CMC and mAP from one matrix of distances."""
    rankers = {
        "torchreid, Python": load_file("torchreid", "reid/metrics/rank.py").evaluate_py,
        "torchreid, compiled": load_file("pyppbox_torchreid", "metrics/rank_cylib/rank_cy.*.so").evaluate_cy,
    }
    normal = torch.nn.functional.normalize
    distance = (1 - normal(query_QD) @ normal(gallery_GD).T).numpy()

    def theirs(name: str, distance: np.ndarray = distance) -> Any:
        of_torchreid = labels.query_pids, labels.gallery_pids, labels.query_camids, labels.gallery_camids
        return rankers[name](distance, *of_torchreid, 50, False)

    # Places are distances without ties, whose order is undefined in torchreid. Its compiled ranker sums precisions in
    # fp32, and the CMC curve is fp32 in both.
    places = distance.argsort(axis=1, kind="stable").argsort(axis=1).astype(np.float32)
    for matrix, atol in (distance, 1e-6), (places, 1e-12):
        scores = cmc_map_from_distances(matrix, *labels)
        for name in rankers:
            cmc, mean = theirs(name, matrix)
            np.testing.assert_allclose(cmc, scores["cmc"], atol=1e-6, rtol=0, err_msg=name)
            tolerance = 1e-5 if "compiled" in name else atol
            np.testing.assert_allclose(mean, scores["mAP"], atol=tolerance, rtol=0, err_msg=name)
    ours = partial(cmc_map_from_distances, distance, *labels)
    one, many, least = "mstat, one thread", f"mstat, {THREADS} threads", "numpy.sort of every row"
    python, compiled = rankers
    calls: dict[str, Callable[[], object]] = {
        one: on_one_thread(ours),
        many: ours,
        least: lambda: np.sort(distance, axis=1),
    }
    calls[compiled] = partial(theirs, compiled)
    seconds = medians({**in_turn(calls, ROUNDS), **in_turn({python: partial(theirs, python)}, rounds=2)})
    text = (
        "From the same matrix of distances (fp32) and the labels to CMC and mAP. All three agree (mAP to 1e-12 with "
        "the Python ranker, to 1e-5 with the compiled one, which sums in fp32) where no two distances are equal. "
        "torchreid 0.2.5 (compiled: as pyppbox-torchreid 1.4.1.0 has it) has one thread."
    )
    rows = [[name, f"{taken:.3f}", f"{taken / seconds[one]:.2f}"] for name, taken in seconds.items()]
    what = f"CMC and mAP of {QUERIES:,} x {GALLERY:,} distances, one thread"
    ms = {name: f"{1000 * taken:,.0f} ms" for name, taken in seconds.items()}
    limit, share = f"{ms[least]} to sort the rows", seconds[least] / seconds[one]
    figures = [
        Figure(what, ms[one], name, ms[name], seconds[name] / seconds[one], wanted, limit, share)
        for name, wanted in zip(rankers, ("15", "2"), strict=True)
    ]
    return ["## Ranking alone", text, table(["ranker", "seconds", "of ours, one thread"], rows)], figures


def searching(labels: Labels, query_QD: torch.Tensor, gallery_GD: torch.Tensor) -> Part:
    """Measure CMC and mAP from features, compared with their matrix product without normalisation and ranking."""
    rows, figures = [], []
    for kind in "wide", "narrow cone":
        if kind == "narrow cone":
            common_D = torch.randn(DIMS, generator=torch.Generator().manual_seed(1))
            query_QD, gallery_GD = query_QD.mul_(CONE).add_(common_D), gallery_GD.mul_(CONE).add_(common_D)
        ours = partial(cmc_map, query_QD, labels[0], labels[1], gallery_GD, labels[2], labels[3])
        product = partial(torch.mm, query_QD, gallery_GD.T)
        calls: dict[str, Callable[[], object]] = {"ours": ours, "product": product}
        calls |= {f"{name}, 1": on_one_thread(call) for name, call in calls.items()}
        seconds = medians(in_turn(calls, rounds=3))
        for threads, suffix in (THREADS, ""), (1, ", 1"):
            mine, rival = seconds[f"ours{suffix}"], seconds[f"product{suffix}"]
            rows.append([kind, threads, f"{mine:.2f}", f"{rival:.2f}", f"**{rival / mine:.2f}**"])
        what = f"distances and ranking, {kind}, {QUERIES:,} x {GALLERY:,} x {DIMS:,}, {THREADS} threads"
        texts, share = [f"{seconds[name]:.2f} s" for name in ("ours", "product")], seconds["product"] / seconds["ours"]
        limit = f"{texts[1]} for the product"
        figures.append(Figure(what, texts[0], "torch.mm alone", texts[1], share, "0.9", limit, share))
    text = (
        "From features to CMC and mAP (norms, similarities on the grid of tiles that makes them the same on any number "
        "of processes and threads, ranks, scores), against `torch.mm` of the same two matrices alone, fp32. In the "
        f"narrow cone the features are those of the wide one times {CONE}, added to one vector: cosine distances about "
        "1e-4, ranked by exact differences (mstat/evaluation/narrow_cone.py). A ratio above 1 is no miracle: MKL "
        "multiplies tiles that stay in the cache faster than the whole."
    )
    head = ["features", "threads", "mstat, s", "torch.mm, s", "ratio"]
    return ["## Distances and ranking", text, table(head, rows)], figures


def million_items() -> Part:
    """Measure a gallery of a million, in a process of its own, so that its memory can be measured."""
    seconds, product, peak, counting, counting_peak = call_elsewhere(measure_million)
    matrix = 4 * QUERIES * MILLION
    text = (
        f"{QUERIES:,} queries with 11 true matches in the mean, {THREADS} threads, one process, which holds the "
        f"features ({4 * (MILLION + QUERIES) * NARROW / MIB:,.0f} MiB) before: **{seconds:.1f} s** from there and the "
        f"labels to CMC and mAP, where the matrix product alone takes {product:.1f} s (a tenth was timed). Memory "
        f"beside the features, at the peak: **{peak / MIB:,.0f} MiB**; the whole matrix has {matrix / MIB:,.0f} MiB. "
        f"Then the counts of similarities for ROC and thresholds: **{counting:.1f} s**, {counting_peak / MIB:,.0f} MiB."
    )
    what = f"{QUERIES:,} queries in {MILLION:,} x {NARROW}, memory beside the features"
    ours, theirs = f"{peak / MIB:,.0f} MiB, {seconds:.1f} s", f"{matrix / MIB:,.0f} MiB"
    limit, share = f"{product:.1f} s for the product", product / seconds
    figure = Figure(what, ours, "the whole matrix", theirs, matrix / peak, "flat", limit, share)
    return [f"## A gallery of {MILLION:,} x {NARROW}", text], [figure]


def measure_million() -> tuple[float, float, int, float, int]:
    """Return seconds, seconds of the product, and peak bytes beside the features; seconds and peak of verification."""
    rng = np.random.default_rng(0)
    highs = round(MILLION * 5 / 6 / 11), 6
    labels = Labels(*(rng.integers(0, high, num) for num in (QUERIES, MILLION) for high in highs))
    query_QD, gallery_GD = torch.randn(QUERIES, NARROW), torch.empty(MILLION, NARROW)
    centres = torch.randn(highs[0], NARROW)
    for rows, pids in zip(gallery_GD.split(10_000), torch.as_tensor(labels.gallery_pids).split(10_000), strict=True):
        torch.randn(rows.shape, out=rows)
        rows.mul_(3).add_(centres[pids])
    query_QD.mul_(3).add_(centres[torch.as_tensor(labels.query_pids)])
    del centres
    before = resident("VmRSS")
    forget_peak()
    began = time.perf_counter()
    cmc_map(query_QD, labels[0], labels[1], gallery_GD, labels[2], labels[3])
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    pairs = make_pairs(*labels)
    forget_peak()
    began = time.perf_counter()
    count_similarities(query_QD, gallery_GD, 0, pairs, BINS)
    counting, counting_peak = time.perf_counter() - began, resident("VmHWM") - before
    tenth = in_turn({"product": lambda: torch.mm(query_QD, gallery_GD[: MILLION // 10].T)}, rounds=3)
    return seconds, 10 * medians(tenth)["product"], peak, counting, counting_peak


if __name__ == "__main__":
    run_main(main, __doc__)
