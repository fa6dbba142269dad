"""Select pictures by folder, prefix and range of frames, listing each folder once."""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from shards.records import DataError
from shards.sources.common import list_pictures, printable, refuse_same_numbers, some
from shards.sources.walk import Walk

MAX_SHOWN = 3  # numbers or names in a message
# What may follow a prefix that ends in a letter or a digit: another word, or a number and its letter (T1 F001).
SEPARATED = {"letter": re.compile(r"[^\W\d_]"), "digit": re.compile(r"\d|[^\W\d_]+(?!\d|[^\W\d_])")}


class Selection(NamedTuple):
    """Pictures of one tracklet, in order of time."""

    folder: Path
    names: tuple[str, ...]


@dataclass
class _Folder:
    """A folder of pictures: names in order of time, in order of letters, and the owner of each that has one."""

    path: Path
    names: list[str]
    owners: dict[str, int] = field(default_factory=dict)
    frames: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # by prefix

    @cached_property
    def places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    @cached_property
    def by_letters(self) -> list[str]:
        return sorted(self.names)

    def beginning(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, in order of time. Numbers are not cut: T1 is no prefix of T12.

        Raises DataError if there are none, if words are cut (T1 and T1b, bob and bobby), which may be another tracklet,
        or if two names differ only in extension or leading zeros.
        """
        if not prefix:
            refuse_same_numbers(self.path, self.names)
            return self.names
        size = len(prefix)
        start = bisect_left(self.by_letters, prefix)
        stop = bisect_right(self.by_letters, prefix, lo=start, key=lambda name: name[:size])
        names = self.by_letters[start:stop]
        if prefix[-1].isdecimal():
            names = [name for name in names if not name[size : size + 1].isdecimal()]
        if not names:
            longer = f" ({self.by_letters[start]} goes on with a digit)" if stop > start else ""
            raise DataError(
                f"no picture in {self.path} begins with {printable(prefix)}{longer}; correct it, or unpack the set "
                "again"
            )
        kind = "digit" if prefix[-1].isdecimal() else "letter" if prefix[-1].isalpha() else None
        if kind and (cut := [name for name in names if SEPARATED[kind].match(os.path.splitext(name)[0], size)]):
            raise DataError(
                f"{printable(prefix)} is cut within a word of {printable(cut[0])}, which may be of another tracklet; "
                "write the beginning up to a separator or number"
            )
        names.sort(key=self.places.__getitem__)
        refuse_same_numbers(self.path, names, "write a longer beginning, or give the tracklets folders of their own")
        return names

    def numbered(self, prefix: str) -> list[tuple[int, str]]:
        """Return number and name of the frames that begin with `prefix`; the number is the last one in the name."""
        if prefix not in self.frames:
            names = self.beginning(prefix)
            digits = [re.findall(r"[0-9]+", os.path.splitext(name)[0]) for name in names]
            if without := [name for name, numbers in zip(names, digits, strict=True) if not numbers]:
                raise DataError(f"{self.path}: {some(without, MAX_SHOWN)}: no number in the name; omit start and end")
            frames = sorted((int(numbers[-1]), name) for numbers, name in zip(digits, names, strict=True))
            for (number, one), (other_number, other) in pairwise(frames):
                if number == other_number:
                    raise DataError(f"{self.path}: {one} and {other} are both frame {number}; give a longer prefix")
            self.frames[prefix] = frames
        return self.frames[prefix]


class Folders:
    """The folders of a data set in which pictures are selected.

    Args:
        root: Folder that all paths are relative to.

    Raises DataError if the root is no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the folder of the pictures as --root")
        self._root = root
        self._real: dict[Path, PurePosixPath] = {}  # place of the folder behind links
        self._folders: dict[PurePosixPath, _Folder | str] = {}  # or the fault of a folder

    def select(self, where: str, frames: tuple[int, int] | None = None) -> Selection:
        """Return the pictures of a folder, or those whose names begin with the last part of a path.

        Args:
            where: Path of a folder, or of a folder and the beginning of names; parts are separated by `/`.
            frames: First and last number of a frame, both included.

        Raises DataError if the path leads out of the root, if there are no such pictures or frames, or if two pictures
        have the same number.
        """
        place, prefix = self._place(where)
        folder = self._folder(place)
        if frames is None:
            return Selection(folder.path, tuple(folder.beginning(prefix)))
        numbered = folder.numbered(prefix)
        start, stop = bisect_left(numbered, frames[0], key=_number), bisect_right(numbered, frames[1], key=_number)
        selected = numbered[start:stop]
        for number, end in zip(frames, (0, -1), strict=True):
            if not selected or selected[end][0] != number:
                first, last = numbered[0][0], numbered[-1][0]
                gaps = " with gaps" if first < number < last else ""
                there = f"they are frames {first} to {last}{gaps}"
                raise DataError(
                    f"no picture of {self._root / where} is frame {number}; {there}; correct the range, or unpack the "
                    "set again"
                )
        return Selection(folder.path, tuple(name for _, name in selected))

    def claim(self, selection: Selection, owner: int) -> tuple[int, str] | None:
        """Note the owner of pictures. Return the owner and name of a picture that has another one, if any."""
        place = PurePosixPath(selection.folder.relative_to(self._root))
        owners = self._folder(self._real.setdefault(selection.folder.resolve(), place)).owners
        for name in selection.names:
            if owners.setdefault(name, owner) != owner:
                return owners[name], f"{selection.folder}/{name}"
        return None

    def facts(self) -> dict[str, str]:
        """Return facts about files in the folders of selections that no selection has; see `Walk.facts`."""
        walk = Walk(self._root)
        used = {parent for place in self._folders for parent in (place, *place.parents)}
        for place, folder in sorted(self._folders.items()):
            if isinstance(folder, _Folder):
                owners = self._folders[self._real.get(folder.path.resolve(), place)].owners  # type: ignore[union-attr]
                for name in sorted(set(os.listdir(folder.path)).difference(owners)):
                    if place / name not in used:
                        kind = "hidden pictures" if name.startswith(".") else "pictures in no row"
                        walk.skip(kind, folder.path / name)
        return walk.facts()

    def _place(self, where: str) -> tuple[PurePosixPath, str]:
        """Return the folder of a path, and the beginning of names in it; empty if the path is a folder."""
        place = PurePosixPath(where)
        if place.is_absolute() and place.is_relative_to(self._root.absolute()):
            place = place.relative_to(self._root.absolute())
        if place.is_absolute() or ".." in place.parts:
            raise DataError(f"leads out of {self._root}; write a path in this folder, or give another --root")
        if os.path.isdir(self._root / place):
            return place, ""
        if "\\" in where:
            raise DataError(f"no such folder in {self._root}; write / between folders")
        missing = place if where.endswith("/") else place.parent
        if not os.path.isdir(self._root / missing):
            raise DataError(f"{self._root / missing}: no such folder; unpack it again, or give another --root")
        return place.parent, place.name

    def _folder(self, place: PurePosixPath) -> _Folder:
        if place not in self._folders:
            path = self._root / place
            try:
                self._folders[place] = _Folder(path, list_pictures(path))
            except DataError as error:
                self._folders[place] = str(error)
        folder = self._folders[place]
        if isinstance(folder, str):
            raise DataError(folder)
        return folder


def _number(frame: tuple[int, str]) -> int:
    return frame[0]
