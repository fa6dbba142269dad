"""Shard sets of any size with real pictures in them: what the benchmarks of the loader and of growth read and build."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shard_speed import real_pictures

from shards.records import Frame, Protocol, Role, Source, SourceTracklet
from shards.sources.common import files_of

LENGTH, CAMERAS = 58, 2  # frames of a tracklet, as MARS has in the mean; one tracklet of each identity and camera


class Drawn(NamedTuple):
    """The frames of a tracklet: files of a folder, in any order, any of them more than once. Picklable."""

    folder: Path
    names: tuple[str, ...]

    def __call__(self) -> Iterator[Frame]:
        return files_of(self.folder, list(self.names))


def pictures(folder: Path) -> Path:
    """A new folder in `folder` with some hundred crops of the real video, 256x128, as JPEGs of MARS's weight."""
    place = folder / "pictures"
    place.mkdir()
    for number, crop in enumerate(real_pictures(folder)):
        (place / f"{number:04d}.jpg").write_bytes(crop)
    return place


def source(place: Path, num_tracklets: int) -> Source:
    """Training tracklets of LENGTH pictures, drawn from those of a folder made by `pictures`."""
    names: Sequence[str] = sorted(path.name for path in place.iterdir())
    rng = random.Random(0)
    tracklets = tuple(
        SourceTracklet(
            key=f"{number:06d}",
            pid=number // CAMERAS + 1,
            camid=number % CAMERAS + 1,
            num_frames=LENGTH,
            roles=(Role.TRAIN,),
            frames=Drawn(place, tuple(rng.choices(names, k=LENGTH))),
        )
        for number in range(num_tracklets)
    )
    return Source("realistic", (Protocol("all"),), tracklets)
