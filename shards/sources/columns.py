"""Recognise the columns of a tracks file, by the names in its first line or by common layouts.

Without names, a file must have one of these layouts:

    frame, id, left, top, width, height                                    6 columns
    ... confidence                                                         7
    ... confidence, class                                                  8
    ... confidence, class, visibility                                      9    MOT16, MOT17, MOT20, CVAT
    ... confidence, x, y, z                                                10   MOT15, DeepSORT, ByteTrack; x, y, z are
                                                                                world coordinates, or -1
    ... score, category, truncation, occlusion                             10   VisDrone
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.records import DataError

BOX = ("frame", "id", "left", "top", "width", "height")
MOT = "frame,id,left,top,width,height[,confidence[,class[,visibility]]]"
ACCEPTED = (
    f"accepted are rows of {MOT}, MOT15's and VisDrone's ten columns, or any order under a first line of names: "
    "frame, id, and left, top, width, height, or corners (xmin, ymin, xmax, ymax), or centres (cx, cy, width, height)"
)
# Spellings are compared without case, spaces, punctuation and a leading bb, bbox or box. Messages show the first two.
NAMES: Mapping[str, tuple[str, ...]] = {
    "frame": ("frame", "frameid", "framenumber", "frameno", "framenum", "frameindex", "frameidx"),
    "id": ("id", "trackid", "targetid", "objectid", "objid", "personid", "pid", "identity", "tid", "trackerid"),
    "left": ("left", "x", "xmin", "x1", "xtl", "xleft", "xtopleft", "tlx", "topleftx"),
    "top": ("top", "y", "ymin", "y1", "ytl", "ytop", "ytopleft", "tly", "toplefty"),
    "width": ("width", "w"),
    "height": ("height", "h"),
    "right": ("right", "xmax", "x2", "xbr", "xright", "xbottomright", "brx", "bottomrightx"),
    "bottom": ("bottom", "ymax", "y2", "ybr", "ybottom", "ybottomright", "bry", "bottomrighty"),
    "centre x": ("cx", "xcenter", "xcentre", "centerx", "centrex", "xc", "xmid"),
    "centre y": ("cy", "ycenter", "ycentre", "centery", "centrey", "yc", "ymid"),
    "confidence": ("confidence", "conf", "score"),
    "in use": ("considered", "consider", "notignored", "active", "valid"),  # 0: ignore the row
    "class": (
        *("class", "cls", "classid", "classname", "classlabel", "category", "categoryid", "categoryname", "label"),
        *("name", "type", "objectcategory", "objectclass", "objecttype", "objclass"),
    ),
    "visibility": ("visibility", "vis", "visibilityratio"),
    "not in use": ("outside", "lost", "ignored", "ignore"),  # 1: ignore the row (CVAT, VATIC)
    "camera": ("camera", "cam", "cameraid", "camid"),
    "picture width": ("imwidth", "imagewidth", "imgwidth", "imagew", "imgw", "framewidth", "videowidth"),
    "picture height": ("imheight", "imageheight", "imgheight", "imageh", "imgh", "frameheight", "videoheight"),
}
PEOPLE = frozenset({"person", "pedestrian", "people", "human", "man", "woman", "child", "walker"})
MOT_CLASSES = range(1, 14)  # 1 pedestrian, 2 person on vehicle, 3 car ... 7 static person, 8 distractor ... 13 crowd
MOT_PEOPLE = frozenset({"1"})  # the class that MOTChallenge scores
VISDRONE_CLASSES = range(12)  # 0 ignored region, 1 pedestrian, 2 people (not upright), 3 bicycle ... 11 others
VISDRONE_PEOPLE = frozenset({"1", "2"})


@dataclass(frozen=True, slots=True)
class Columns:
    """The column of each quantity, from 0, and the numbering of classes: "MOT", "VisDrone", or "" if unknown."""

    places: Mapping[str, int]
    numbering: str = "MOT"
    unused: tuple[str, ...] = ()  # names of unused columns
    is_clear: bool = False  # names distinguish corners from centres; x and y alone do not


def spelling(name: str) -> str:
    """Normalise the name of a column to the spelling in `NAMES`."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"^(bbox|bb|box)(?=.)", "", letters)


