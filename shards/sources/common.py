"""Functions that several sources share: official counts, pictures in folders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial as bind
from pathlib import Path

from shards.guarded import read_regular
from shards.records import DataError, Frame

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_NAMED = 10  # files that a message names; the rest is counted


def check_counts(root: Path, title: str, counts: Mapping[str, int], official: Mapping[str, int], partial: bool) -> str:
    """Return the differences from the official counts, for the fact `partial`; empty if there are none.

    Raises DataError where something does and `partial` is not set.
    """
    wrong = "; ".join(f"{what} {counts[what]:,}, not {n:,}" for what, n in official.items() if counts[what] != n)
    if wrong and not partial:
        raise DataError(f"{root}: not the whole of {title}: {wrong}; complete it, or accept it with --partial")
    return wrong and f"not the whole of {title}, figures are not comparable: {wrong}"


def is_picture(name: str) -> bool:
    """Return whether a file's name is that of a picture."""
    return name.lower().endswith(PICTURES)


def some(items: Sequence[object]) -> str:
    """The first of some paths or names, and how many more there are."""
    more = f" and {len(items) - MAX_NAMED:,} more" if len(items) > MAX_NAMED else ""
    return ", ".join(map(str, items[:MAX_NAMED])) + more


def printable(name: str) -> str:
    """A file's name as text that can be printed, also where its bytes are no UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def pictures_of(folder: Path) -> list[str]:
    """Names of the pictures in a folder, by the numbers in them (2 before 10).

    Raises DataError where there is none, and where two have one name but for the type or leading zeros.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; unpack the data set again")
    listed = os.listdir(folder)
    keys = sorted(natural(name) for name in listed if is_picture(name) and not name.startswith("."))
    if not keys:
        there = f"; there is {some(sorted(map(printable, listed)))}" if listed else ""
        raise DataError(
            f"{folder}: no picture in it ({', '.join(PICTURES)}){there}; unpack it again, or remove the folder"
        )
    first: dict[tuple[object, ...], str] = {}
    for (*parts, (_, ending)), name in keys:
        other = first.setdefault((*parts, ending.rpartition(".")[0]), name)
        if other != name:
            raise DataError(f"{folder}: {other} and {name} are one frame by their names; remove one of them")
    return [name for _, name in keys]


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key: runs of digits count as numbers; names that differ in zeros alone keep an order."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def numbered(root: Path, names: Sequence[str], what: str) -> tuple[dict[str, int], dict[str, str]]:
    """A number for each name, and the fact that says which where they are no numbers from 1 already.

    Raises DataError where two names differ in zeros, spaces or letter case alone: whether they are one is a guess.
    """
    first: dict[int | str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).strip().casefold()
        other = first.setdefault(int(plain) if plain.isdecimal() else plain, name)
        if other != name:
            raise DataError(
                f"{root}: {what} {other!r} and {name!r} differ in zeros, spaces or letter case alone; rename one of "
                "them everywhere"
            )
    numbers = {name: int(name) for name in names if name.isdecimal() and int(name) > 0}
    if len(numbers) == len(names):
        return numbers, {}
    numbers = {name: number for number, name in enumerate(names, start=1)}
    return numbers, {what: ", ".join(f"{number} {printable(name)}" for name, number in numbers.items())}


def files_of(folder: Path, names: Sequence[str]) -> Iterator[Frame]:
    """The frames that lie in a folder under these names."""
    for name in names:
        path = f"{folder}/{name}"
        yield Frame(path, bind(_read_picture, path))


def _read_picture(path: str) -> bytes:
    try:
        return read_regular(path)
    except DataError as error:  # a bad frame
        raise ValueError(str(error).removeprefix(f"{path}: ")) from error


def missing_pictures(missing: Sequence[Path], listed_in: str, way_out: str = "unpack them again") -> DataError:
    """The error for pictures that lists promise."""
    return DataError(f"listed in {listed_in}, but missing: {some(missing)}; {way_out}")


def check_gaps(numbers: Mapping[str, Sequence[int]], start: int | None = None) -> dict[str, str]:
    """The fact `gaps`, where frame numbers of a tracklet are missing; empty where none is.

    Args:
        numbers: Of each tracklet, by its key, in rising order.
        start: Number of every tracklet's first frame, if it is always the same.
    """
    gaps = {}
    for key, frames in numbers.items():
        first = frames[0] if start is None else min(start, frames[0])
        if missing := frames[-1] + 1 - first - len(frames):
            gaps[key] = missing
    if not gaps:
        return {}
    named = some([f"{key} {count:,}" for key, count in gaps.items()])
    return {"gaps": f"frames missing by their numbers: {sum(gaps.values()):,} ({named})"}
