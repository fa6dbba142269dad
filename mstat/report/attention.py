"""Pictures of a trained model: its attribute proxies (Figs. 10 and 11) and the t-SNE of test identities (Fig. 12).

The paper shows MARS and iLIDS-VID; these pictures show the run's own data set.
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

NO_WORD = re.compile(r"[^A-Za-z0-9_-]")  # characters of a key that are unsafe in a file name
NUM_PEOPLE, NUM_FRAMES = 2, 4  # as in Fig. 11
FRAME_HEIGHT = 176  # CSS pixels


def check(folder: Folder) -> None:
    """Raise UserError if requested proxies or tracklets cannot be shown."""
    if not folder.proxies and not folder.tracklets:
        return
    if isinstance(folder.evaluation, str):
        raise UserError(f"{folder.run}: {folder.evaluation} Pictures of attributes need it")
    aap = folder.model.stage1.aap
    if aap is None:
        raise UserError(f"{folder.run}: the model has no attributes (model.stage1_aap is false)")
    if unknown := [proxy for proxy in folder.proxies if not 0 <= proxy < len(aap.proxies)]:
        raise UserError(f"{folder.run}: no proxy {unknown[0]}; proxies are 0 to {len(aap.proxies) - 1}")
    if len(folder.proxies) > len(heatmaps.COLOURS):
        raise UserError(f"{len(folder.proxies)} proxies requested; at most {len(heatmaps.COLOURS)} can be shown")
    if isinstance(folder.reader, str):
        raise UserError(f"{folder.run}: {folder.reader}")
    for key in folder.tracklets:
        _find(folder.reader, key)


def attributes(folder: Folder) -> str:
    """Return HTML with the similarity of the attribute proxies, and the attention of some of them."""
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
    caption = (
        f"Cosine similarity of the {len(matrix)} attribute proxies of Stage I, "
        f"at most {others.max(initial=0.0):.2f} between two of them"
    )
    return folder.figure("proxies.svg", figures.similarity_figure(matrix), caption, f"{caption}.")


def _attention(folder: Folder, model: MSTAT, reader: Reader, evaluation: Mapping[str, Any]) -> list[str]:
    """Return pictures of consecutive frames of some tracklets, with the attention of each chosen proxy in a colour."""
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
            size = (2 * FRAME_HEIGHT, max(1, round(2 * FRAME_HEIGHT * width / height)))  # for high-resolution screens
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
    """Return the figure of one tracklet.

    Args:
        chosen: Proxy -> name and value of its colour.
    """
    shown_CTHW = heatmaps.shown(maps_AThw[list(chosen)], frames_THWC.shape[1:3])
    heat = heatmaps.overlay(frames_THWC, shown_CTHW, [colour for _, colour in chosen.values()])
    jpeg, size = encode_strip(np.concatenate([frames_THWC, heat], axis=1), 2 * FRAME_HEIGHT)
    folder.save(f"attention-{NO_WORD.sub('_', key)[:80]}.jpg", jpeg)
    legend = []
    for (proxy, (name, _)), shown_THW in zip(chosen.items(), shown_CTHW, strict=True):
        attention, area = heatmaps.share(maps_AThw[proxy], shown_THW)
        legend.append(f"{name}: proxy {proxy}, {attention:.0%} of its attention on {area:.0%} of the frames")
    caption = f"Frames {numbers[0]} to {numbers[-1]} of {key}; below, with the attention of attributes of Stage I"
    image = page.picture(jpeg, page.JPEG, f"{caption}: {'; '.join(legend)}", size)
    keys = "<br>".join(
        f"{_swatch(colour)} {page.escape(text)}" for (_, colour), text in zip(chosen.values(), legend, strict=True)
    )
    return f"<figure>{image}<figcaption>{page.escape(caption)}.<br>{keys}</figcaption></figure>"


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
    """Return the first query of each of the first NUM_PEOPLE query identities."""
    queries = np.flatnonzero(reader.roles(evaluation["protocol"], evaluation["split"]) & Role.QUERY)
    _, first = np.unique(reader.pids[queries], return_index=True)
    return [int(index) for index in queries[np.sort(first)][:NUM_PEOPLE]]


def embedding(folder: Folder) -> str:
    """Return HTML with the t-SNE of test identities."""
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
    shown = f"{len(pids)} tracklets of {len(np.unique(pids))} people, the first third of the test identities"
    caption = f"t-SNE of the joined features; each number is a person: {shown}"
    return folder.figure("embedding.svg", svg, caption, f"{caption}.")
