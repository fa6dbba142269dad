"""The data set of scores, and the folder of their files.

RUN/evaluation.json, rankings.json, embedding.json   of the set, protocol and split that the run was trained on
RUN/evaluations/<name>/, the same files              of another set, named after it; of another protocol or split of
                                                     the same set, named after these too
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstat.config import ALL_SPLITS, DataConfig, EvalConfig
from mstat.config.cli import load_config
from mstat.errors import UserError
from mstat.files import read_plain_json

if TYPE_CHECKING:
    from shards.read import Reader

EVALUATIONS = "evaluations"  # in the run folder: evaluations on anything but what the run was trained on
# What of the evaluation's settings a score depends on; the rest only says what is shown beside it.
DECIDING = ("num_frames", "mode", "stage_norm", "seed", "occlusion", "resolution", "degrade")


def dataset(reader: Reader) -> dict[str, str]:
    """The set as every file of scores names it."""
    return {"name": reader.name, "checksum": reader.checksum}


def deciding(settings: EvalConfig) -> dict[str, Any]:
    """The settings that a score depends on. Whose frames would be degraded does not matter where none are."""
    degraded = settings.occlusion > 0 or settings.resolution is not None
    return {name: getattr(settings, name) if degraded or name != "degrade" else None for name in DECIDING}


# What two scores must have in common to be compared, in words; splits of a protocol may be averaged.
TERMS = {
    "protocol": "protocol",
    "split": "split",
    "num_frames": "frames of a tracklet",
    "mode": "way of taking them",
    "stage_norm": "scaling of stages (eval.stage_norm)",
    "seed": "frames drawn (eval.seed)",
    "occlusion": "occlusion",
    "resolution": "resolution",
    "degrade": "degraded frames (eval.degrade)",
}


def terms(evaluation: Mapping[str, Any], checksum: str | None) -> dict[str, Any]:
    """Return the terms of scores in words: the set, the protocol, the settings. Unknown terms are left out."""
    settings = evaluation.get("eval")
    known = {**(settings if isinstance(settings, dict) else {}), **evaluation}
    result = {words: known[key] for key, words in TERMS.items() if known.get(key) is not None}
    return {**result, "shards": str(checksum)[:12]} if checksum else result


def shards_checksum(run: Path) -> str | None:
    """Checksum of the set that a run was trained on, as its environment.json has it; None where it has none."""
    checksum = _json(run / "environment.json").get("shards_checksum")
    return checksum if isinstance(checksum, str) else None


def scored_checksum(run: Path, evaluation: Mapping[str, Any]) -> str | None:
    """Checksum of the set that an evaluation is of; where it names none (an older version), of the run's own."""
    named = evaluation.get("dataset")
    checksum: str | None = named.get("checksum") if isinstance(named, dict) else shards_checksum(run)
    return checksum


def trained_checksum(run: Path) -> str | None:
    """Checksum of the set that a run, or a set of splits' runs, was trained on; None where nothing tells."""
    recorded = [shards_checksum(folder) for folder in (run, *sorted(run.glob("split-*")))]
    recorded.append(scored_checksum(run, _json(run / "evaluation.json")))
    return next((checksum for checksum in recorded if checksum), None)


def is_trained_on(run: Path, reader: Reader, data: DataConfig) -> bool:
    """Return whether the run was trained on this set: by its checksum, or by its path if no checksum is known."""
    if checksum := trained_checksum(run):
        return checksum == reader.checksum
    return not (run / "config.yaml").is_file() or load_config(run / "config.yaml").data.shards == data.shards


def evaluation_folder(run: Path, reader: Reader, data: DataConfig) -> Path:
    """Return the folder for the files of an evaluation of `run` on the set, protocol and split of `data`.

    That is the run folder if the run was trained on these, otherwise a folder in RUN/evaluations.
    """
    protocol = reader.protocol(data.protocol)
    usual, own = reader.protocols[0], is_trained_on(run, reader, data)
    usual_split = None
    if own and (run / "config.yaml").is_file():
        trained = load_config(run / "config.yaml").data
        usual, usual_split = reader.protocol(trained.protocol), trained.split
    split, usual_split = data.split or protocol.splits[0], usual_split or usual.splits[0]
    parts = [reader.name]
    if protocol.name != usual.name:
        parts.append(protocol.name)
    if split != (usual_split if protocol.name == usual.name else protocol.splits[0]) and (own or split != ALL_SPLITS):
        parts.append(f"split-{split}")
    if own and parts == [reader.name]:
        return run
    name = re.sub(r"[^\w.-]+", "-", "-".join(parts)).strip("-.")[:100] or "set"
    if _is_of_another(run / EVALUATIONS / name, reader) or _is_of_another(run, reader, of_name=reader.name):
        name += f"-{reader.checksum[:8]}"
    return folder_in(run, name)


def folder_in(run: Path, name: str) -> Path:
    """RUN/evaluations/<name>, to be written.

    Raises:
        UserError: If it is a link: what is written would leave the run folder, which may be a stranger's.
    """
    folder = run / EVALUATIONS / name
    for link in filter(Path.is_symlink, (folder.parent, folder)):
        raise UserError(f"{link} is a link, which is not followed: remove it, or give --out FOLDER")
    return folder


def _is_of_another(folder: Path, reader: Reader, of_name: str | None = None) -> bool:
    """Return whether a folder has scores of another set than this one, or of another one with this name."""
    named = [_json(folder / file).get("dataset") for file in ("evaluation.json", "robustness.json")]
    return any(
        isinstance(other, dict) and other != dataset(reader) and other.get("name") == (of_name or other.get("name"))
        for other in named
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where it cannot be read."""
    try:
        content = read_plain_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
