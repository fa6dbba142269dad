"""The data set of scores, and the folder of their files.

RUN/evaluation.json, rankings.json, queries.json, embedding.json   for the training's data set, protocol and split
RUN/evaluations/<name>/, the same files                            for another one, named after it
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mstat.config import ALL_SPLITS, DataConfig, EvalConfig
from mstat.config.cli import load_config
from mstat.errors import UserError
from mstat.files import read_plain_json

if TYPE_CHECKING:
    from shards.read import Reader

MOST_LETTERS = 100  # of a folder's name
EVALUATIONS = "evaluations"  # in the run folder: evaluations on another data set, protocol or split than the training's
# Settings of the evaluation that scores depend on, with their labels; the others only change the report.
DECIDING = {
    "num_frames": "frames of a tracklet",
    "mode": "selection of frames (eval.mode)",
    "stride": "stride of clips (eval.stride)",
    "flip": "averaging with the mirror image (eval.flip)",
    "stage_norm": "scaling of stages (eval.stage_norm)",
    "feature": "side of the BNNeck (eval.feature)",
    "seed": "frames drawn (eval.seed)",
    "occlusion": "occlusion",
    "resolution": "resolution",
    "degrade": "degraded frames (eval.degrade)",
    "no_positive": "queries without a true match (eval.no_positive)",
}
NOT_IN_EFFECT = {
    "feature": "feature",
    "flip": False,
    "no_positive": "skip",
}  # values that files of scores leave out, see `deciding`
DEGRADATIONS = ("occlusion", "resolution")  # those that degrade frames; their defaults do not
# Terms that two scores must share to be compared, with their labels. Splits of a protocol may be averaged.
TERMS = {"protocol": "protocol", "split": "split", **DECIDING}


class Dataset(TypedDict):
    """The data set of scores, as files of scores record it."""

    name: str
    checksum: str


def dataset(reader: Reader) -> Dataset:
    """Return the name and checksum of a data set, as files of scores record them."""
    return {"name": reader.name, "checksum": reader.checksum}


def deciding(settings: EvalConfig) -> dict[str, Any]:
    """Return the settings that a score depends on, None where one does not matter.

    `degrade` is None if no frames are degraded, `stride` in another mode, `flip` if it is off, `feature` if features
    themselves are compared, `no_positive` if such queries are left out: files of versions without these settings have
    no value, either.
    """
    known = {name: getattr(settings, name) for name in DECIDING}
    known["flip"] = settings.flip or None
    if settings.mode != "stride":
        known["stride"] = None
    if settings == intact(settings):
        known["degrade"] = None
    for name in ("feature", "no_positive"):
        if known[name] == NOT_IN_EFFECT[name]:
            known[name] = None
    return known


def in_effect(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that files of scores record, with the values that `deciding` leaves out."""
    return {**NOT_IN_EFFECT, **{name: value for name, value in settings.items() if value is not None}}


def intact(settings: EvalConfig) -> EvalConfig:
    """Return the settings with frames that are not degraded."""
    return replace(settings, **{name: getattr(EvalConfig(), name) for name in DEGRADATIONS})


def terms(evaluation: Mapping[str, Any], checksum: str | None) -> dict[str, Any]:
    """Return the terms of scores by label: data set, protocol, settings. Unknown terms are omitted."""
    settings = evaluation.get("eval")
    known = dict(evaluation)
    if isinstance(settings, dict):
        known = {**in_effect(settings), **known}
    result = {words: known[key] for key, words in TERMS.items() if known.get(key) is not None}
    return {**result, "shards": str(checksum)[:12]} if checksum else result


def shards_checksum(run: Path) -> str | None:
    """Return the checksum of a run's training set from its environment.json; None without one."""
    checksum = _json(run / "environment.json").get("shards_checksum")
    return checksum if isinstance(checksum, str) else None


def scored_checksum(run: Path, evaluation: Mapping[str, Any]) -> str | None:
    """Return the checksum of an evaluation's data set; of the run's own if it has none (older versions)."""
    named = evaluation.get("dataset")
    checksum: str | None = named.get("checksum") if isinstance(named, dict) else shards_checksum(run)
    return checksum


def trained_checksum(run: Path) -> str | None:
    """Return the checksum of the training set of a run, or of the runs of all splits; None if it is unknown."""
    recorded = [shards_checksum(folder) for folder in (run, *sorted(run.glob("split-*")))]
    recorded.append(scored_checksum(run, _json(run / "evaluation.json")))
    return next((checksum for checksum in recorded if checksum), None)


def is_trained_on(run: Path, reader: Reader, data: DataConfig) -> bool:
    """Return whether the run was trained on this data set, by checksum, or by path if no checksum is known."""
    if checksum := trained_checksum(run):
        return checksum == reader.checksum
    return not (run / "config.yaml").is_file() or load_config(run / "config.yaml").data.shards == data.shards


def evaluation_folder(run: Path, reader: Reader, data: DataConfig) -> Path:
    """Return the folder for an evaluation of `run` on the data set, protocol and split of `data`.

    It is the run folder if the run was trained on them, otherwise a folder in RUN/evaluations.
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
    name = folder_name("-".join(parts))
    if _is_of_another(run / EVALUATIONS / name, reader) or _is_of_another(run, reader, of_name=reader.name):
        name += f"-{reader.checksum[:8]}"
    return folder_in(run, name)


def folder_name(text: str) -> str:
    """Return a name for a folder: the name of a data set may have any characters."""
    name = re.sub(r"[^\w.-]+", "-", text).strip("-.")
    if len(name) > MOST_LETTERS:  # long names may begin alike
        name = f"{name[: MOST_LETTERS - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name or "set"


def folder_in(run: Path, name: str) -> Path:
    """Return RUN/evaluations/<name> for writing.

    Raises:
        UserError: If it is a link: in an untrusted run folder, the files would be written elsewhere.
    """
    folder = run / EVALUATIONS / name
    for link in filter(Path.is_symlink, (folder.parent, folder)):
        raise UserError(f"{link} is a link, which mstat does not follow: remove it, or give --out FOLDER")
    return folder


def _is_of_another(folder: Path, reader: Reader, of_name: str | None = None) -> bool:
    """Return whether a folder has scores of another data set; with `of_name`, only of one with this name."""
    named = [_json(folder / file).get("dataset") for file in ("evaluation.json", "robustness.json")]
    return any(
        isinstance(other, dict) and other != dataset(reader) and other.get("name") == (of_name or other.get("name"))
        for other in named
    )


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if it cannot be read."""
    try:
        content = read_plain_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
