"""Evaluation against its rivals and limits: `make bench-evaluation`.

Of MARS's size, with its real identities and cameras where their files are (../shared/data, or MSTAT_SHARED): the
ranking against torchreid's on one matrix of distances; distances and ranking against the matrix product alone. Then a
gallery of a million, and the extraction of features against the model alone. Writes
benchmarks/evaluation_<hardware>_<date>.md. Needs 8 GB of memory.

torchreid's packages leave its compiled ranker's source out; pyppbox-torchreid has it compiled.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import torch
from evaluation_memory import MIB, forget_peak, memory
from extraction_speed import ROUNDS, THREADS, clock, extraction, on_one_thread
from record import PROJECT, Figure, conditions, save

from mstat.evaluation.metrics import cmc_map, cmc_map_from_distances
from mstat.evaluation.ranking import STRIP

SHARED = Path(os.environ.get("MSTAT_SHARED") or PROJECT.parent / "shared")
QUERIES, GALLERY, DIMS = 1_980, 11_310, 19_968
MILLION, NARROW = 1_000_000, 512
CONE = 1e-3  # how far features are spread in a narrow cone
LATENT, NOISE = 64, 1.0  # of made-up features: what an identity has, and how far tracklets are from it


class Labels(NamedTuple):
    """In the order that `cmc_map_from_distances` and torchreid take them in, each in their own."""

    query_pids: np.ndarray
    query_camids: np.ndarray
    gallery_pids: np.ndarray
    gallery_camids: np.ndarray


def main() -> None:
    labels, source = mars_labels()
    query_QD, gallery_GD = features(labels, DIMS)
    ranked, ranked_figures = ranking(labels, query_QD, gallery_GD)
    searched, searched_figures = searching(labels, query_QD, gallery_GD)
    del query_QD, gallery_GD
    million, million_figure = million_items()
    extracted, extracted_figures = extraction()
    text = [
        "# Evaluation",
        "",
        conditions("bench-evaluation"),
        "",
        f"{QUERIES:,} queries, {GALLERY:,} gallery items, {source}; features of {DIMS:,} numbers, made up: a random "
        f"vector of {LATENT} for each identity and noise for each tracklet, projected. Times are medians of {ROUNDS} "
        "rounds in which all take their turns (2 of torchreid's Python ranker, 3 of products), with "
        f"{THREADS} threads unless said otherwise.",
        *ranked,
        *searched,
        *million,
        *extracted,
    ]
    save("evaluation", "\n".join(text) + "\n", [*ranked_figures, *searched_figures, million_figure, *extracted_figures])


# --- what is compared ---------------------------------------------------------------------------------------------


def mars_labels() -> tuple[Labels, str]:
    """Of the official test set without junk, or as many random ones; and a word on which."""
    folder = SHARED / "data" / "mars"
    if folder.exists():
        tracks = scipy.io.loadmat(folder / "tracks_test_info.mat")["track_test_info"].astype(np.int64)
        queries = scipy.io.loadmat(folder / "query_IDX.mat")["query_IDX"].ravel().astype(np.int64) - 1
        pids, camids = tracks[:, 2], tracks[:, 3]
        kept = pids != -1
        labels = Labels(pids[queries], camids[queries], pids[kept], camids[kept])
        source = "identities and cameras of MARS"
    else:
        rng = np.random.default_rng(0)
        drawn = (rng.integers(0, high, num) for num in (QUERIES, GALLERY) for high in (860, 6))
        labels, source = Labels(*drawn), "random identities and cameras, 11 true matches a query in the mean"
    assert (len(labels.query_pids), len(labels.gallery_pids)) == (QUERIES, GALLERY)
    return labels, source


def features(labels: Labels, dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q, D) and (G, D). Identity 0 are distractors, each of them somebody else."""
    generator = torch.Generator().manual_seed(0)
    pids, num_query = torch.as_tensor(np.concatenate([labels.query_pids, labels.gallery_pids])), len(labels.query_pids)
    _, identity = pids.unique(return_inverse=True)
    own = torch.randn(int(identity.max()) + 1, LATENT, generator=generator)[identity]
    own[pids == 0] = torch.randn(int((pids == 0).sum()), LATENT, generator=generator)
    latent = own + NOISE * torch.randn(own.shape, generator=generator)
    projection = torch.randn(LATENT, dims, generator=generator)
    return latent[:num_query] @ projection, latent[num_query:] @ projection


# --- ranking alone ------------------------------------------------------------------------------------------------


