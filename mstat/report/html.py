"""A run folder as one self-contained page: what was trained, how it went, how well it does and where it fails.

A file that is missing, unreadable or lacks a key is named in the section that needs it; the report of a run that
failed half-way is the one that is needed most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstat.errors import UserError
from mstat.files import read_plain, write_plain
from mstat.report import attention, galleries, page, results, scores, training
from mstat.report.page import Section
from mstat.report.robustness import FILE, robustness
from mstat.report.run_reader import Folder, Json, why_unreadable

if TYPE_CHECKING:
    from shards.read import Reader


def settings(folder: Folder) -> str:
    try:
        text = read_plain(folder.run / "config.yaml").decode(errors="replace")
        message = page.details("config.yaml", f"<pre>{page.escape(text)}</pre>")
    except (OSError, UserError) as error:
        message = page.note(why_unreadable("config.yaml", error))
    if folder.is_set or folder.of_run != folder.run:  # the runs have environments of their own
        return message
    environment = folder.environment
    if isinstance(environment, str):
        return message + "\n" + page.note(environment)
    rows = [
        (key, ", ".join(f"{name} {version}" for name, version in value.items()) if isinstance(value, dict) else value)
        for key, value in environment.items()
    ]
    return message + "\n" + page.details("environment.json", page.facts(rows))


SECTIONS = (
    Section("scores", "Scores", results.scores, half=True),
    Section("cmc", "Cumulative matching", results.cmc, half=True),
    Section("training", "Training", training.training, "metrics.jsonl"),
    Section("others", "Other data sets", results.others, "evaluations"),
    Section("splits", "Splits", results.splits),
    Section("cameras", "Cameras", results.cameras, half=True),
    Section("embedding", "People in the plane", attention.embedding, "embedding.json", half=True),
    Section("distances", "Distances", results.distances),
    Section("attributes", "Attributes", attention.attributes),
    Section("robustness", "Robustness", robustness, FILE),
    Section("galleries", "Ranked galleries", galleries.typical, "rankings.json"),
    Section("failures", "Hardest failures", galleries.failures, "rankings.json"),
    Section("settings", "Configuration and environment", settings, "config.yaml"),
)


def write_report(
    run: Path, reader: Reader | None = None, *, proxies: Sequence[int] = (), tracklets: Sequence[str] = ()
) -> Path:
    """Writes RUN/report.html, and its pictures into RUN/figures, from what the run folder holds; returns its path.

    Args:
        run: Run folder; none of its files is required.
        reader: The opened shards of the run; None opens `data.shards` of its config.yaml where that is there.
        proxies: Attributes whose attention is shown (Fig. 11); empty chooses those that look at least at the same.
        tracklets: Keys of the tracklets in which it is shown; empty takes queries of two people.

    Raises:
        ValueError: The folder does not exist, or has no such attributes or tracklets.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    folder = Folder(run, reader, proxies, tracklets)
    attention.check(folder)
    sections = [section.html(folder) for section in SECTIONS]
    name = run.resolve().name
    text = page.document(f"{name} – MSTAT", _header(name, folder), sections)
    write_plain(run / "report.html", text.encode(errors="backslashreplace"))
    return run / "report.html"


def write_reports(folder: Path, run: Path, reader: Reader) -> Path:
    """The report of scores that are in `folder`; where that is none of the run itself, also the run's, which names it.

    Returns the path of the former.
    """
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
    """Return whether the run is done, and at which step it stands."""
    if isinstance(result, str):
        return page.note(result)
    reason = f" – {page.escape(result['reason'])}" if result.get("reason") else ""
    word = page.escape(result["state"])
    return f'<p><span class="state {word}">{word}</span> at step {page.escape(result["step"])}{reason}</p>'


def _headline(evaluation: Mapping[str, Any]) -> str:
    numbers = [
        f"<div><dt>{scores.COLUMNS[key]}</dt><dd>{scores.score(evaluation, key)}<small> %</small></dd></div>"
        for key in ("mAP", "rank1")
        if evaluation.get(key) is not None
    ]
    title = page.escape(scores.title(evaluation))
    return f'<p class="soft">{title}</p>\n<dl class="headline">{"".join(numbers)}</dl>'
