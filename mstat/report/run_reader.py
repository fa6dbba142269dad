"""Reader of a run folder for reports: the content of each file, or a sentence on why it cannot be read.

No file is required, because reports of failed runs matter most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mstat.config.plain_yaml import read_plain_yaml
from mstat.errors import UserError
from mstat.files import MOST_JOURNAL_BYTES, read_plain, read_plain_json, write_plain
from mstat.report import page
from mstat.runs.relocate import find_shards
from mstat.runs.scored_set import EVALUATIONS, scored_checksum, shards_checksum
from shards.records import DataError

if TYPE_CHECKING:
    from mstat.model import MSTAT
    from shards.read import Reader

# Content of a JSON file, or a sentence on why it cannot be read.
Json = Mapping[str, Any] | str
MOST_STEPS = 10**12
FIGURES = "figures"  # folder in the run folder for the pictures of the report


def check_is_run(run: Path) -> None:
    """Raise UserError if a folder has no file of a run."""
    if not run.is_dir():
        raise UserError(f"{run}: no such run folder")
    if not any((run / name).is_file() for name in ("config.yaml", "evaluation.json")):
        raise UserError(f"{run}: not a run folder: it has neither config.yaml nor evaluation.json")


def why_unreadable(name: str, error: Exception) -> str:
    """Return a sentence on why a file of the run folder cannot be read."""
    return (
        f"{name} {'is not in the run folder' if isinstance(error, FileNotFoundError) else f'cannot be read: {error}'}."
    )


class Folder:
    """Reader of a run folder.

    Args:
        run: The folder.
        reader: The opened shards of the run; None opens `data.shards` of its config.yaml, if they exist.
        proxies, tracklets: Attribute proxies and keys of tracklets to show; empty chooses them by a rule.
    """

    def __init__(
        self, run: Path, reader: Reader | None = None, proxies: Sequence[int] = (), tracklets: Sequence[str] = ()
    ) -> None:
        self.run, self._reader, self.proxies, self.tracklets = run, reader, tuple(proxies), tuple(tracklets)

    def json(self, name: str) -> Json:
        """Return the object in a JSON file of the folder, or why there is none."""
        try:
            content = read_plain_json(self.run / name)
        except (OSError, ValueError) as error:
            return why_unreadable(name, error)
        return content if isinstance(content, dict) else f"{name} cannot be read: it holds no JSON object."

    @cached_property
    def environment(self) -> Json:
        return self.json("environment.json")

    @cached_property
    def evaluation(self) -> Json:
        return self.json("evaluation.json")

    @cached_property
    def rankings(self) -> Json:
        return self.json("rankings.json")

    @property
    def of_run(self) -> Path:
        """Folder of the run that was scored, which differs from `run` if the scores are in its `evaluations`."""
        run = self.run.resolve()
        return run.parent.parent if run.parent.name == EVALUATIONS else self.run

    @cached_property
    def others(self) -> dict[str, Json]:
        """Evaluations of this run on other data sets, protocols or splits, by folder name."""
        result = sorted((self.run / EVALUATIONS).glob("*/evaluation.json"))
        return {path.parent.name: self.json(str(path.relative_to(self.run))) for path in result}

    @property
    def checksum(self) -> str | None:
        """Checksum of the scored data set, if known."""
        return None if isinstance(self.evaluation, str) else scored_checksum(self.run, self.evaluation)

    def of_other_scores(self, content: Mapping[str, Any]) -> str | None:
        """Return why another file of scores belongs to another evaluation; None if it matches evaluation.json."""
        if isinstance(self.evaluation, str):
            return None
        for key in ("dataset", "eval"):
            known, other = self.evaluation.get(key), content.get(key)
            if known is not None and other is not None and known != other:
                return (
                    f"Not shown: it belongs to another evaluation than evaluation.json, with another {key} ({other})."
                )
        return None

    @property
    def is_set(self) -> bool:
        """Return whether this folder holds the runs of all splits and their mean, not a single run."""
        return not isinstance(self.evaluation, str) and "splits" in self.evaluation

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Content of config.yaml; empty if unreadable. Another version may have written it, so it is not a Config."""
        try:
            content = read_plain_yaml(self.run / "config.yaml")
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def setting(self, section: str, key: str) -> Any:
        """Return a setting of config.yaml; None if absent."""
        settings = self.config.get(section)
        return settings.get(key) if isinstance(settings, dict) else None

    def records(self, name: str = "metrics.jsonl", keys: Sequence[str] = ()) -> tuple[list[dict[str, Any]], str]:
        """Return the lines of a journal in the order of steps, and a remark if lines or the file are unreadable.

        The last line of a step counts. All values are numbers (also NaN and infinities) or None. A process that is
        killed may leave an incomplete line.

        Args:
            keys: Keys to read; empty reads all.
        """
        try:
            text = read_plain(self.run / name, MOST_JOURNAL_BYTES).decode(errors="replace")
        except (OSError, ValueError) as error:
            return [], why_unreadable(name, error)
        records, num_bad = {}, 0
        for line in text.splitlines():
            try:
                record = json.loads(line)
                step = int(record["step"])
                record = {key: record.get(key) for key in keys} if keys else record
                for value in record.values():
                    if value is not None:
                        math.isfinite(value)  # raises for all but numbers, and for integers beyond float
                if not 0 <= step < MOST_STEPS:
                    raise ValueError("step out of range")
                records[step] = {**record, "step": step}
            except (ValueError, TypeError, KeyError, OverflowError, AttributeError, RecursionError):
                num_bad += 1
        remark = f"{name}: {num_bad} unreadable line(s) left out." if num_bad else ""
        return [records[step] for step in sorted(records)], remark if records else remark or f"{name} is empty."

    @cached_property
    def reader(self) -> Reader | str:
        """Shards of the run, or a sentence on why there are none."""
        try:
            reader = self._reader or self._open_shards()
            recorded = self.checksum or shards_checksum(self.run)
            if recorded and recorded != reader.checksum:
                raise DataError("the shards differ from those of the run (another checksum)")
        except (DataError, OSError, ValueError) as error:
            return f"No frames: {error}"
        return reader

    @cached_property
    def model(self) -> MSTAT:
        """The trained model. Raises UserError if there is none."""
        from mstat.weights.export import load_model

        return load_model(self.of_run)

    def _open_shards(self) -> Reader:
        import shards

        place = self.setting("data", "shards")
        if not (self.run / "config.yaml").is_file():
            raise DataError("config.yaml, which names the shards, is not in the run folder")
        if not isinstance(place, str):
            raise DataError("config.yaml does not name the shards (data.shards)")
        if "://" in place:
            raise DataError("config.yaml has a URL as data.shards, which reports open only if it is given as --shards")
        place = find_shards(self.run, place)
        if not Path(place).is_dir():
            raise DataError(f"{place} (data.shards) does not exist in the current folder or where the run started")
        return shards.open(place)

    def figure(self, name: str, svg: bytes, alt: str, caption: str) -> str:
        """Save an SVG as RUN/figures/<name>, and return the HTML that shows it."""
        self.save(name, svg)
        return page.figure(svg, alt, caption)

    def save(self, name: str, data: bytes) -> None:
        """Save a picture as RUN/figures/<name>; a name that leads to another folder is refused."""
        if Path(name).name != name:
            raise UserError(f"{name!r} is not a file name for a picture")
        write_plain(self.run / FIGURES / name, data)

    def forget(self, pattern: str) -> None:
        """Remove pictures of an earlier report that this report may not replace, such as those of other tracklets."""
        if not (self.run / FIGURES).is_symlink():
            for path in (self.run / FIGURES).glob(pattern):
                path.unlink()