def load_file(package: str, pattern: str) -> ModuleType:
    """One file of an installed package, alone: the package itself would import a great deal."""
    result = importlib.util.find_spec(package)
    if result is None or result.submodule_search_locations is None:
        raise SystemExit(f"{package} is missing: use make bench-evaluation")
    (path,) = Path(result.submodule_search_locations[0]).glob(pattern)
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = None  # type: ignore[assignment]  # what it imports of its package is missing, and may be
    try:
        with warnings.catch_warnings(action="ignore"):
            spec.loader.exec_module(module)
    finally:
        del sys.modules[package]
    return module


def check(labels: Labels, distance: np.ndarray, rankers: dict[str, Callable], scores: dict, atol: float) -> None:
    """All say the same; torchreid's compiled ranker sums precisions in fp32, and the CMC curve is fp32 in both."""
    for name, ranker in rankers.items():
        cmc, mean = ranker(distance, *in_their_order(labels), 50, False)
        np.testing.assert_allclose(cmc, scores["cmc"], atol=1e-6, rtol=0, err_msg=name)
        np.testing.assert_allclose(mean, scores["mAP"], atol=1e-5 if "compiled" in name else atol, rtol=0, err_msg=name)


def in_their_order(labels: Labels) -> tuple[np.ndarray, ...]:
    return labels.query_pids, labels.gallery_pids, labels.query_camids, labels.gallery_camids


def ranking(labels: Labels, query_QD: torch.Tensor, gallery_GD: torch.Tensor) -> tuple[list[str], list[Figure]]:
    """From one matrix of distances to CMC and mAP."""
    rankers = {
        "torchreid, Python": load_file("torchreid", "reid/metrics/rank.py").evaluate_py,
        "torchreid, compiled": load_file("pyppbox_torchreid", "metrics/rank_cylib/rank_cy.*.so").evaluate_cy,
    }
    normal = torch.nn.functional.normalize
    distance = (1 - normal(query_QD) @ normal(gallery_GD).T).numpy()
    scores = cmc_map_from_distances(distance, *labels)
    check(labels, distance, rankers, scores, atol=1e-6)  # torchreid leaves the order of equal items to chance
    places = distance.argsort(axis=1, kind="stable").argsort(axis=1).astype(np.float32)  # the same without equal ones
    check(labels, places, rankers, cmc_map_from_distances(places, *labels), atol=1e-12)

    def ours() -> dict:
        return cmc_map_from_distances(distance, *labels)

    def theirs(name: str) -> Callable[[], Any]:
        return lambda: rankers[name](distance, *in_their_order(labels), 50, False)

    one, many, compiled = clock(on_one_thread(ours), ours, theirs("torchreid, compiled"))
    (python,) = clock(theirs("torchreid, Python"), rounds=2)
    (least,) = clock(lambda: np.sort(distance, axis=1))
    text = [
        "",
        "## Ranking alone",
        "",
        f"From the same matrix of distances (fp32) and the labels to CMC and mAP, which is {scores['mAP']:.3f} here, "
        f"rank-1 {scores['rank1']:.3f}. All three say the same: to 1e-12 (mAP) against the Python ranker and to 1e-5 "
        "against the compiled one, which sums in fp32, where no two distances of a query are equal; on the matrix as "
        "it is to 1e-6 and 1e-5, since torchreid leaves the order of equal ones to chance. torchreid has one thread.",
        "",
        "| ranker | seconds | of ours, one thread |",
        "|---|---|---|",
        f"| mstat, {THREADS} threads | {many:.3f} | {many / one:.2f} |",
        f"| mstat, one thread | {one:.3f} | 1 |",
        f"| torchreid 0.2.5, compiled (as pyppbox-torchreid 1.4.1.0 has it) | {compiled:.3f} | {compiled / one:.1f} |",
        f"| torchreid 0.2.5, Python | {python:.2f} | {python / one:.0f} |",
        f"| numpy.sort of every row, which is most of ours | {least:.3f} | {least / one:.2f} |",
    ]
    what = f"CMC and mAP of {QUERIES:,} x {GALLERY:,} distances, one thread"
    limit, share = f"{1000 * least:.0f} ms to sort the rows", least / one
    rows = [("Python", python, "15"), ("compiled", compiled, "2")]
    return text, [
        Figure(
            what,
            f"{1000 * one:.0f} ms",
            f"torchreid, {name}",
            f"{1000 * other:,.0f} ms",
            other / one,
            wanted,
            limit,
            share,
        )
        for name, other, wanted in rows
    ]


# --- distances and ranking ----------------------------------------------------------------------------------------


