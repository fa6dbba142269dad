"""Clips of actions, in one folder per class, for launch/pretrain.py.

    ROOT/<split>/<class>/<clip>

A clip is a video file (avi, mkv, mov, mp4, webm, ...) or a folder of pictures, ordered by the numbers in their names,
2 before 10. The splits are `train` and `val`, `test` or both; `val` and `test` are the held-out parts of protocols of
the same names. Classes are numbers from 1, or names, which are numbered in sorted order. Every held-out class must also
be in `train`. From a long clip, --frames evenly spaced frames are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial as bind
from pathlib import Path

from shards.paths import path
from shards.records import DataError, Frame, Protocol, Role, Source, SourceTracklet
from shards.sources.common import files_of, natural, numbered, some
from shards.sources.options import positive_int
from shards.sources.video import VIDEOS, count_frames, frames_of_video
from shards.sources.walk import Walk

HELD_OUT = ("val", "test")
NUM_FRAMES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build actions`."""
    parser.add_argument("--source", type=path, required=True, metavar="DIR", help="folder of <split>/<class>/<clip>")
    parser.add_argument("--name", metavar="NAME", help="name of the data set (default: the folder's name)")
    parser.add_argument(
        "--frames",
        type=positive_int,
        default=NUM_FRAMES,
        metavar="N",
        help=f"largest number of frames per clip (default: {NUM_FRAMES})",
    )
    parser.set_defaults(read=lambda args: read(args.source, name=args.name, num_frames=args.frames))


def read(root: Path, *, name: str | None = None, num_frames: int = NUM_FRAMES) -> Source:
    """Walk the folders, number the classes and count the frames of each clip, without decoding.

    Raises DataError with folder and way out: unknown splits, a class without clips, a held-out class that is not in
    `train`. A video that cannot be opened counts as one bad frame, so that a build can list or drop all of them.
    """
    walk = Walk(root)
    splits = walk.folders(root)
    if "train" not in splits or not set(splits) - {"train"} <= set(HELD_OUT) or len(splits) < 2:
        raise DataError(f"{root}: folders {', '.join(splits) or 'none'}; expected train, and val, test or both")
    classes = {split: walk.folders(root / split) for split in splits}
    for split, names in classes.items():
        if untrained := sorted(set(names) - set(classes["train"]), key=natural):
            raise DataError(
                f"{root / split}: {some(untrained)}: not in {root / 'train'}, so that no model can learn it; "
                "add clips there, or remove it here"
            )
    pids, facts = numbered(root, sorted(classes["train"], key=natural), "classes")
    protocols = tuple(
        Protocol(split, description=f"a classifier of the classes in train, tried on {split}")
        for split in HELD_OUT
        if split in splits
    )
    tracklets = []
    for split in ("train", *(protocol.name for protocol in protocols)):
        roles = tuple(_role(split, protocol) for protocol in protocols)
        for class_name in sorted(classes[split], key=natural):
            pid = pids[class_name]
            clips = _clips(walk, root / split / class_name, num_frames)
            for number, (count, frames) in enumerate(clips, start=1):
                tracklets.append(SourceTracklet(f"{split}-{pid:04d}T{number:06d}", pid, 1, count, roles, frames))
    facts["frames"] = f"{num_frames} of a clip at most, spread evenly"
    return Source(name or root.resolve().name, protocols, tuple(tracklets), {**facts, **walk.facts()})


def _role(split: str, protocol: Protocol) -> Role:
    return Role.TRAIN if split == "train" else Role.GALLERY if split == protocol.name else Role.NONE


def _clips(walk: Walk, folder: Path, num_frames: int) -> Iterator[tuple[int, Callable[[], Iterator[Frame]]]]:
    """Yield the number of frames of each clip of a class, and the function that yields them."""
    names = sorted(walk.folders(folder, VIDEOS), key=natural)
    if not names:
        raise DataError(f"{folder}: contains no clip; a clip is a video ({', '.join(VIDEOS)}) or a folder of pictures")
    for name in names:
        clip = folder / name
        if clip.is_dir():
            pictures = walk.pictures(clip)
            chosen = [pictures[i] for i in _spread(len(pictures), num_frames)]
            yield len(chosen), bind(files_of, clip, chosen)
        else:
            numbers = [i + 1 for i in _spread(max(1, count_frames(clip)), num_frames)]
            yield len(numbers), bind(frames_of_video, clip, numbers)


def _spread(count: int, most: int) -> Sequence[int]:
    return range(count) if count <= most else [i * count // most for i in range(most)]
