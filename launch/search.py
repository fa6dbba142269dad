"""Search for tracklets among saved features: `python launch/search.py --features FEATURES --query KEY [KEY ...]`.

FEATURES is what launch/embed.py, or launch/evaluate.py --eval.features true, wrote. Queries are tracklets of FEATURES,
or --query-shards SET, which the run embeds first, or --query-features OTHER, features of another set by the same
weights. For each query, it prints the nearest tracklets by cosine similarity, or that nobody passes the threshold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __spec__ is None:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, report_errors
from shards.paths import path, place


def main(argv: Sequence[str], prog: str = "launch/search.py") -> int:
    options = arguments(argv, prog)

    def command() -> None:
        from mstat.search.command import search

        search(options)

    return report_errors(command)


def arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--features", type=path, required=True, metavar="FEATURES", help="features that are searched")
    queries = parser.add_mutually_exclusive_group(required=True)
    queries.add_argument(
        "--query", nargs="+", metavar="KEY", help="tracklets of FEATURES; none is among its own hits"
    )
    queries.add_argument(
        "--query-shards", type=place, metavar="SET", help="data set, a folder or URL; needs --run or --checkpoint"
    )
    queries.add_argument("--query-features", type=path, metavar="OTHER", help="features by the same weights")
    parser.add_argument("--run", type=path, metavar="RUN", help="run of the weights (default: that of --checkpoint)")
    checkpoint_option(parser)
    parser.add_argument("--top", type=positive, default=20, metavar="N", help="most hits of a query (default: 20)")
    parser.add_argument(
        "--threshold",
        type=threshold,
        metavar="T",
        help="least cosine similarity of a hit, such as 0.8; or the one that the run measured at an FPR: fpr=0.01",
    )
    parser.add_argument("--cameras", type=int, nargs="+", metavar="C", help="cameras to search (default: all)")
    parser.add_argument(
        "--index",
        choices=("exact", "flat", "hnsw", "ivfpq"),
        default="exact",
        help="exact search (default), or an index of FAISS, whose recall is printed; needs mstat[search]",
    )
    parser.add_argument("--json", metavar="FILE", help="write a JSON line for each query to a file; - is the output")
    parser.add_argument("--page", type=path, metavar="FILE", help="write a page with pictures of queries and hits")
    parser.add_argument(
        "--shards", type=place, metavar="SET", help="data set of FEATURES, for the pictures (default: that of the run)"
    )
    options = parser.parse_args(argv)
    if options.query_shards and options.run is None and options.checkpoint is None:
        parser.error("--query-shards needs --run or --checkpoint: the model that embeds it")
    if options.shards and not options.page:
        parser.error("--shards is for the pictures of --page")
    return options


def positive(text: str) -> int:
    """Parse a number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def threshold(text: str) -> float | str:
    """Parse a cosine similarity, or the name of a threshold that a run measured, such as fpr=0.01."""
    if text.startswith("fpr="):
        return text
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a cosine similarity, -1 to 1, nor a name such as fpr=0.01")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
