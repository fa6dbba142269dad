"""Report of a run folder as one self-contained page: training curves, scores, galleries, failures, settings.

If a file is missing, unreadable or lacks a key, the section that needs it says so. Reports of failed runs matter most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstat.errors import UserError
from mstat.files import read_plain, write_plain
from mstat.report import attention, galleries, page, results, scores, training
from mstat.report.page import Section
from mstat.report.progress import Count
from mstat.report.robustness import FILE, robustness
from mstat.report.run_reader import Folder, Json, why_unreadable
from shards.text import printable

if TYPE_CHECKING:
    from shards.read import Reader


def settings(folder: Folder) -> str:
    try:
        text = read_plain(folder.run / "config.yaml").decode(errors="replace")
        config = page.details("config.yaml", f"<pre>{page.escape(text)}</pre>")
    except (OSError, UserError) as error:
        config = page.note(why_unreadable("config.yaml", error))
    if folder.is_set or folder.of_run != folder.run:  # the runs have their own environments
        return config
    environment = folder.environment
    if isinstance(environment, str):
        return config + "\n" + page.note(environment)
    rows = [
        (key, ", ".join(f"{name} {version}" for name, version in value.items()) if isinstance(value, dict) else value)
        for key, value in environment.items()
    ]
    return config + "\n" + page.details("environment.json", page.facts(rows))


SECTIONS = (
    Section("scores", "Scores", results.scores, half=True),
    Section("cmc", "Cumulative matching", results.cmc, half=True),
    Section("training", "Training", training.training, "metrics.jsonl"),
    Section("others", "Other data sets", results.others, "evaluations"),
    Section("splits", "Splits", results.splits),
    Section("cameras", "Cameras", results.cameras, half=True),
    Section("reranked", "After re-ranking: not comparable with scores without", results.reranked),
    Section("embedding", "t-SNE of test identities", attention.embedding, "embedding.json", half=True),
    Section("distances", "Distances", results.distances),
    Section("verification", "Verification", results.verification, half=True),
    Section("open-set", "Open-set identification", results.open_set, half=True),
    Section("groups", "Groups of queries", results.groups),
    Section("attributes", "Attributes", attention.attributes),
    Section("robustness", "Robustness", robustness, FILE),
    Section("galleries", "Ranked galleries", galleries.typical, "rankings.json"),
    Section("failures", "Hardest failures", galleries.failures, "rankings.json"),
    Section("settings", "Configuration and environment", settings, "config.yaml"),
)


def write_report(
    run: Path, reader: Reader | None = None, *, proxies: Sequence[int] = (), tracklets: Sequence[str] = ()
) -> Path:
    """Write RUN/report.html, and its pictures into RUN/figures, from the files in the run folder; return its path.

    Args:
        run: Run folder; none of its files is required.
        reader: The opened shards of the run; None opens `data.shards` of its config.yaml, if they exist.
        proxies: Attribute proxies whose attention is shown (Fig. 11); by default, concentrated and distinct ones.
        tracklets: Keys of the tracklets in which it is shown; by default, queries of two identities.

    Raises:
        UserError: If the folder does not exist, or has no such attributes or tracklets.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    folder = Folder(run, reader, proxies, tracklets)
    attention.check(folder)
    sections = []
    with Count(f"report of {printable(str(run))}", len(SECTIONS), "sections") as progress:
        for section in SECTIONS:
            sections.append(section.html(folder))
            progress.advance()
    name = run.resolve().name
    text = page.document(f"{name} – MSTAT", _header(name, folder), sections)
    write_plain(run / "report.html", text.encode(errors="backslashreplace"))
    return run / "report.html"


def write_reports(folder: Path, run: Path, reader: Reader) -> Path:
    """Write the report of the scores in `folder`, and the run's report, which links to it; return the former's path."""
    if folder != run:
        write_report(run)
    return write_report(folder, reader)


def _header(name: str, folder: Folder) -> str:
    parts = [f"<h1>{page.escape(name)}</h1>"]
    if folder.of_run != folder.run:
        of_run = page.escape(folder.of_run.name)
        parts.append(f'<p class="soft">Scores of the run <a href="../../report.html">{of_run}</a></p>')
    else:
        parts.append(page.shown("state.json", state, folder.json("state.json")))
    if not isinstance(folder.environment, str):
        started = str(folder.environment.get("started", "at an unknown time"))[:10]
        parts.append(f'<p class="soft">{page.escape(f"Started {started}")}</p>')
    if not isinstance(folder.evaluation, str):
        parts.append(page.shown("evaluation.json", _headline, folder.evaluation))
    return "\n".join(parts)


def state(result: Json) -> str:
    """Return HTML with the state of the run and its step."""
    if isinstance(result, str):
        return page.note(result)
    reason = f" – {page.escape(result['reason'])}" if result.get("reason") else ""
    word = page.escape(result["state"])
    return f'<p><span class="state {word}">{word}</span> at step {page.escape(result["step"])}{reason}</p>'


def _headline(evaluation: Mapping[str, Any]) -> str:
    numbers = [
        f"<div><dt>{scores.HEADINGS[key]}</dt><dd>{scores.score(evaluation, key)}<small> %</small></dd></div>"
        for key in ("mAP", "rank1")
        if evaluation.get(key) is not None
    ]
    title = page.escape(scores.title(evaluation))
    return f'<p class="soft">{title}</p>\n<dl class="headline">{"".join(numbers)}</dl>'
