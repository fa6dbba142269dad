"""The relation of tracks and pictures: frame numbers in names of pictures, and MOT's seqinfo.ini."""

from __future__ import annotations

import configparser
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.records import DataError

SEQINFO = "seqinfo.ini"
MAX_SHOWN = 5  # names in a message


@dataclass(frozen=True, slots=True)
class Seqinfo:
    """The values of a seqinfo.ini; None for each that it lacks."""

    path: Path
    width: int | None
    height: int | None
    num_frames: int | None


def read_seqinfo(tracks: Path) -> Seqinfo | None:
    """The seqinfo.ini that belongs to a tracks file (SEQUENCE/gt/gt.txt), beside it or one folder up."""
    for folder in (tracks.parent, tracks.resolve().parent.parent):
        path = folder / SEQINFO
        if path.is_file():
            parser = configparser.ConfigParser(interpolation=None, strict=False)
            try:
                parser.read_string(path.read_text(encoding="utf-8-sig"))
                values = {key: value for section in parser.sections() for key, value in parser.items(section)}
                width, height, length = (
                    next((int(values[key]) or None for key in keys if key in values), None)
                    for keys in (("imwidth", "width"), ("imheight", "height"), ("seqlength", "length"))
                )
            except (configparser.Error, ValueError) as error:
                raise DataError(f"{path}: cannot be read ({error}); correct it, or remove it") from error
            return Seqinfo(path, width, height, length)
    return None


def frame_numbers(folder: Path, names: Sequence[str], first_frame: int | None, lowest: int) -> list[int]:
    """The frame that each picture of a folder is.

    It is the number that varies in names of one pattern: img_0001_left.jpg, img_0003_left.jpg are frames 1 and 3.

    Args:
        names: Of all pictures, in their order.
        first_frame: The frame that the first picture is; all others move with it. Names without a number that varies
            then count on from it. None takes the numbers as they are.
        lowest: The first frame of the tracks.

    Raises DataError where names leave it open which picture is which frame.
    """
    numbers = _varying(folder, names)
    if numbers is None:
        if first_frame is None:
            raise DataError(
                f"{folder}: which frame is which picture? {_some(names)}: no single number varies in these names; "
                "rename them, or say --first-frame 1 if the first, in the order of their names, is frame 1, the next 2"
            )
        return [first_frame + position for position in range(len(names))]
    by_number: dict[int, str] = {}
    for number, name in zip(numbers, names, strict=True):
        if number in by_number:
            raise DataError(f"{folder}: {by_number[number]} and {name} are both frame {number}; remove one")
        by_number[number] = name
    start = min(numbers)
    if first_frame is not None:
        return [number - start + first_frame for number in numbers]
    if lowest < start:
        raise DataError(
            f"{folder}: the tracks begin with frame {lowest}, the names with {by_number[start]}; say --first-frame "
            "with the number that the tracks have for this picture, or renumber them"
        )
    if start == 0 < lowest:
        raise DataError(
            f"{folder}: the names begin with {by_number[start]}, the tracks with frame {lowest}; say --first-frame 0 "
            "if the tracks count from 0 as well, --first-frame 1 if they count from 1"
        )
    return numbers


def _varying(folder: Path, names: Sequence[str]) -> list[int] | None:
    """The number of each name that varies between names of one pattern; None where there are several, or none.

    Raises DataError where most names have one pattern and a few another.
    """
    stems = [Path(name).stem for name in names]
    patterns = [re.sub(r"[0-9]+", "#", stem).casefold() for stem in stems]
    pattern, count = Counter(patterns).most_common(1)[0]
    if count < len(names):
        if 2 * count <= len(names):
            return None
        foreign = [name for name, other in zip(names, patterns, strict=True) if other != pattern]
        example = names[patterns.index(pattern)]
        raise DataError(
            f"{folder}: {_some(foreign)}: not named as the {count:,} others ({example}); move what is no frame "
            "elsewhere, or rename it"
        )
    if any(re.search(r"[0-9][.,][0-9]+$", stem) for stem in stems):
        raise DataError(
            f"{folder}: {_some(names)}: numbers with decimals; name each picture by the number of its frame"
        )
    columns = list(zip(*([int(digits) for digits in re.findall(r"[0-9]+", stem)] for stem in stems), strict=True))
    varying = [column for column in columns if len(set(column)) > 1] or columns  # or: 1.jpg, 01.jpg; a single picture
    return list(varying[0]) if len(varying) == 1 else None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN:,} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(names[:MAX_SHOWN]) + more