def is_header(fields: Sequence[str]) -> bool:
    """Return whether fields are names of columns: none is a number, or two are known names and half are not numbers."""
    known = {name for names in NAMES.values() for name in names} & set(map(spelling, fields))
    num_words = sum(number_or_none(field) is None for field in fields)
    return num_words == len(fields) or (len(known) >= 2 and 2 * num_words >= len(fields))


def number(text: str) -> float:
    """Parse a number with a decimal point or comma. Raises ValueError."""
    if "_" in text:  # float() accepts it
        raise ValueError(f"could not convert {text!r} to a number")
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"could not convert {text!r} to a number") from None


def number_or_none(text: str) -> float | None:
    """Parse a number; return None if the text is not a number."""
    try:
        return number(text)
    except ValueError:
        return None


def of_header(path: Path, names: Sequence[str]) -> Columns:
    """Return the columns of a header. Raises DataError if a column is missing, or two hold the same quantity."""
    spelled = [spelling(name) for name in names]
    shown = ",".join(names)
    places: dict[str, int] = {}
    for quantity, spellings in NAMES.items():
        there = [place for place, name in enumerate(spelled) if name in spellings]
        if quantity in ("left", "top") and len(there) > 1:  # beside bb_left or xmin, x is a world coordinate
            there = [place for place in there if spelled[place] not in ("x", "y")]
        if quantity == "class" and len(there) > 1:  # of number and name of a class, take the name
            there = [
                place
                for place in there
                if spelled[place] in ("name", "label", "classname", "classlabel", "categoryname")
            ] or there
        if len(there) > 1:
            two = " and ".join(names[place] for place in there)
            raise DataError(f"{path}: columns {two} of {shown!r} both hold {quantity}; leave one")
        if there:
            places[quantity] = there[0]
    if "z" in spelled:  # x, y, z are world coordinates
        for quantity, name in (("left", "x"), ("top", "y")):
            if quantity in places and spelled[places[quantity]] == name:
                del places[quantity]
    if {"right", "bottom"} <= set(places):
        needed: tuple[str, ...] = ("frame", "id", "left", "top")
    elif {"centre x", "centre y"} & set(places) and not {"left", "top"} & set(places):
        needed = ("frame", "id", "centre x", "centre y", "width", "height")
    else:
        needed = BOX
    for quantity in needed:
        if quantity not in places:
            one, other, *_ = NAMES[quantity]
            raise DataError(f"{path}:1: {shown!r}: no column {one} or {other}; {ACCEPTED}")
    visdrone = "objectcategory" in spelled or {"truncation", "occlusion"} <= set(spelled)
    unused = tuple(name for place, name in enumerate(names) if place not in places.values())
    is_clear = "right" in places or "left" not in places or spelled[places["left"]] != "x"
    return Columns(places, "VisDrone" if visdrone else "MOT", unused, is_clear)


