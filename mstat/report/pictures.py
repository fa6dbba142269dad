"""Pictures of what a trained model has learned: its attributes (Figs. 10 and 11) and the people in the plane (Fig. 12).

The paper draws them for MARS and iLIDS-VID; here they are of the run's own set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mstat.report import figures, heatmaps, page
from mstat.report.galleries import SHOWN_HEIGHT, encode_strip
from shards.records import DataError, Role

if TYPE_CHECKING:
    from mstat.model import MSTAT
    from shards.read import Reader

FOLDER = "figures"  # in the run folder: every picture of the report as a file
NUM_PEOPLE, NUM_FRAMES = 2, 4  # as Fig. 11 has them


def save(run: Path, name: str, data: bytes) -> None:
    """Leave a picture of the report as RUN/figures/<name>."""
    (run / FOLDER).mkdir(exist_ok=True)
    (run / FOLDER / name).write_bytes(data)


def attributes(run: Path, reader: Reader | None, evaluation: Mapping[str, Any]) -> str:
    """HTML: how alike the attribute proxies are, and where some of them look."""
    import mstat

    try:
        model = mstat.load(run)
    except ValueError as error:
        return page.note(f"{error}.")
    if model.stage1.aap is None:
        return page.note("The model has no attributes (model.stage1_aap is false).")
    parts = [_similarity(run, model)]
    if reader is not None:
        parts += _attention(run, model, reader, evaluation)
    return "\n".join(parts)


def _similarity(run: Path, model: MSTAT) -> str:
    assert model.stage1.aap is not None
    proxies = model.stage1.aap.proxies.detach().double().numpy()
    proxies /= np.linalg.norm(proxies, axis=1, keepdims=True).clip(1e-12)
    matrix = proxies @ proxies.T
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    told = f"{len(matrix)} proxies, the most alike have a cosine of {others.max(initial=0.0):.2f}"
    svg = figures.similarity_figure(matrix)
    save(run, "proxies.svg", svg)
    return (
        f"<figure>{page.picture(svg, 'image/svg+xml', f'Similarity of attribute proxies: {told}')}"
        f"<figcaption>Similarity of the attribute proxies of Stage I: {page.escape(told)}</figcaption></figure>"
    )


def _attention(run: Path, model: MSTAT, reader: Reader, evaluation: Mapping[str, Any]) -> list[str]:
    """For a query of each of some people: consecutive frames, and what chosen proxies attend to, a colour each."""
    import torch

    parts = []
    for index in _queries(reader, evaluation):
        tracklet = reader[index]
        first = max(0, (tracklet.num_frames - NUM_FRAMES) // 2)
        numbers = range(first, min(first + NUM_FRAMES, tracklet.num_frames))
        try:
            frames = reader.frames(index, list(numbers), size=model.config.image_size)
        except (DataError, OSError) as error:
            parts.append(page.note(f"No frames of {tracklet.key}: {error}"))
            continue
        maps_AThw = model.attribute_maps(torch.from_numpy(frames)[None])[0].float().numpy()
        chosen = heatmaps.choose(maps_AThw)
        shown = heatmaps.overlay(frames, maps_AThw[chosen], list(heatmaps.COLOURS.values()))
        jpeg, (width, height) = encode_strip(np.concatenate([frames, shown], axis=1))
        legend = ", ".join(f"{colour}: proxy {proxy}" for colour, proxy in zip(heatmaps.COLOURS, chosen, strict=False))
        alt = f"Frames of {tracklet.key}, and below them where attributes look: {legend}"
        save(run, f"attention-{tracklet.key}.jpg", jpeg)
        size = (2 * width, 2 * height) if height <= SHOWN_HEIGHT else (width, height)
        parts.append(
            f"<figure>{page.picture(jpeg, 'image/jpeg', alt, size)}<figcaption>Attention of four attributes in "
            f"{page.escape(tracklet.key)}, above it the frames. {page.escape(legend)}</figcaption></figure>"
        )
    return parts


def _queries(reader: Reader, evaluation: Mapping[str, Any]) -> list[int]:
    """The first query of each of the first people who are asked for."""
    queries = np.flatnonzero(reader.roles(evaluation["protocol"], evaluation["split"]) & Role.QUERY)
    _, first = np.unique(reader.pids[queries], return_index=True)
    return [int(index) for index in queries[np.sort(first)][:NUM_PEOPLE]]


def embedding(run: Path, found: Mapping[str, Any]) -> str:
    """HTML: tracklets in the plane."""
    pids = np.array(found["pids"])
    svg = figures.embedding_figure(np.array(found["points"], dtype=np.float64).reshape(-1, 2), pids)
    save(run, "embedding.svg", svg)
    told = f"{len(pids)} tracklets of {len(np.unique(pids))} people, the first third of those who are tested"
    return (
        f"<figure>{page.picture(svg, 'image/svg+xml', f'Tracklets in the plane by t-SNE: {told}')}"
        f"<figcaption>t-SNE of the joined features: {page.escape(told)}</figcaption></figure>"
    )
