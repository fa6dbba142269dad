"""Pictures of what a trained model has learned: its attributes (Figs. 10 and 11) and the people in the plane (Fig. 12).

The paper draws them for MARS and iLIDS-VID; here they are of the run's own set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mstat.errors import UserError
from mstat.report import figures, heatmaps, page
from mstat.report.images import encode_strip
from mstat.report.run_reader import Folder
from shards.records import DataError, Role

if TYPE_CHECKING:
    from mstat.model import MSTAT
    from shards.read import Reader

NO_WORD = re.compile(r"[^A-Za-z0-9_-]")  # of a key, which names a file
NUM_PEOPLE, NUM_FRAMES = 2, 4  # as Fig. 11 has them
FRAME_HEIGHT = 176  # CSS pixels


def check(folder: Folder) -> None:
    """Refuse proxies and tracklets that are asked for and cannot be shown.

    Raises:
        ValueError: With those there are.
    """
    if not folder.proxies and not folder.tracklets:
        return
    if isinstance(folder.evaluation, str):
        raise UserError(f"{folder.run}: {folder.evaluation} Without it no picture of attributes is drawn")
    aap = folder.model.stage1.aap
    if aap is None:
        raise UserError(f"{folder.run}: the model has no attributes (model.stage1_aap is false)")
    if unknown := [proxy for proxy in folder.proxies if not 0 <= proxy < len(aap.proxies)]:
        raise UserError(f"{folder.run}: no proxy {unknown[0]}; there are 0 to {len(aap.proxies) - 1}")
    if len(folder.proxies) > len(heatmaps.COLOURS):
        raise UserError(f"{len(folder.proxies)} proxies asked for; there are {len(heatmaps.COLOURS)} colours")
    if isinstance(folder.reader, str):
        raise UserError(f"{folder.run}: {folder.reader}")
    for key in folder.tracklets:
        _find(folder.reader, key)


def attributes(folder: Folder) -> str:
    """HTML: how alike the attribute proxies are, and where some of them look."""
    requested = folder.proxies or folder.tracklets
    if isinstance(folder.evaluation, str) or folder.is_set or not (requested or folder.setting("eval", "pictures")):
        return ""
    try:
        model = folder.model
    except ValueError as error:
        return page.note(f"{error}.")
    if model.stage1.aap is None:
        return page.note("The model has no attributes (model.stage1_aap is false).")
    parts = [_similarity(folder, model.stage1.aap.proxies.detach().double().numpy())]
    if isinstance(folder.reader, str):
        parts.append(page.note(folder.reader))
    else:
        parts += _attention(folder, model, folder.reader, folder.evaluation)
    return '<div class="figures three">\n' + "\n".join(parts) + "\n</div>"


def _similarity(folder: Folder, proxies_AD: np.ndarray) -> str:
    directions_AD = proxies_AD / np.linalg.norm(proxies_AD, axis=1, keepdims=True).clip(1e-12)
    matrix = directions_AD @ directions_AD.T
    others = matrix[~np.eye(len(matrix), dtype=bool)]
    message = (
        f"Similarity of the attribute proxies of Stage I: {len(matrix)} proxies, "
        f"the most alike have a cosine of {others.max(initial=0.0):.2f}"
    )
    return folder.figure("proxies.svg", figures.similarity_figure(matrix), message, f"{message}.")


def _attention(folder: Folder, model: MSTAT, reader: Reader, evaluation: Mapping[str, Any]) -> list[str]:
    """Consecutive frames of some tracklets, and what chosen proxies attend to in them, a colour each."""
    import torch

    folder.forget("attention-*.jpg")
    indices = [_find(reader, key) for key in folder.tracklets] or _queries(reader, evaluation)
    clips, notes = [], []
    for index in indices:
        tracklet = reader[index]
        first = max(0, (tracklet.num_frames - NUM_FRAMES) // 2)
        numbers = list(range(first, min(first + NUM_FRAMES, tracklet.num_frames)))
        try:
            height, width = reader.frames(index, numbers[:1]).shape[1:3]
            size = (2 * FRAME_HEIGHT, max(1, round(2 * FRAME_HEIGHT * width / height)))  # for sharp screens
            frames_THWC = reader.frames(index, numbers, size=size)
            seen_THWC = reader.frames(index, numbers, size=model.config.image_size)
        except (DataError, OSError) as error:
            notes.append(page.note(f"No frames of {tracklet.key}: {error}"))
            continue
        maps_AThw = model.attribute_maps(torch.from_numpy(seen_THWC)[None])[0].float().numpy()
        clips.append((tracklet.key, numbers, frames_THWC, maps_AThw))
    if not clips:
        return notes
    every_AThw = np.concatenate([maps_AThw for *_, maps_AThw in clips], axis=1)
    chosen = dict(zip(folder.proxies or heatmaps.choose(every_AThw), heatmaps.COLOURS.items(), strict=False))
    return [_heat(folder, *clip, chosen) for clip in clips] + notes


def _heat(
    folder: Folder,
    key: str,
    numbers: Sequence[int],
    frames_THWC: np.ndarray,
    maps_AThw: np.ndarray,
    chosen: Mapping[int, tuple[str, tuple[int, int, int]]],
) -> str:
    """One tracklet; `chosen` gives the name and value of each proxy's colour."""
    shown_CTHW = heatmaps.shown(maps_AThw[list(chosen)], frames_THWC.shape[1:3])
    heat = heatmaps.overlay(frames_THWC, shown_CTHW, [colour for _, colour in chosen.values()])
    jpeg, size = encode_strip(np.concatenate([frames_THWC, heat], axis=1), 2 * FRAME_HEIGHT)
    folder.save(f"attention-{NO_WORD.sub('_', key)[:80]}.jpg", jpeg)
    legend = []
    for (proxy, (name, _)), shown_THW in zip(chosen.items(), shown_CTHW, strict=True):
        attention, area = heatmaps.share(maps_AThw[proxy], shown_THW)
        legend.append(f"{name}: proxy {proxy}, {attention:.0%} of its attention on {area:.0%} of the frames")
    message = f"Frames {numbers[0]} to {numbers[-1]} of {key}, and below them where attributes of Stage I look"
    image = page.picture(jpeg, page.JPEG, f"{message}: {'; '.join(legend)}", size)
    keys = "<br>".join(
        f"{_swatch(colour)} {page.escape(text)}" for (_, colour), text in zip(chosen.values(), legend, strict=True)
    )
    return f"<figure>{image}<figcaption>{page.escape(message)}.<br>{keys}</figcaption></figure>"