def of_rows(path: Path, rows: Sequence[Sequence[str]]) -> Columns:
    """Recognise columns without names by number and content of columns. Raises DataError on an unknown layout."""
    count = len(rows[0])
    if 5 <= count <= 7 and _are_shares(rows):
        raise DataError(
            f"{path}: rows look like YOLO's (class, centre and size as fractions of the picture), which have no frame; "
            f"{ACCEPTED}"
        )
    if count < 6 or count > 10:
        raise DataError(f"{path}: {count} columns without names; {','.join(BOX)} are needed; {ACCEPTED}")
    places = dict(zip((*BOX, "confidence"), range(count), strict=False))
    rest = [[number_or_none(row[place]) for row in rows] for place in range(7, count)]
    if words := [place for place, column in enumerate(rest, start=8) if all(value is None for value in column)]:
        raise DataError(f"{path}: column {words[0]} holds text, and the columns have no names; {ACCEPTED}")
    if all(set(column) == {-1} for column in rest) or all(set(column) == {0} for column in rest):
        return Columns(places)  # filled with the placeholders of MOT
    has_class = _whole(rest[0]) and _between(rest[0], 0, 1e9)
    unseen = all(set(column) == {-1} for column in rest[1:])
    if has_class and unseen:
        return Columns({**places, "class": 7}, numbering="")
    if count == 10 and _in(rest[0], VISDRONE_CLASSES) and _in(rest[1], range(2)) and _in(rest[2], range(3)):
        return Columns({**places, "class": 7}, numbering="VisDrone")
    skipped = count == 10 and len(set(rest[2])) == 1  # the tenth column of CVAT
    if has_class and (count == 9 or skipped) and _between(rest[1], 0, 1):
        return Columns({**places, "class": 7, "visibility": 8})
    if count == 10:
        return Columns(places)  # x, y, z are world coordinates
    raise DataError(
        f"{path}: {count} columns without names, of which the eighth"
        f"{' and ninth are no class and visibility' if count == 9 else ' is no class'}; {ACCEPTED}"
    )


def people(
    path: Path, columns: Columns, values: Counter[str], labels: Sequence[str], chosen: frozenset[str] | None
) -> frozenset[str] | None:
    """Return the classes of people; None if the file has no classes.

    Args:
        values: Number of rows of each class.
        labels: Names of class 1, class 2, ... from labels.txt beside the tracks (CVAT).
        chosen: Value of --classes.

    Raises DataError if it is unknown which classes are people.
    """
    if "class" not in columns.places or set(values) == {"-1"}:
        if chosen is not None:
            raise DataError(f"{path}: no column of classes; omit --classes")
        return None
    there = ", ".join(f"{value} ({count:,} rows)" for value, count in values.most_common(10))
    way_out = f"classes {there}; name those of people with --classes, such as --classes {values.most_common(1)[0][0]}"
    if chosen is not None:
        numbers = {str(place) for place, label in enumerate(labels, start=1) if label.lower() in chosen}
        if not (chosen | numbers) & set(values):
            raise DataError(f"{path}: no row has a class of --classes {','.join(sorted(chosen))}; {way_out}")
        return chosen | numbers
    whole = {int(value) for value in values if value.isdecimal()}
    if len(whole) < len(values):
        if not PEOPLE & set(values):
            raise DataError(f"{path}: {way_out}")
        return PEOPLE
    if labels:
        of_labels = frozenset(str(place) for place, label in enumerate(labels, start=1) if label.lower() in PEOPLE)
        if not of_labels:
            raise DataError(
                f"{path}: labels.txt beside it names {', '.join(labels[:10])}, and none is a class of people; {way_out}"
            )
        return of_labels
    if columns.numbering == "VisDrone":
        return VISDRONE_PEOPLE
    if whole == {1}:
        return MOT_PEOPLE
    if not columns.numbering or not whole <= set(MOT_CLASSES):
        raise DataError(f"{path}: its classes are not those of MOT17 (1 to 13); {way_out}")
    return MOT_PEOPLE


def _are_shares(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether columns 2 to 5 are fractions: between 0 and 1, and not all whole."""
    values = [[number_or_none(field) for field in row[1:5]] for row in rows[:100]]
    return all(_between(row, 0, 1) for row in values) and not all(map(_whole, values))


def _whole(column: Sequence[float | None]) -> bool:
    return all(value is not None and value % 1 == 0 for value in column)


def _between(column: Sequence[float | None], low: float, high: float) -> bool:
    return all(value is not None and low <= value <= high for value in column)


def _in(column: Sequence[float | None], values: range) -> bool:
    return _whole(column) and set(column) <= set(values)