def searching(labels: Labels, query_QD: torch.Tensor, gallery_GD: torch.Tensor) -> tuple[list[str], list[Figure]]:
    """From features to CMC and mAP, against their matrix product, which is neither normalised nor ranked."""
    text = [
        "",
        "## Distances and ranking",
        "",
        "From features to CMC and mAP (norms, similarities on the grid of tiles that makes them the same on any number "
        "of processes and threads, ranks, scores), against `torch.mm` of the same two matrices alone, fp32. In the "
        f"narrow cone the features are those of the wide one times {CONE}, added to one vector: cosine distances about "
        "1e-4, ranked by exact differences (mstat/evaluation/narrow_cone.py).",
        "",
        "| features | threads | mstat, s | torch.mm, s | ratio | GFLOP/s of torch.mm |",
        "|---|---|---|---|---|---|",
    ]
    figures = []
    operations = 2 * QUERIES * GALLERY * DIMS / 1e9
    for kind in "wide", "narrow cone":
        if kind == "narrow cone":
            common_D = torch.randn(DIMS, generator=torch.Generator().manual_seed(1))
            query_QD, gallery_GD = query_QD.mul_(CONE).add_(common_D), gallery_GD.mul_(CONE).add_(common_D)
        ours = partial(cmc_map, query_QD, labels[0], labels[1], gallery_GD, labels[2], labels[3])
        product = partial(torch.mm, query_QD, gallery_GD.T)
        whole, plain, whole_one, plain_one = clock(ours, product, on_one_thread(ours), on_one_thread(product), rounds=3)
        for threads, mine, rival in (THREADS, whole, plain), (1, whole_one, plain_one):
            row = f"| {kind} | {threads} | {mine:.2f} | {rival:.2f} | {rival / mine:.2f} | {operations / rival:.0f} |"
            text.append(row)
        figure = Figure(
            f"distances and ranking, {kind}, {QUERIES:,} x {GALLERY:,} x {DIMS:,}, {THREADS} threads",
            f"{whole:.2f} s",
            "torch.mm alone",
            f"{plain:.2f} s",
            plain / whole,
            "0.9",
            f"{plain:.2f} s for the product",
            plain / whole,
        )
        figures.append(figure)
    text += ["", "A ratio above 1 is no miracle: MKL multiplies tiles that stay in the cache faster than the whole."]
    return text, figures


# --- a million ----------------------------------------------------------------------------------------------------


def million_items() -> tuple[list[str], Figure]:
    """In a process of its own, whose memory is that of nothing else."""
    command = [sys.executable, __file__, "million"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    seconds, product, peak = (float(word) for word in output)
    rows = STRIP // (4 * MILLION) // 16 * 16
    matrix = 4 * QUERIES * MILLION
    text = [
        "",
        f"## A gallery of {MILLION:,} x {NARROW}",
        "",
        f"{QUERIES:,} queries with 11 true matches in the mean, {THREADS} threads, one process, which holds the "
        f"features ({4 * (MILLION + QUERIES) * NARROW / MIB:,.0f} MiB) before: **{seconds:.1f} s** from there and the "
        f"labels to CMC and mAP, where the matrix product alone takes {product:.1f} s (a tenth was timed). Memory "
        f"beside the features, at the peak: **{peak / MIB:,.0f} MiB**. By the formula it is the similarities of {rows} "
        f"queries, 4 x {rows} x {MILLION:,} = {4 * rows * MILLION / MIB:,.0f} MiB (never more than "
        f"{STRIP / MIB:,.0f} MiB, unless 16 queries have more), labels (about 50 bytes an item while true matches are "
        f"looked up), 13 bytes of norms and flags an item, and copies of a row, two or three for each "
        f"thread; the whole matrix would be {matrix / MIB:,.0f} MiB.",
    ]
    figure = Figure(
        f"{QUERIES:,} queries in {MILLION:,} x {NARROW}, memory beside the features",
        f"{peak / MIB:,.0f} MiB, {seconds:.1f} s",
        "the whole matrix",
        f"{matrix / MIB:,.0f} MiB",
        matrix / peak,
        "flat",
        f"{product:.1f} s for the product",
        product / seconds,
    )
    return text, figure


def measure_million() -> None:
    """Prints seconds, those of the product, and bytes beside the features at the peak."""
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
    before = memory("VmRSS")
    forget_peak()
    began = time.perf_counter()
    cmc_map(query_QD, labels[0], labels[1], gallery_GD, labels[2], labels[3])
    seconds, peak = time.perf_counter() - began, memory("VmHWM") - before
    (tenth,) = clock(lambda: torch.mm(query_QD, gallery_GD[: MILLION // 10].T), rounds=3)
    print(seconds, 10 * tenth, peak)


if __name__ == "__main__":
    measure_million() if sys.argv[1:] == ["million"] else main()
