"""The layout of iLIDS-VID and PRID-2011: one tracklet per person and camera."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial as bind
from pathlib import Path

from shards.records import DataError, Protocol, Role, Source, SourceTracklet
from shards.sources.common import check_gaps, files_of, some
from shards.sources.walk import Walk


def two_cameras(
    name: str,
    protocols: Sequence[Protocol],
    walk: Walk,
    folders: Mapping[int, Sequence[Path]],
    prefix: Callable[[int, int], str],
    test: Sequence[Sequence[frozenset[int]]],
    facts: Mapping[str, str],
    first_frame: int | None = None,
) -> Source:
    """Make a source whose queries are of camera 1 and whose gallery is of camera 2.

    Args:
        folders: Folders of each person's pictures, camera 1 first.
        prefix: Returns the text before the frame number in the names of pictures of a (person, camera).
        test: The test persons of each protocol and split; all others train.
        first_frame: Number of the first frame, if it is the same in all folders.

    Raises DataError if a folder has no picture, or one named for another person or camera.
    """
    tracklets = []
    numbers: dict[str, list[int]] = {}
    for pid, of_cameras in sorted(folders.items()):
        for camid, folder in enumerate(of_cameras, start=1):
            names = walk.pictures(folder)
            role = Role.QUERY if camid == 1 else Role.GALLERY
            roles = [role if pid in persons else Role.TRAIN for splits in test for persons in splits]
            key = f"{pid:04d}C{camid}T0001"
            numbers[key] = _frame_numbers(folder, names, prefix(pid, camid))
            tracklets.append(SourceTracklet(key, pid, camid, len(names), tuple(roles), bind(files_of, folder, names)))
    facts = {**facts, **check_gaps(numbers, first_frame), **walk.facts()}
    return Source(name, tuple(protocols), tuple(tracklets), facts)


def _frame_numbers(folder: Path, names: Sequence[str], prefix: str) -> list[int]:
    texts = {name: name.rpartition(".")[0].removeprefix(prefix) for name in names if name.startswith(prefix)}
    foreign = [name for name in names if not texts.get(name, "").isdecimal()]
    if foreign:
        raise DataError(
            f"{folder}: {some(foreign)}: expected names {prefix}<frame number>; move pictures of another person or "
            "camera to their folder, or remove them"
        )
    return [int(text) for text in texts.values()]
