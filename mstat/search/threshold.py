"""Thresholds of a search, and the error rates that the run's evaluation measured for them.

An evaluation keeps, for a few false positive rates (FPR), the lowest threshold of at most this FPR, and its true
positive rate (TPR). Both rates fall as the threshold rises. So the measured points on both sides of any threshold bound
its rates, and nothing is interpolated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mstat.errors import UserError
from mstat.evaluation.feature_rows import weights_digest
from mstat.evaluation.saved_features import SavedFeatures
from mstat.files import read_plain_json
from mstat.model import MSTAT
from mstat.report.run_reader import Folder
from mstat.search.queries import COMPARED, refuse_other_weights, settings
from mstat.weights.export import load_model

PREFIX = "threshold_at_"


class Point(NamedTuple):
    """A measured threshold: no lower one has an FPR of at most `fpr`; `tpr` is its TPR."""

    fpr: float
    threshold: float
    tpr: float


@dataclass(frozen=True)
class Measured:
    """Measured thresholds of an evaluation.

    Attributes:
        source: The evaluation.json.
        pairs: What was measured, in words.
        points: From the lowest threshold to the highest.
        curve: FPR and TPR of the ROC curve, by rising FPR.
    """

    source: Path
    pairs: str
    points: tuple[Point, ...]
    curve: tuple[tuple[float, float], ...] = ()

    def named(self, name: str) -> float:
        """Return the threshold of a name such as fpr=0.01.

        Raises:
            UserError: If it was not measured.
        """
        for point in self.points:
            if name == f"fpr={point.fpr:g}":
                return point.threshold
        known = ", ".join(f"fpr={point.fpr:g}" for point in self.points) or "none"
        raise UserError(f"--threshold {name}: not measured in {self.source}, which has {known}")

    def rates(self, threshold: float) -> str:
        """Return the TPR and FPR of a threshold in words."""
        below = [point for point in self.points if point.threshold <= threshold]
        above = [point for point in self.points if point.threshold > threshold]
        fpr = _range(max((p.fpr for p in above), default=None), min((p.fpr for p in below), default=None))
        equal = [point.tpr for point in below if point.threshold == threshold]
        least, most = max((p.tpr for p in above), default=None), min((p.tpr for p in below), default=None)
        tpr = f"{100 * equal[0]:.4g} %" if equal else _range(least, most)
        return f"measured TPR {tpr}, FPR {fpr}, on {self.pairs} ({self.source})"


def thresholds_of(saved: SavedFeatures, features: Path, run: Path | None, model: MSTAT | None) -> Measured | str:
    """Return the thresholds that a run measured for features, or a sentence on why there are none.

    Args:
        features: Folder of `saved`.
        run: Run folder that the user names; None is the run, or its evaluation, in whose folder `features` lies.
        model: Model that is known to have the weights of the features; None loads that of the run, to compare them.
    """
    if run is None and model is not None:
        return "evaluation.json is that of a finished run, not of a checkpoint"
    folder = run or features.absolute().parent
    if model is None:
        of_run = Folder(folder).of_run
        if not (of_run / "model.safetensors").is_file():
            return "no run is given (--run)"
        try:
            refuse_other_weights(saved, weights_digest(load_model(of_run)), str(of_run))
        except UserError as error:
            return str(error)
    return measured(folder / "evaluation.json", saved.info)


def measured(source: Path, info: Mapping[str, Any]) -> Measured | str:
    """Return the thresholds in an evaluation.json that hold for features, or a sentence on why there are none.

    Args:
        info: Description of the searched features, content of features.json.
    """
    if info.get("pca"):
        return "thresholds are measured on features as extracted, not on their principal components"
    try:
        content = read_plain_json(source)
        scores = content["verification"]["cosine"]
        theirs, ours = settings(content), settings(info)
        points, curve = _points(scores), _curve(scores)
        pairs = f"{scores['num_genuine']:,} pairs of one person and {scores['num_impostor']:,} of two"
        pairs += f" of {content['dataset']['name']}, protocol {content['protocol']}"
    except FileNotFoundError:
        return f"{source} does not exist: launch/evaluate.py writes it"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return f"{source} has no thresholds that can be read ({error!r}): evaluate the run again"
    for name in COMPARED:
        if theirs[name] != ours[name]:
            return f"{source} is an evaluation with eval.{name} {theirs[name]}, but the features have {ours[name]}"
    return Measured(source, pairs, points, curve) if points else f"{source} has too few pairs to measure any FPR"


def _points(scores: Mapping[str, Any]) -> tuple[Point, ...]:
    points = []
    for key, threshold in scores.items():
        if not key.startswith(PREFIX) or threshold is None:
            continue
        name = key.removeprefix(PREFIX)
        point = Point(float(name), float(threshold), float(scores[f"tpr_at_{name}"]))
        if not all(map(math.isfinite, point)):
            raise ValueError(f"{key} is not a number")
        points.append(point)
    return tuple(sorted(points, key=lambda point: point.threshold))


def _curve(scores: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    curve = tuple((float(x), float(y)) for x, y in zip(scores["roc_fpr"], scores["roc_tpr"], strict=True))
    if not all(0 <= value <= 1 for point in curve for value in point):
        raise ValueError("the ROC curve has rates outside 0 to 1")
    return curve


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return f"at most {100 * most:.4g} %" if most is not None else "unknown"
    if most is None:
        return f"at least {100 * least:.4g} %"
    return f"{100 * least:.4g} to {100 * most:.4g} %"


def chosen(threshold: float | str, thresholds: Measured | str) -> tuple[float, str]:
    """Return a threshold as a number, and its rates in words, or why they are unknown.

    Args:
        threshold: A cosine similarity, or a name such as fpr=0.01.
        thresholds: Result of `measured`.

    Raises:
        UserError: If a named threshold was not measured.
    """
    if isinstance(thresholds, str):
        if isinstance(threshold, str):
            raise UserError(f"--threshold {threshold}: no threshold was measured: {thresholds}")
        return threshold, f"TPR and FPR were not measured: {thresholds}"
    number = thresholds.named(threshold) if isinstance(threshold, str) else threshold
    return number, thresholds.rates(number)
