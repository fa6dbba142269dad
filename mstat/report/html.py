"""A run folder as one self-contained page: what was trained, how it went, how well it does and where it fails.

A file that is missing, unreadable or lacks a key is named in the section that needs it; the report of a run that
failed half-way is the one that is needed most.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstat.files import write_text
from mstat.report import figures, page, pictures, scores
from mstat.report.galleries import galleries
from shards.records import DataError

if TYPE_CHECKING:
    from shards.read import Reader


def write_report(run: Path, reader: Reader | None = None) -> Path:
    """Writes RUN/report.html from what the run folder holds, and returns its path.

    Args:
        run: Run folder; none of its files is required.
        reader: The opened shards of the run; None opens `data.shards` of its config.yaml where that is there.

    Raises:
        ValueError: The folder does not exist.
    """
    if not run.is_dir():
        raise ValueError(f"{run}: no such run folder")
    environment = _read_json(run / "environment.json")
    evaluation = _read_json(run / "evaluation.json")
    name = run.resolve().name
    sections = [
        page.section("scores", "Scores", _shown("evaluation.json", _scores, evaluation)),
        page.section("cmc", "Cumulative matching", _shown("evaluation.json", _cmc, run, evaluation)),
    ]
    if not isinstance(evaluation, str) and "splits" in evaluation:  # the folder of all splits' runs
        sections.append(page.section("splits", "Splits", _shown("evaluation.json", _splits, evaluation)))
        sections.append(page.section("settings", "Configuration", _settings(run, {})))
    else:
        training = _shown("metrics.jsonl", _training, run)
        sections.insert(1, page.section("training", "Training", training))
        reader, remark = _reader(run, environment, reader)
        if not isinstance(evaluation, str):
            if evaluation.get("cameras"):
                cameras = _shown("evaluation.json", _cameras, evaluation)
                sections.append(page.section("cameras", "Cameras", cameras))
            if _wants_pictures(run):
                learned = remark + _shown("evaluation.json", pictures.attributes, run, reader, evaluation)
                sections.append(page.section("attributes", "Attributes", learned))
                sections.append(page.section("embedding", "People in the plane", _embedding(run)))
        sections.append(page.section("galleries", "Ranked galleries", remark + _galleries(run, reader)))
        sections.append(page.section("settings", "Configuration and environment", _settings(run, environment)))
    text = page.document(
        f"{name} – MSTAT", _header(name, _read_json(run / "state.json"), environment, evaluation), sections
    )
    write_text(run / "report.html", text)
    return run / "report.html"


# Contents of a JSON file, or the sentence that says why there are none.
Json = Mapping[str, Any] | str


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{path.name} is not in the run folder."
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be read: {error}."
    return content if isinstance(content, dict) else f"{path.name} cannot be read: it holds no JSON object."


def _shown(file: str, make: Callable[..., str], *contents: Any) -> str:
    """The HTML that `make` gives, or a note that the file does not hold what it should."""
    try:
        return make(*contents)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        return page.note(f"{file} cannot be shown: {what}.")


def _header(name: str, state: Json, environment: Json, evaluation: Json) -> str:
    parts = [f"<h1>{page.escape(name)}</h1>", _shown("state.json", _state, state)]
    if not isinstance(environment, str):
        started = str(environment.get("started", "at an unknown time"))[:10]
        parts.append(f'<p class="soft">{page.escape(f"Started {started}")}</p>')
    if not isinstance(evaluation, str):
        parts.append(_shown("evaluation.json", _headline, evaluation))
    return "\n".join(parts)


def _state(state: Json) -> str:
    if isinstance(state, str):
        return page.note(state)
    reason = f" – {page.escape(state['reason'])}" if state.get("reason") else ""
    word = page.escape(state["state"])
    return f'<p><span class="state {word}">{word}</span> at step {page.escape(state["step"])}{reason}</p>'


def _headline(evaluation: Mapping[str, Any]) -> str:
    numbers = [
        f"<div><dt>{scores.COLUMNS[key]}</dt><dd>{scores.score(evaluation, key)}<small> %</small></dd></div>"
        for key in ("mAP", "rank1")
        if evaluation.get(key) is not None
    ]
    title = page.escape(scores.title(evaluation))
    return f'<p class="soft">{title}</p>\n<dl class="headline">{"".join(numbers)}</dl>'


def _scores(evaluation: Json) -> str:
    if isinstance(evaluation, str):
        return page.note(f"{evaluation} launch/evaluate.py --run with this folder makes it.")
    rows = [("baseline", name, cells) for name, cells in scores.baseline_rows(evaluation)]
    rows += [
        ("whole" if name == scores.STAGES[-1] else "", f"Stage {name}", cells)
        for name, cells in scores.stage_rows(evaluation)
    ]
    return _score_table("features", [(kind, page.escape(name), cells) for kind, name, cells in rows], evaluation)


def _splits(evaluation: Mapping[str, Any]) -> str:
    rows = [
        ("", f'<a href="{page.escape(f"split-{split}")}/report.html">{page.escape(split)}</a>', cells)
        for split, cells in scores.split_rows(evaluation)
    ]
    return _score_table("split", rows, evaluation)


def _score_table(first: str, rows: Sequence[tuple[str, str, list[str]]], evaluation: Mapping[str, Any]) -> str:
    """A table of scores; rows of (class, HTML of the first cell, the other cells)."""
    heading = "".join(f'<th scope="col">{text}</th>' for text in (first, *scores.COLUMNS.values()))
    body = "\n".join(
        f'<tr class="{kind}"><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for kind, name, cells in rows
    )
    return (
        f'<div class="scroll"><table class="scores">\n<caption>{page.escape(scores.caption(evaluation))}</caption>\n'
        f"<thead><tr>{heading}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], str]:
    """Records in the order of steps, and a remark where lines were left out: a kill may cut one short.

    Of two lines of a step the later one counts. Every value is a number, finite or not, or None.
    """
    if not path.is_file():
        return [], f"{path.name} is not in the run folder."
    records, num_bad = {}, 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            step = int(record["step"])
            for value in record.values():
                if value is not None:
                    math.isfinite(value)  # raises for what is no number, or an integer that no float holds
            records[step] = {**record, "step": step}
        except (ValueError, TypeError, KeyError, OverflowError):
            num_bad += 1
    remark = f"{path.name}: {num_bad} unreadable line(s) left out." if num_bad else ""
    return [records[step] for step in sorted(records)], remark if records else remark or f"{path.name} is empty."


def _training(run: Path) -> str:
    records, remark = _read_metrics(run / "metrics.jsonl")
    parts = [page.note(remark)] if remark else []
    if records:
        last = records[-1]
        told = [f"{len(records):,} steps logged, the last is {last['step']:,}"]
        speeds = [record["clips_per_s"] for record in records if record.get("clips_per_s") is not None]
        if speeds:
            told.append(f"median {statistics.median(speeds):.0f} clips/s")
        parts.append(f'<p class="soft">{page.escape(", ".join(told))}. Thin: each step; thick: running mean.</p>')
        drawn = []
        if any("loss" in record for record in records):
            drawn.append(_figure(run, "loss.svg", figures.loss_figure(records), "Total loss", _trend(records, "loss")))
        for term, stages in figures.loss_terms(records).items():
            name = f"{term.replace('_', ' ').capitalize()} of each stage"
            trend = "; ".join(f"Stage {stage} {_trend(records, f'loss/{stage}/{term}')}" for stage in stages)
            drawn.append(_figure(run, f"loss-{term}.svg", figures.loss_figure(records, term), name, trend))
        if any("lr" in record for record in records):
            svg = figures.learning_rate_figure(records)
            drawn.append(_figure(run, "learning-rate.svg", svg, "Learning rate", _trend(records, "lr")))
        parts.append('<div class="figures">\n' + "\n".join(drawn) + "\n</div>")
    return "\n".join(parts)


def _trend(records: list[dict[str, Any]], key: str) -> str:
    """A curve in words, for those who hear the page."""
    values = [record[key] for record in records if record.get(key) is not None and math.isfinite(record[key])]
    return f"from {values[0]:.3g} to {values[-1]:.3g}" if values else "never finite"


def _figure(run: Path, file: str, svg: bytes, name: str, trend: str) -> str:
    pictures.save(run, file, svg)
    image = page.picture(svg, "image/svg+xml", f"{name}: {trend}")
    return f"<figure>{image}<figcaption>{page.escape(name)}</figcaption></figure>"


def _cmc(run: Path, evaluation: Json) -> str:
    if isinstance(evaluation, str):
        return page.note(evaluation)
    found = {"MSTAT": evaluation, **(evaluation.get("baselines") or {})}
    curves = {name: entry["cmc"] for name, entry in found.items() if entry.get("cmc")}
    if not curves:
        return page.note("evaluation.json holds no CMC curve.")
    told = "; ".join(f"{name} {scores.percent(curve[0])} % at rank 1" for name, curve in curves.items())
    return _figure(run, "cmc.svg", figures.cmc_figure(curves), "Queries with a right match among the first k", told)


def _cameras(evaluation: Mapping[str, Any]) -> str:
    """Rank-1 where the queries of one camera are searched in one other: rows ask, columns are searched."""
    found = {(entry["query"], entry["gallery"]): entry for entry in evaluation["cameras"]}
    asked, searched = (sorted({entry[side] for entry in found.values()}) for side in ("query", "gallery"))
    heading = "".join(f'<th scope="col">in {camid:d}</th>' for camid in searched)

    def cell(pair: tuple[int, int]) -> str:
        if pair not in found:
            return f"<td>{scores.ABSENT}</td>"
        told = f"{found[pair]['num_valid_query']:,} queries"
        return f'<td title="{told}">{scores.percent(found[pair]["rank1"])}</td>'

    rows = "\n".join(
        f'<tr><th scope="row">from {camid:d}</th>' + "".join(cell((camid, other)) for other in searched) + "</tr>"
        for camid in asked
    )
    caption = "Rank-1 in percent of one camera's queries where one other camera alone is searched."
    return (
        f'<div class="scroll"><table class="scores">\n<caption>{caption}</caption>\n'
        f'<thead><tr><th scope="col">camera</th>{heading}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'
    )


def _wants_pictures(run: Path) -> bool:
    """`eval.pictures` of the run."""
    import yaml

    try:
        return bool(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["eval"]["pictures"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False


def _embedding(run: Path) -> str:
    found = _read_json(run / "embedding.json")
    return page.note(found) if isinstance(found, str) else _shown("embedding.json", pictures.embedding, run, found)


def _reader(run: Path, environment: Json, reader: Reader | None) -> tuple[Reader | None, str]:
    """The shards of the run, or why there are none."""
    try:
        reader = reader or _open_shards(run / "config.yaml")
        recorded = None if isinstance(environment, str) else environment.get("shards_checksum")
        if recorded and recorded != reader.checksum:
            raise DataError("the shards are not those of the run (another checksum)")
    except (DataError, OSError, ValueError) as error:
        return None, page.note(f"No frames: {error}") + "\n"
    return reader, ""


def _galleries(run: Path, reader: Reader | None) -> str:
    rankings = _read_json(run / "rankings.json")
    return page.note(rankings) if isinstance(rankings, str) else _shown("rankings.json", galleries, rankings, reader)


def _open_shards(config: Path) -> Reader:
    import yaml

    import shards

    if not config.is_file():
        raise DataError(f"{config.name}, which names the shards, is not in the run folder")
    try:
        place = str(yaml.safe_load(config.read_text(encoding="utf-8"))["data"]["shards"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{config.name} does not name the shards (data.shards): {error}") from error
    if "://" not in place and not Path(place).is_dir():
        raise DataError(f"{place} (data.shards) is not there, seen from the current folder")
    return shards.open(place)


def _settings(run: Path, environment: Json) -> str:
    config = run / "config.yaml"
    if config.is_file():
        told = f"<pre>{page.escape(config.read_text(encoding='utf-8', errors='replace'))}</pre>"
    else:
        told = page.note(f"{config.name} is not in the run folder.")
    if isinstance(environment, str):
        return page.details("config.yaml", told) + "\n" + page.note(environment)
    if not environment:
        return page.details("config.yaml", told)
    rows = [
        (key, ", ".join(f"{name} {version}" for name, version in value.items()) if isinstance(value, dict) else value)
        for key, value in environment.items()
    ]
    return page.details("config.yaml", told) + "\n" + page.details("environment.json", page.facts(rows))
