"""Data sets of real pictures of any size, for the benchmarks of loading and shards."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.harness import SHARED
from shards.records import Frame, Protocol, Role, Source, SourceTracklet
from shards.sources import mot
from shards.sources.common import files_of

LENGTH, CAMERAS = 58, 2  # frames of a tracklet (MARS's mean); each identity has one tracklet per camera


@dataclass(frozen=True)
class Files:
    """The frames of a tracklet: the files of a folder. Picklable."""

    folder: Path
    names: tuple[str, ...]

    def __call__(self) -> Iterator[Frame]:
        return files_of(self.folder, list(self.names))


def crops(scratch: Path) -> list[bytes]:
    """Return a few hundred crops of the real video, 256x128, as JPEGs of about MARS's file size (quality 75)."""
    data = SHARED / "data" / "pets2009"
    source = mot.read([data / "vtest.avi"], [data / "gt.txt"], scratch=scratch / "crops", halve_tracks=True)
    result = []
    for tracklet in source.tracklets:
        for frame in list(tracklet.frames())[::8]:
            buffer = io.BytesIO()
            Image.open(io.BytesIO(frame.read())).convert("RGB").save(buffer, "JPEG", quality=75)
            result.append(buffer.getvalue())
    return result


def source(folder: Path, crops: Sequence[bytes], num_tracklets: int) -> Source:
    """Write training tracklets of LENGTH files to a new folder, each file a crop drawn at random."""
    rng, tracklets = random.Random(0), []
    for number in range(num_tracklets):
        key, names = f"{number:06d}", tuple(f"{frame:04d}.jpg" for frame in range(LENGTH))
        (folder / key).mkdir(parents=True)
        for name in names:
            (folder / key / name).write_bytes(rng.choice(crops))
        pid, camid, files = number // CAMERAS + 1, number % CAMERAS + 1, Files(folder / key, names)
        tracklets.append(SourceTracklet(key, pid, camid, LENGTH, (Role.TRAIN,), files))
    return Source("realistic", (Protocol("all"),), tuple(tracklets))