def _swatch(colour: Sequence[int]) -> str:
    fill = f"rgb({', '.join(map(str, colour))})"
    square = f'<rect width="1" height="1" fill="{fill}"></rect>'
    return f'<svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">{square}</svg>'


def _find(reader: Reader, key: str) -> int:
    try:
        return reader.find(key)
    except KeyError:
        raise UserError(f"{reader.path}: no tracklet {key!r}; its keys look like {reader[0].key!r}") from None


def _queries(reader: Reader, evaluation: Mapping[str, Any]) -> list[int]:
    """The first query of each of the first people who are asked for."""
    queries = np.flatnonzero(reader.roles(evaluation["protocol"], evaluation["split"]) & Role.QUERY)
    _, first = np.unique(reader.pids[queries], return_index=True)
    return [int(index) for index in queries[np.sort(first)][:NUM_PEOPLE]]


def embedding(folder: Folder) -> str:
    """HTML: tracklets in the plane."""
    folder.forget("embedding.svg")
    if isinstance(folder.evaluation, str) or folder.is_set or not folder.setting("eval", "pictures"):
        return ""
    result = folder.json("embedding.json")
    if isinstance(result, str):
        return page.note(result)
    if remark := folder.of_other_scores(result):
        return page.note(remark)
    pids = np.array(result["pids"])
    svg = figures.embedding_figure(np.array(result["points"], dtype=np.float64).reshape(-1, 2), pids)
    message = f"{len(pids)} tracklets of {len(np.unique(pids))} people, the first third of those who are tested"
    caption = f"t-SNE of the joined features, each number a person: {message}"
    return folder.figure("embedding.svg", svg, caption, f"{caption}.")
