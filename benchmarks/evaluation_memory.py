"""What a rank needs to score a gallery: memory, bytes to others, time: `make bench-evaluation-memory`.

Random features and labels, embedding left out: only what comes after it, as `mstat.evaluation.evaluate` does it, on
gloo processes. Each row has processes of its own; every rank makes the features of its slice and nobody else's. Writes
benchmarks/evaluation-memory_<hardware>_<date>.md.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from record import conditions, save

from mstat.distributed.gather import slice_bounds
from mstat.evaluation import ranking
from mstat.evaluation.extraction import TILE
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.ranking import STRIP, gallery_slices, rank_positives

CAMERAS, POSITIVES = 6, 11  # of MARS: cameras, and true matches of a query in the mean
MIB = 2**20


class Search(NamedTuple):
    gallery: int
    queries: int
    dims: int
    ranks: int


MILLION = [
    Search(500_000, 1_980, 128, 1),
    Search(1_000_000, 1_980, 128, 1),
    Search(1_000_000, 3_960, 128, 1),
    Search(1_000_000, 1_980, 128, 2),
    Search(1_000_000, 1_980, 128, 4),
]
MARS = [Search(11_310, 1_980, 19_968, 1), Search(11_310, 1_980, 19_968, 2)]


class Found(NamedTuple):
    """Of one rank: bytes of memory and of what it gives to all_reduce, CPU seconds, and a hash of the ranks it found.

    labels, search: highest resident size above that with the own features alone, while the pairs are made from the
    labels, and after that.
    """

    features: int
    labels: int
    search: int
    reduced: int
    seconds: float
    positives: int
    digest: str


def labels(search: Search) -> Pairs:
    """Random identities and cameras, so many identities that a query has 11 positives in the mean."""
    rng = np.random.default_rng(0)
    highs = round(search.gallery * (1 - 1 / CAMERAS) / POSITIVES), CAMERAS
    return make_pairs(*(rng.integers(0, high, count) for count in (search.queries, search.gallery) for high in highs))


def features(start: int, stop: int, dims: int, stream: int) -> torch.Tensor:
    """Random rows [start, stop), the same whatever the slice they are made in."""
    rows = torch.empty(stop - start, dims)
    for row in range(start, stop):
        rows[row - start].normal_(generator=torch.Generator().manual_seed(stream * 2**32 + row))
    return rows


def memory(key: str) -> int:
    """Bytes that /proc tells of this process: VmRSS, or VmHWM, the highest VmRSS since the last `forget_peak`."""
    return int(re.findall(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def measure(search: Search) -> Found:
    """This rank's share of a search, from the moment that it has the features of its own tracklets."""
    rank = dist.get_rank()
    start, stop = gallery_slices(search.gallery, search.ranks, TILE)[rank]
    first, last = slice_bounds(search.queries, search.ranks, rank)
    gallery_SD = features(start, stop, search.dims, stream=0)
    own_queries = features(first, last, search.dims, stream=1)
    reduced = 0

    def reduce(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal reduced
        reduced += tensor.nbytes
        dist.all_reduce(tensor)
        return tensor

    dist.barrier()
    before, began = memory("VmRSS"), time.process_time()
    forget_peak()
    pairs = labels(search)
    labels_peak = memory("VmHWM")
    forget_peak()
    query_QD = torch.zeros(search.queries, search.dims)
    query_QD[first:last] = own_queries
    ranks_P = rank_positives(reduce(query_QD), gallery_SD, start, pairs, reduce=reduce)
    return Found(
        features=gallery_SD.nbytes + own_queries.nbytes,
        labels=labels_peak - before,
        search=memory("VmHWM") - before,
        reduced=reduced,
        seconds=time.process_time() - began,
        positives=len(ranks_P),
        digest=hashlib.sha256(ranks_P.numpy().tobytes()).hexdigest(),
    )


def enter(rank: int, search: Search, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=search.ranks)
    torch.save(measure(search)._asdict(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def run(search: Search) -> list[Found]:
    """What each rank found."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(enter, (search, folder), search.ranks)
        return [Found(**torch.load(Path(folder) / f"{rank}.pt")) for rank in range(search.ranks)]


def expected_bytes(search: Search, positives: int) -> int:
    """Query features, and for each positive its similarity (fp32) and the count of what is nearer (int64)."""
    return 4 * search.queries * search.dims + 12 * positives


def table(results: dict[Search, list[Found]]) -> list[str]:
    """A row for each search; memory and time of the rank that needs most."""
    lines = [
        "| gallery G | queries Q | dims D | positives P | ranks | own features | **labels** | **search** | of it, "
        "4 Q D | **to all_reduce** | 4 Q D + 12 P | 4 Q G, not made | CPU s |",
        "|---" * 13 + "|",
    ]
    for search, result in results.items():
        first = result[0]
        sizes = (
            max(one.features for one in result),
            max(one.labels for one in result),
            max(one.search for one in result),
            4 * search.queries * search.dims,
            first.reduced,
            expected_bytes(search, first.positives),
            4 * search.queries * search.gallery,
        )
        counts = f"{search.gallery:,} | {search.queries:,} | {search.dims:,} | {first.positives:,} | {search.ranks}"
        cells = " | ".join(f"{size / MIB:,.1f}" for size in sizes)
        lines.append(f"| {counts} | {cells} | {max(one.seconds for one in result):.0f} |")
    return lines


def check(results: dict[Search, list[Found]]) -> None:
    """Bytes are those of the formula; all ranks of all rows of one size found the same ranks."""
    for search, result in results.items():
        assert all(one.reduced == expected_bytes(search, one.positives) for one in result), (search, result)
        alike = [one for other in results if other[:3] == search[:3] for one in results[other]]
        assert len({one.digest for one in alike}) == 1, search


def growth(results: dict[Search, list[Found]]) -> list[str]:
    """What doubling the gallery and doubling the queries costs, in words."""
    half, whole, twice = (results[search][0] for search in MILLION[:3])

    def between(one: Found, other: Found, things: int) -> str:
        sizes = (
            f"{name} {getattr(one, name) / MIB:.1f} to {getattr(other, name) / MIB:.1f} MiB "
            f"({(getattr(other, name) - getattr(one, name)) / things:,.0f} bytes each)"
            for name in ("labels", "search")
        )
        return f"{', '.join(sizes)}, to all_reduce {one.reduced / MIB:.2f} to {other.reduced / MIB:.2f} MiB"

    return [
        f"- **Gallery doubled**, {MILLION[0].gallery:,} more items: {between(half, whole, MILLION[0].gallery)}. What "
        "grows are labels, and flags of what is ignored; what is sent changes only with the positives that happen to "
        f"be drawn. The matrix would grow by {4 * MILLION[0].queries:,} bytes an item.",
        f"- **Queries doubled**, {MILLION[1].queries:,} more: {between(whole, twice, MILLION[1].queries)}. What grows "
        f"are features ({4 * MILLION[1].dims} bytes a query) and what is kept for its {POSITIVES} positives. The "
        f"matrix would grow by {4 * MILLION[1].gallery:,} bytes a query.",
    ]


def record(results: dict[Search, list[Found]]) -> str:
    """The record as Markdown."""
    return "\n".join(
        [
            "# What a rank needs to score a gallery",
            "",
            conditions("bench-evaluation-memory"),
            "",
            "Random features and labels (6 cameras, 11 positives a query in the mean, as MARS has), gloo processes of "
            "one thread each on one machine. Sizes in MiB, of the rank that needs most; the last rows have the size of "
            "MARS with MSTAT's features.",
            "",
            "- *Own features*: of the rank's share of gallery and queries, which it has before.",
            "- *Labels*: the highest resident memory above that while true matches are looked up in the labels; code "
            "and buffers of first use included.",
            "- *Search*: the same from then on, until the ranks of all true matches are known.",
            "- *To all_reduce*: bytes that a rank hands over in all, counted at each call. With R ranks in a ring it "
            "sends, and receives, 2 (R - 1) / R of them.",
            "- *CPU s*: of the rank that needs most.",
            "",
            *table(results),
            "",
            "The ranks of all true matches were bit for bit the same on every rank and every number of ranks, and the "
            "bytes those of the formula exactly.",
            "",
            *growth(results),
            f"- **What else there is**: one block of queries, normalised, and its similarities with the slice, which "
            f"have {STRIP / MIB:,.0f} MiB at most: 1,024 queries, or fewer where the gallery is large; and one tile of "
            f"{ranking.TILE} gallery items where the slice cuts it. Neither grows with the queries.",
            "",
        ]
    )


def main() -> None:
    results = {}
    for search in MILLION + MARS:
        results[search] = run(search)
        print(search, results[search][0], flush=True)
    check(results)
    save("evaluation-memory", record(results))


if __name__ == "__main__":
    main()
