"""Features of tracks while a tracker runs: a stream of crops by track -> a running feature of each track.

It imports no tracker. A tracker calls `TrackFeatures.update` for each frame with its ids and the crops of its boxes.
Shape suffixes: B tracks that are embedded together, T frames of a clip, H x W pixels, D feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mstat.errors import UserError
from mstat.model import MSTAT, join_stages
from shards import images


@dataclass
class _Track:
    """Crops of the clip that is not complete yet, and the sum of the features of complete clips."""

    crops: list[np.ndarray] = field(default_factory=list)
    sum_D: Tensor | None = None
    num_clips: int = 0
    seen: int = 0  # number of the last update with a crop


class TrackFeatures:
    """Running features of tracks, each the mean over clips of `num_frames` consecutive crops.

    Memory does not depend on the length of a track: it keeps the crops of one clip and one feature. A feature is there
    from the first crop on: a clip that is not complete repeats its frames evenly, as an evaluation does, and counts
    until it is complete. After the last crop of a track, its feature is that of `launch/embed.py` with
    `--eval.mode clips --eval.num_frames num_frames` for a tracklet of the same frames, apart from how frames are
    compressed and resized.

    Args:
        model: Result of `mstat.load`, on any device.
        num_frames: Frames of a clip, T.
        every: Embed the incomplete clip of a track after so many new crops; complete clips are always embedded.
        forget_after: Forget a track after so many updates without a crop of it; None keeps all.
    """

    def __init__(self, model: MSTAT, num_frames: int = 8, *, every: int = 1, forget_after: int | None = 300) -> None:
        if num_frames < 1 or every < 1 or (forget_after is not None and forget_after < 1):
            raise UserError("num_frames, every and forget_after must be at least 1")
        self.model, self.num_frames, self.every, self.forget_after = model, num_frames, every, forget_after
        self._tracks: dict[int, _Track] = {}
        self._features: dict[int, Tensor] = {}
        self._updates = 0

    def __len__(self) -> int:
        return len(self._tracks)

    def update(self, ids: Iterable[int], crops: Sequence[np.ndarray]) -> Mapping[int, Tensor]:
        """Add one crop to each of these tracks, and return the features of all known tracks by id, each (D,) fp32.

        Args:
            ids: Ids of the tracks in this frame, each once.
            crops: Their crops, uint8 RGB of shape (H, W, 3) and any size. OpenCV's frames are BGR: give
                `frame[y0:y1, x0:x1, ::-1]`.

        Raises:
            UserError: If numbers of ids and crops differ, an id is there twice, or a crop is not such a picture.
        """
        numbers = [int(number) for number in ids]
        if len(numbers) != len(crops) or len(set(numbers)) != len(numbers):
            raise UserError(f"{len(numbers)} ids ({len(set(numbers))} different) and {len(crops)} crops: give one each")
        ready = [self._resized(number, crop) for number, crop in zip(numbers, crops, strict=True)]
        self._updates += 1
        due = []
        for number, crop_HWC in zip(numbers, ready, strict=True):
            track = self._tracks.setdefault(number, _Track())
            track.crops.append(crop_HWC)
            track.seen = self._updates
            num_crops = len(track.crops)
            if num_crops == self.num_frames or num_crops % self.every == 0 or number not in self._features:
                due.append(number)
        self._embed(due)
        if self.forget_after is not None:
            gone = [id_ for id_, track in self._tracks.items() if self._updates - track.seen >= self.forget_after]
            for number in gone:
                self.forget(number)
        return dict(self._features)

    def feature(self, track: int) -> Tensor:
        """Return the feature of a track with all its crops, (D,) fp32 on the CPU. Raises UserError if it is unknown."""
        if track not in self._tracks:
            raise UserError(f"track {track} is not known: it has no crop yet, or it was forgotten")
        if self._tracks[track].crops:
            self._embed([track])
        return self._features[track]

    def forget(self, track: int) -> None:
        """Drop a track."""
        self._tracks.pop(track, None)
        self._features.pop(track, None)

    def similarity(self, track: int, features_ND: Tensor) -> Tensor:
        """Return the cosine similarities (N,) of a track's feature and others, such as those of a gallery."""
        return F.normalize(features_ND.float(), dim=1) @ F.normalize(self.feature(track), dim=0)

    def _resized(self, number: int, crop: np.ndarray) -> np.ndarray:
        if not isinstance(crop, np.ndarray) or crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3:
            text = f"{crop.dtype} {crop.shape}" if isinstance(crop, np.ndarray) else type(crop).__name__
            raise UserError(f"track {number}: a crop must be a uint8 array of shape (H, W, 3), not {text}")
        if not crop.size:
            raise UserError(f"track {number}: its crop is empty, {crop.shape}: leave boxes outside of the frame out")
        return images.resize(crop[None], self.model.config.image_size)[0]

    def _embed(self, numbers: Sequence[int]) -> None:
        """Embed the present clips of some tracks in one batch, and close the complete ones."""
        if not numbers:
            return
        clips = []
        for number in numbers:
            crops = self._tracks[number].crops
            clips.append(np.stack([crops[frame * len(crops) // self.num_frames] for frame in range(self.num_frames)]))
        frames_BTHWC = torch.from_numpy(np.stack(clips)).to(self.model.stem.position.device)
        with torch.no_grad():
            parts = [part.float().cpu() for part in self.model.compared(frames_BTHWC, self.model.embedding.feature)]
        for number, joined_D in zip(numbers, torch.cat(parts, dim=1), strict=True):
            track = self._tracks[number]
            sum_D = joined_D if track.sum_D is None else track.sum_D + joined_D
            # Stages are scaled to length 1 after the mean over clips, as in an evaluation.
            mean_1D = (sum_D / (track.num_clips + 1))[None]
            stages = mean_1D.split([part.shape[1] for part in parts], dim=1)
            self._features[number] = join_stages(stages, self.model.embedding.stage_norm)[0]
            if len(track.crops) == self.num_frames:
                track.sum_D, track.num_clips, track.crops = sum_D, track.num_clips + 1, []
