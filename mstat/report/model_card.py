"""The model card of a run: README.md for the Hugging Face Hub, in plain English and as metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mstat.report.scores import HEADINGS, interval, percent
from mstat.report.tables import Row, Table
from shards.text import printable

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TAGS = ["person-re-identification", "video", "metric-learning", "mstat"]
SHOWN = ("mAP", "rank1", "rank5", "rank10", "rank20", "mINP")
USE = """\
The model turns short clips of one person into vectors. Vectors of one person are similar across cameras, so that
tracklets can be ranked by their similarity to a query, or a person found again in a tracker."""
MISUSE = """\
- A similarity is no proof of identity. No decision about a person may rest on it alone; somebody must look, and answer.
- Do not use it to watch or follow people without their consent or a legal basis, and not in order to harm, to
  discriminate, or to hinder protest, work, press or worship.
- Do not use it to name people: it compares appearance, mostly clothes, and knows no names.
- Scores hold for the cameras and people of the data set below. Other cameras, light, clothes and groups of people have
  not been measured; measure before use, also by group."""


def card(name: str, origin: Mapping[str, Any], facts: Mapping[str, Any], licence: str | None) -> str:
    """Return the text of README.md.

    Args:
        name: Name of the model.
        origin: Result of `mstat.runs.source.provenance`.
        facts: `config` (the settings), `evaluation` (content of evaluation.json, or the reason why there are no scores)
            and `environment` (content of environment.json, or empty).
        licence: Identifier of a licence for the metadata; None states none.
    """
    from huggingface_hub import ModelCardData

    evaluation = facts["evaluation"]
    has_scores = not isinstance(evaluation, str)
    data = ModelCardData(
        library_name="mstat",
        pipeline_tag="feature-extraction",
        tags=TAGS,
        license=licence,
        model_name=name,
        metrics=["mAP", "rank-1", "mINP"] if has_scores else None,
        eval_results=_results(evaluation) if has_scores else None,
    )
    sections = [
        f"# {plain(name)}",
        "MSTAT, a three-stage spatio-temporal transformer, recognises a person again across cameras from short video "
        "tracklets (Z. Tang et al., *Multi-Stage Spatio-Temporal Aggregation Transformer for Video Person "
        "Re-identification*, IEEE Transactions on Multimedia). These weights were trained with mstat.",
        "## Use",
        USE,
        f'```python\nimport mstat\n\nmodel = mstat.load("{name}")          # or the path of this folder\n'
        "vectors = model.embed(frames)        # uint8 RGB, (B, T, H, W, 3), any H and W; compare by cosine\n```",
        "## What it must not be used for",
        MISUSE,
        "## Scores",
        _scores(evaluation),
        "## Training",
        _training(origin, facts["config"], facts["environment"]).markdown().strip(),
        "## Licence",
        f"The weights: {licence or 'not stated; ask whoever gave them to you'}. {_start(origin)} Data sets have "
        "terms of their own.",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n"


def plain(value: object) -> str:
    """Return a value as a line of text that is no Markdown and no HTML: names may come from a stranger's data set."""
    return re.sub(r"([\\`*_\[\]<>&|#])", r"\\\1", printable(" ".join(str(value).split())))


def _results(evaluation: Mapping[str, Any]) -> list[EvalResult]:
    """Return the scores as metadata, in percent."""
    from huggingface_hub import EvalResult

    dataset = str(evaluation["dataset"]["name"])
    return [
        EvalResult(
            task_type="person-re-identification",
            dataset_type=dataset.lower().replace(" ", "-"),
            dataset_name=dataset,
            dataset_config=str(evaluation["protocol"]),
            dataset_split=str(evaluation["split"]),
            metric_type=HEADINGS[score],
            metric_value=round(100 * evaluation[score], 2),
        )
        for score in SHOWN
        if isinstance(evaluation.get(score), float)
    ]


def _scores(evaluation: Mapping[str, Any] | str) -> str:
    if isinstance(evaluation, str):
        return evaluation
    bounds = evaluation.get("intervals") or {}
    rows = [
        Row(HEADINGS[score], [percent(evaluation[score]), interval(bounds.get(score))])
        for score in SHOWN
        if evaluation.get(score) is not None
    ]
    text = (
        f"{plain(evaluation['dataset']['name'])}, protocol {plain(evaluation['protocol'])}, split "
        f"{plain(evaluation['split'])}: "
        f"{evaluation['num_valid_query']:,} queries with a match, {evaluation['num_gallery']:,} gallery tracklets. In "
        "percent; intervals are 95 % bootstrap intervals over identities."
    )
    remarks = [f"- {plain(warning)}" for warning in evaluation.get("warnings") or []]
    limits = ["**Not comparable with published scores:**", "\n".join(remarks)] if remarks else []
    return "\n\n".join([text, Table(["score", "value", "interval"], rows).markdown().strip(), *limits])


def _start(origin: Mapping[str, Any]) -> str:
    """Return a sentence on the licence of the start weights."""
    if origin["start_weights"] == origin["start_weights_licence"]:
        return "They were trained from scratch."
    start, licence = plain(origin["start_weights"]), plain(origin["start_weights_licence"])
    return f"They were trained from {start}, whose licence is {licence}."


def _training(origin: Mapping[str, Any], config: Any, environment: Mapping[str, Any]) -> Table:
    """Return what is needed to train the model again."""
    versions = environment.get("versions") or {}
    rows = {
        "weights": origin["weights"],
        "start weights": origin["start_weights"],
        "seed": origin["seed"],
        "frames": f"{config.clip.num_frames} of {'x'.join(map(str, config.model.image_size))}",
        "batch": f"{config.batch.num_identities} identities, {config.batch.num_tracklets} tracklets of each",
        "loss": f"cross-entropy and {config.loss.metric}",
        "commit of mstat": environment.get("commit") or "unknown",
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()) or "unknown",
        "hardware": environment.get("hardware") or "unknown",
    }
    return Table(["of the training", "value"], [Row(name, [plain(value)]) for name, value in rows.items()], align="ll")
