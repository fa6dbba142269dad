"""Functions shared by sources: official counts, pictures in folders, numbering of names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial as bind
from pathlib import Path

from shards.guarded import read_regular
from shards.records import DataError, Frame, Protocol

PICTURES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
UNLABELLED = Protocol("unlabelled", description="all tracklets are the gallery, without identities and queries")
MAX_NAMED = 10  # names in a message; the others are counted


def check_counts(root: Path, title: str, counts: Mapping[str, int], official: Mapping[str, int], partial: bool) -> str:
    """Return the differences from the official counts as text for the fact `partial`; empty if there are none.

    Without `partial`, raises DataError on a difference.
    """
    wrong = "; ".join(f"{what} {counts[what]:,}, not {n:,}" for what, n in official.items() if counts[what] != n)
    if wrong and not partial:
        raise DataError(f"{root}: not the whole of {title}: {wrong}; complete it, or accept it with --partial")
    return wrong and f"not the whole of {title}, figures are not comparable: {wrong}"


def is_picture(name: str) -> bool:
    """Return whether a file name has the extension of a picture."""
    return name.lower().endswith(PICTURES)


def some(items: Sequence[object], most: int = MAX_NAMED) -> str:
    """List the first `most` items, and count the others."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def printable(name: str) -> str:
    """Escape the bytes of a file name that are not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def pictures_of(folder: Path) -> list[str]:
    """Return the names of the pictures in a folder, sorted by the numbers in them (2 before 10).

    Raises DataError if there is none, or if two names differ only in extension or leading zeros.
    """
    names = list_pictures(folder)
    refuse_same_numbers(folder, names)
    return names


def list_pictures(folder: Path) -> list[str]:
    """Return the names of the pictures in a folder as `pictures_of`, also if two have the same number."""
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; unpack the data set again")
    listed = os.listdir(folder)
    keys = sorted(natural(name) for name in listed if is_picture(name) and not name.startswith("."))
    if not keys:
        there = f", but {some(sorted(map(printable, listed)))}" if listed else ""
        raise DataError(
            f"{folder}: contains no picture ({', '.join(PICTURES)}){there}; unpack it again, or remove the folder"
        )
    return [name for _, name in keys]


def refuse_same_numbers(folder: Path, names: Sequence[str], way_out: str = "remove one of them") -> None:
    """Raise DataError if two names differ only in extension or leading zeros."""
    first: dict[tuple[object, ...], str] = {}
    for name in names:
        (*parts, (_, ending)), _ = natural(name)
        other = first.setdefault((*parts, ending.rpartition(".")[0]), name)
        if other != name:
            raise DataError(f"{folder}: {other} and {name} have the same frame number; {way_out}")


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that compares digits as numbers, and then the names themselves."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def plain(name: str) -> str:
    """Return a name without what may differ by mistake: leading zeros of numbers, spaces, letter case, Unicode form."""
    words = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), words)


def numbered(root: Path, names: Sequence[str], what: str) -> tuple[dict[str, int], dict[str, str]]:
    """Return a number for each name, and a fact with this numbering unless all names are numbers from 1.

    Raises DataError if two names differ only in zeros, spaces or letter case, which may be a mistake.
    """
    first: dict[str, str] = {}
    for name in names:
        if (other := first.setdefault(plain(name), name)) != name:
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
    """Yield the frames of a folder with these names."""
    for name in names:
        path = f"{folder}/{name}"
        yield Frame(path, bind(_read_picture, path))


def _read_picture(path: str) -> bytes:
    try:
        return read_regular(path)
    except DataError as error:  # a bad frame
        raise ValueError(str(error).removeprefix(f"{path}: ")) from error


def missing_pictures(missing: Sequence[Path], listed_in: str, way_out: str = "unpack them again") -> DataError:
    """Return the error for listed pictures that are missing."""
    return DataError(f"listed in {listed_in}, but missing: {some(missing)}; {way_out}")


def check_gaps(numbers: Mapping[str, Sequence[int]], start: int | None = None) -> dict[str, str]:
    """Return the fact `gaps` if frame numbers are missing within tracklets; otherwise an empty dict.

    Args:
        numbers: Frame numbers of each tracklet, by key, in rising order.
        start: Number of the first frame of every tracklet, if it is always the same.
    """
    gaps = {}
    for key, frames in numbers.items():
        first = frames[0] if start is None else min(start, frames[0])
        if missing := frames[-1] + 1 - first - len(frames):
            gaps[key] = missing
    return gaps_fact(gaps)


def gaps_fact(gaps: Mapping[str, int]) -> dict[str, str]:
    """Return the fact `gaps`, given the number of missing frames of tracklets by key; an empty dict if none has any."""
    if not gaps:
        return {}
    named = some([f"{key} {count:,}" for key, count in gaps.items()])
    return {"gaps": f"frames missing by their numbers: {sum(gaps.values()):,} ({named})"}
