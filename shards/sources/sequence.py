"""Match tracks with pictures: frame numbers in the names of pictures, and MOT's seqinfo.ini."""

from __future__ import annotations

import configparser
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.records import DataError
from shards.sources.common import some

SEQINFO = "seqinfo.ini"
MAX_SHOWN = 5  # names in a message


@dataclass(frozen=True, slots=True)
class Seqinfo:
    """Values of a seqinfo.ini; None for missing values."""

    path: Path
    width: int | None
    height: int | None
    num_frames: int | None


def read_seqinfo(tracks: Path) -> Seqinfo | None:
    """Read the seqinfo.ini of a tracks file (SEQUENCE/gt/gt.txt), beside it or one folder up; None if missing."""
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
    """Return the frame number of each picture in a folder.

    It is the number that varies in names of one pattern: img_0001_left.jpg, img_0003_left.jpg are frames 1 and 3.

    Args:
        names: Names of all pictures, in order.
        first_frame: Frame number of the first picture; shifts all others. Names without a varying number are counted
            from it. None takes the numbers in the names.
        lowest: The first frame of the tracks.

    Raises DataError if the names do not determine the frame numbers.
    """
    numbers = _varying(folder, names)
    if numbers is None:
        if first_frame is None:
            raise DataError(
                f"{folder}: the frame numbers of pictures are unknown: no single number varies in the names "
                f"{some(names, MAX_SHOWN)}; rename them, or give --first-frame 1 to number them from 1"
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
            f"{folder}: the tracks begin with frame {lowest}, the names with {by_number[start]}; give the number of "
            "this picture in the tracks as --first-frame, or renumber them"
        )
    if start == 0 < lowest:
        raise DataError(
            f"{folder}: the names begin with {by_number[start]}, the tracks with frame {lowest}; give --first-frame 0 "
            "if the tracks count from 0 as well, --first-frame 1 if they count from 1"
        )
    return numbers


def _varying(folder: Path, names: Sequence[str]) -> list[int] | None:
    """Return the number in each name that varies between names of one pattern; None unless exactly one varies.

    Raises DataError if most names have one pattern and a few another.
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
            f"{folder}: {some(foreign, MAX_SHOWN)}: not named like the {count:,} others ({example}); move them away, "
            "or rename them"
        )
    if any(re.search(r"[0-9][.,][0-9]+$", stem) for stem in stems):
        raise DataError(
            f"{folder}: {some(names, MAX_SHOWN)}: numbers with decimals; name each picture by the number of its frame"
        )
    columns = list(zip(*([int(digits) for digits in re.findall(r"[0-9]+", stem)] for stem in stems), strict=True))
    varying = [column for column in columns if len(set(column)) > 1] or columns  # or: of a single picture
    return list(varying[0]) if len(varying) == 1 else None
