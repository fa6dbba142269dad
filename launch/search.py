"""Search for tracklets among saved features: `python launch/search.py --features FEATURES --query KEY [KEY ...]`.

FEATURES is what launch/embed.py, or launch/evaluate.py --eval.features true, wrote. Queries are tracklets of FEATURES,
or --query-shards SET, which the run embeds first, or --query-features OTHER, features of another set by the same
weights. For each query, it prints the nearest tracklets by cosine similarity, or that nobody passes the threshold.
--serve opens a local web page instead, on which queries are chosen or uploaded.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if __spec__ is None:  # started as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launch.common import checkpoint_option, config_of_run, report_errors, run_of
from mstat.errors import UserError
from shards.paths import path, place
from shards.terminal import print_line
from shards.text import counted

if TYPE_CHECKING:
    from mstat.config import Config
    from mstat.evaluation.saved_features import SavedFeatures
    from mstat.model import MSTAT
    from mstat.search.gallery import Gallery
    from mstat.search.queries import Queries
    from mstat.search.threshold import Measured
    from shards.read import Reader


def main(argv: Sequence[str], prog: str = "launch/search.py") -> int:
    options = arguments(argv, prog)

    return report_errors(lambda: search(options))


def search(options: argparse.Namespace) -> None:
    """Search, print and write the results."""
    from mstat.console import console
    from mstat.evaluation.saved_features import load_features
    from mstat.files import write_text, writing
    from mstat.report.galleries import NUM_QUERIES
    from mstat.report.progress import Count
    from mstat.search import results
    from mstat.search.faiss_index import FaissGallery, recall
    from mstat.search.gallery import Gallery
    from mstat.search.threshold import chosen, thresholds_of

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("a search runs in one process: start it without accelerate launch")
    to_stdout = options.json == Path("-")
    out = None if to_stdout else options.json
    refuse_unwritable([file for file in (out, options.page) if file])
    say = partial(print_line, file=sys.stderr if to_stdout else None)

    saved = load_features(options.features)
    gallery = Gallery(saved) if options.index == "exact" else FaissGallery(saved, options.index)
    num_searched = int((~gallery.ignored(options.cameras)).sum())
    facts = [f"{num_searched:,} tracklets are searched ({options.index} search)"]
    run = run_of(options) if options.run or options.checkpoint else None
    model = model_of(options, run, saved)
    least: float | None = None
    thresholds: Measured | str = ""
    if options.serve or options.threshold is not None:
        thresholds = thresholds_of(saved, options.features, None if options.checkpoint else run, model)
    if options.threshold is not None:
        least, rates = chosen(options.threshold, thresholds)
        facts.append(f"threshold {least:.4f}: {rates}")
    pictured = options.page or options.serve
    reader = results.shards_of(saved, options.features, run, options.shards) if pictured else ""
    if options.serve:
        serve(options, gallery, reader, model, thresholds, least)
        return
    queries, query_reader = queries_of(options, gallery, model)
    if isinstance(gallery, FaissGallery):
        facts.append(recall(gallery, queries, options.top, options.cameras))
    for fact in facts:
        say(fact)

    shown: list[results.Result] = []
    with writing(out) if out else nullcontext(sys.stdout) as file:
        for first, (labels, features_BD, rows) in queries.blocks():
            with Count("search", len(queries.table), "queries", first) as progress:
                hits_of_queries = gallery.search(
                    features_BD,
                    options.top,
                    cameras=options.cameras,
                    threshold=least,
                    itself=rows,
                    progress=progress.advance,
                )
            for query, hits in zip(labels, hits_of_queries, strict=True):
                if options.json:
                    print_line(results.json_line(query, hits), file=file)
                if not to_stdout:
                    console().print(results.table(query, hits))
            shown += zip(labels, hits_of_queries, strict=True) if len(shown) < NUM_QUERIES else ()
    if options.page:
        readers = (query_reader or reader, reader)
        num = len(queries.table)
        write_text(options.page, results.html(f"Search for {counted(num, 'tracklet')}", facts, shown, num, readers))
        say(options.page)


def refuse_unwritable(files: Sequence[Path]) -> None:
    """Raise UserError if a file cannot be written, before any work."""
    from mstat.files import why_not_writable

    for file in files:
        if file.is_dir():
            raise UserError(f"{file}: is a folder: give the name of a file")
        if file.exists() and not file.is_file():  # such as /dev/stdout, which results would replace for all programs
            raise UserError(f"{file}: is not a regular file: give the name of a file; --json - writes to the output")
        if obstacle := why_not_writable(file.absolute().parent):
            raise UserError(f"{file}: cannot be written: {obstacle}")


def model_of(options: argparse.Namespace, run: Path | None, saved: SavedFeatures) -> MSTAT | None:
    """Return the model of a run, or of --checkpoint; None without a run.

    Raises:
        UserError: If its weights are not those of the features.
    """
    from mstat.evaluation.feature_rows import weights_digest
    from mstat.runs.checkpoint import find
    from mstat.search.queries import refuse_other_weights
    from mstat.weights.export import load_model

    if run is None:
        return None
    source = run if options.checkpoint is None else find(run, options.checkpoint)
    model = load_model(source)
    refuse_other_weights(saved, weights_digest(model), str(source))
    return model


def queries_of(options: argparse.Namespace, gallery: Gallery, model: MSTAT | None) -> tuple[Queries, Reader | str]:
    """Return the queries, and their opened shards, or why there are none, or "" if they are those of the features."""
    from mstat.search import queries

    if options.query:
        return queries.from_keys(gallery, options.query), ""
    if options.query_features:
        tracklets = queries.from_features(gallery, options.query_features)
        others = any(row is None for row in tracklets.rows)
        return tracklets, "No frames of the queries: shards of --query-features are not opened." if others else ""

    import shards
    from mstat.distributed.engine import Engine

    assert model is not None  # `arguments` requires a run
    config = config_of(options, gallery, model, ["--data.shards", options.query_shards])
    reader = shards.open(config.data.shards)
    with Engine(config) as engine:
        return queries.from_shards(engine, engine.place(model), reader, config, gallery), reader


def config_of(options: argparse.Namespace, gallery: Gallery, model: MSTAT, overrides: Sequence[str]) -> Config:
    """Return the settings by which the run embeds queries as the features were embedded."""
    from mstat.config import changed
    from mstat.search import queries

    config = config_of_run(run_of(options), [*queries.flags(gallery.saved.info), *overrides])
    return changed(config, {"model": model.config})


def serve(
    options: argparse.Namespace,
    gallery: Gallery,
    reader: Reader | str,
    model: MSTAT | None,
    thresholds: Measured | str,
    least: float | None,
) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from mstat.search import server
    except ModuleNotFoundError as error:
        raise UserError(f"--serve needs the package {error.name}: pip install 'mstat[serve]'") from None
    from mstat.distributed.engine import Engine
    from mstat.search import queries

    port = 8000 if options.port is None else options.port
    create = partial(server.create_app, gallery, reader, thresholds=thresholds, top=options.top, threshold=least)
    if model is None:
        why_not = "Uploads need the model of the features: start this page with --run RUN."
        server.serve(create(embed=why_not), port)
        return
    config = config_of(options, gallery, model, ["--data.num_workers", "0"])  # no processes for one tracklet
    with Engine(config) as engine:
        placed = engine.place(model)
        embed = partial(queries.from_shards, engine, placed, config=config, gallery=gallery)
        server.serve(create(embed=embed), port)


def arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--features", type=path, required=True, metavar="FEATURES", help="features that are searched")
    queries = parser.add_mutually_exclusive_group(required=True)
    queries.add_argument("--query", nargs="+", metavar="KEY", help="tracklets of FEATURES; none is among its own hits")
    queries.add_argument(
        "--query-shards", type=place, metavar="SET", help="data set, a folder or URL; needs --run or --checkpoint"
    )
    queries.add_argument("--query-features", type=path, metavar="OTHER", help="features by the same weights")
    queries.add_argument(
        "--serve", action="store_true", help="open a web page at 127.0.0.1, to choose and upload; needs mstat[serve]"
    )
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
    parser.add_argument("--json", type=path, metavar="FILE", help="write a JSON line for each query; - is the output")
    parser.add_argument("--page", type=path, metavar="FILE", help="write a page with pictures of queries and hits")
    parser.add_argument(
        "--shards", type=place, metavar="SET", help="data set of FEATURES, for the pictures (default: that of the run)"
    )
    parser.add_argument("--port", type=int, metavar="P", help="port of --serve (default: 8000)")
    options = parser.parse_args(argv)
    if options.query_shards and options.run is None and options.checkpoint is None:
        parser.error("--query-shards needs --run or --checkpoint: the model that embeds it")
    if options.shards and not (options.page or options.serve):
        parser.error("--shards is for the pictures of --page and --serve")
    if options.serve and (options.json or options.page or options.cameras):
        parser.error("--serve has its own results and cameras: omit --json, --page and --cameras")
    if options.json and options.page and options.json.absolute() == options.page.absolute():
        parser.error(f"--json and --page are both {options.json}: give two names")
    if options.port is not None and not options.serve:
        parser.error("--port is for --serve")
    if options.port is not None and not 0 <= options.port < 2**16:
        parser.error(f"--port {options.port}: 0 to 65535; 0 takes a free one")
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
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a cosine similarity, -1 to 1, nor a name such as fpr=0.01"
        )
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
