"""Give the tracks of a video running features: `python examples/track_features.py RUN VIDEO TRACKS [FRAMES]`.

It stands in for the loop of a tracker: TRACKS has the boxes that a tracker would give for each frame, in any layout
that `python -m shards build mot` reads. A tracker's own loop calls `update` in the same way. At the end, the pairs of
tracks that look most alike are printed: where a tracker lost a person and gave a new id, the pair has both ids.
"""

import sys
from collections import defaultdict
from itertools import combinations, islice
from pathlib import Path

import av
import torch

import mstat
from mstat.search.track_features import TrackFeatures
from shards.sources.tracks import Box, read_tracks


def main(run: str, video: str, tracks_file: str, num_frames: int = 100) -> TrackFeatures:
    """Print the most similar tracks, and return the features of all."""
    boxes: dict[int, list[Box]] = defaultdict(list)
    for box in read_tracks(Path(tracks_file)).boxes:
        boxes[box.frame].append(box)
    tracks = TrackFeatures(mstat.load(run), num_frames=8, every=4)
    features: dict[int, torch.Tensor] = {}
    with av.open(video) as container:
        for number, frame in enumerate(islice(container.decode(video=0), num_frames), start=1):
            picture_HWC = frame.to_ndarray(format="rgb24")
            crops = {}
            for box in boxes[number]:
                top, bottom, left, right = box.inside(*picture_HWC.shape[:2])
                if top < bottom and left < right:
                    crops[box.pid] = picture_HWC[top:bottom, left:right]
            features = dict(tracks.update(crops.keys(), list(crops.values())))
    ids = sorted(features)
    similarity = {
        (one, other): float(torch.cosine_similarity(features[one], features[other], dim=0))
        for one, other in combinations(ids, 2)
    }
    print(f"{len(ids)} tracks after {num_frames} frames; most alike:")
    for (one, other), value in sorted(similarity.items(), key=lambda pair: -pair[1])[:5]:
        print(f"  {one} and {other}: {value:.3f}")
    return tracks


if __name__ == "__main__":
    run, video, tracks_file, *num_frames = sys.argv[1:]
    main(run, video, tracks_file, *map(int, num_frames))
