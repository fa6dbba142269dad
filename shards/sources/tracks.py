"""Read a tracks file. Each row becomes a box, is left out and counted, or is a fault; all faults are listed together.

shards/sources/columns.py recognises the columns.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shards.records import DataError
from shards.sources.columns import ACCEPTED, BOX, Columns, is_header, number, number_or_none, of_header, of_rows, people
from shards.text import printable_lines

MAX_VALUE = 1e9  # of a number in a row; larger numbers are damage
MAX_LISTED = 20  # faults in a message; the others are counted
MIN_VISIBILITY = 0.01  # of a box; below it, nothing of the person is visible
COMMENTS = ("#", "%", "//")


@dataclass(frozen=True, slots=True)
class Box:
    """A row of a tracks file; `line` is its number there."""

    line: int
    frame: int
    pid: int
    left: float
    top: float
    width: float
    height: float

    def scaled(self, x: float, y: float) -> Box:
        """Scale the box to a picture of another size."""
        return Box(self.line, self.frame, self.pid, self.left * x, self.top * y, self.width * x, self.height * y)

    def inside(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return rows and columns (top, bottom, left, right) of the box, clipped to a picture of this size."""
        top, bottom = (min(max(round(y), 0), height) for y in (self.top, self.top + self.height))
        left, right = (min(max(round(x), 0), width) for x in (self.left, self.left + self.width))
        return top, bottom, left, right


@dataclass(slots=True)
class Tracks:
    """The content of a tracks file.

    Args:
        dropped: Number of rows that were left out, by reason.
        faults: Bad rows, as `file:line: reason: row`.
        pids: Identities of boxes and of bad rows.
        unused: Ids that occur only in rows that were left out.
        size: Width and height of the pictures in which the boxes were drawn, if the file states it.
        unread: Names of unused columns.
        is_clear: Whether names of columns distinguish corners from centres.
    """

    path: Path
    boxes: list[Box] = field(default_factory=list)
    num_rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)
    unused: set[str] = field(default_factory=set)
    size: tuple[int, int] | None = None
    unread: tuple[str, ...] = ()
    is_clear: bool = False


def read_tracks(
    path: Path, *, classes: frozenset[str] | None = None, min_visibility: float | None = None, first_frame: int = 1
) -> Tracks:
    """Read a tracks file. Rows left out by confidence 0, class or visibility are not checked further.

    Args:
        classes: Numbers or names of the classes of people, in lower case. None takes those of the layout.
        min_visibility: Boxes of a lower visibility are left out; None is MIN_VISIBILITY if the file has the column.
        first_frame: The smallest number of a frame.

    Raises DataError if the file as a whole is invalid.
    """
    comments, lines = _lines(path)
    header, rows = _table(comments, lines)
    if not rows:
        raise DataError(f"{path}: no box; {ACCEPTED}")
    count = len(header) or Counter(len(fields) for _, fields in rows).most_common(1)[0][0]
    good = [fields for _, fields in rows if len(fields) == count]
    if not good:
        raise DataError(f"{path}: no row has the {count} columns of the first line; {ACCEPTED}")
    columns = of_header(path, header) if header else of_rows(path, good)
    _check_cameras(path, columns, good)
    if min_visibility is not None and "visibility" not in columns.places:
        raise DataError(f"{path}: no column of visibility; omit --min-visibility")
    if all(number_or_none(fields[columns.places["id"]]) == -1 for fields in good):
        raise DataError(f"{path}: every id is -1: these are detections, not tracks; give --tracks a tracker's output")
    place = columns.places.get("class")
    num_rows = Counter[str]() if place is None else Counter(_class_of(fields[place]) for fields in good)
    used_classes = people(path, columns, num_rows, _labels(path), classes)

    tracks = Tracks(
        path, num_rows=len(rows), size=_size(comments, columns, good), unread=columns.unused, is_clear=columns.is_clear
    )
    rules = _Rules(columns.places, count, used_classes, MIN_VISIBILITY if min_visibility is None else min_visibility)
    seen: dict[tuple[int, int], Box] = {}
    twice: set[tuple[int, int]] = set()
    faulty: list[list[str]] = []
    for line, fields in rows:
        try:
            box = rules.box(line, fields)
            if isinstance(box, str):
                tracks.dropped[box] += 1
                tracks.unused.add(fields[columns.places["id"]])
                continue
            first = seen.setdefault((box.frame, box.pid), box)
            if first is not box:
                if first != replace(box, line=first.line):  # it is unknown which one is right: use neither
                    twice.add((box.frame, box.pid))
                raise ValueError(f"id {box.pid} has a box in frame {box.frame} already (line {first.line}); remove one")
        except ValueError as error:
            faulty.append(fields)
            tracks.faults.append(f"{path}:{line}: {error}: {','.join(fields)}")
    tracks.boxes = [box for key, box in seen.items() if key not in twice]
    _check_boxes(tracks, first_frame)
    tracks.dropped["bad rows"] += len(tracks.faults) + len(twice)
    place = columns.places["id"]
    ids = [number_or_none(fields[place]) for fields in faulty if len(fields) > place]
    tracks.pids = {pid for _, pid in seen} | {int(pid) for pid in ids if pid is not None and 0 < pid < MAX_VALUE}
    tracks.unused -= set(map(str, tracks.pids))
    return tracks


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules by which a row becomes a box."""

    places: Mapping[str, int]
    num_columns: int
    people: frozenset[str] | None
    min_visibility: float

    def box(self, line: int, fields: Sequence[str]) -> Box | str:
        """Return the box, or the reason for leaving it out. Raises ValueError on a bad row."""
        if len(fields) != self.num_columns:
            needed = f"; {','.join(BOX)} are needed" if len(fields) < len(BOX) else ""
            raise ValueError(f"{len(fields)} columns, but the others have {self.num_columns}{needed}")
        for quantity in ("confidence", "in use"):
            if quantity in self.places and self._number(fields, quantity) == 0:
                return "of confidence 0"
        if "not in use" in self.places and self._number(fields, "not in use") != 0:
            return "marked as outside, lost or ignored"
        if self.people is not None and (name := _class_of(fields[self.places["class"]])) not in self.people:
            return f"of class {name}"
        if "visibility" in self.places:
            visibility = self._number(fields, "visibility")
            if visibility > 1:
                raise ValueError(f"visibility {visibility:g}: must be 0 to 1")
            if 0 <= visibility < self.min_visibility:
                return f"visible by less than {self.min_visibility:g}"
        frame, pid = self._number(fields, "frame"), self._number(fields, "id")
        if frame < 0 or frame % 1:
            raise ValueError(f"frame {frame:g}, id {pid:g}: a frame is a whole number")
        if pid < 0 or pid % 1:
            raise ValueError(
                f"frame {frame:g}, id {pid:g}: an id is a whole number from 1; -1 is a box without identity"
            )
        left, top, width, height = self._corner_and_size(fields)
        if width <= 0 or height <= 0:
            raise ValueError(f"a box of {width:g} x {height:g} pixels; correct or remove the row")
        return Box(line, int(frame), int(pid), left, top, width, height)

    def _corner_and_size(self, fields: Sequence[str]) -> tuple[float, float, float, float]:
        if "width" in self.places and "height" in self.places:
            width, height = self._number(fields, "width"), self._number(fields, "height")
            if "left" in self.places and "top" in self.places:
                return self._number(fields, "left"), self._number(fields, "top"), width, height
            return (
                self._number(fields, "centre x") - width / 2,
                self._number(fields, "centre y") - height / 2,
                width,
                height,
            )
        left, top = self._number(fields, "left"), self._number(fields, "top")
        return left, top, self._number(fields, "right") - left, self._number(fields, "bottom") - top

    def _number(self, fields: Sequence[str], quantity: str) -> float:
        value = number(fields[self.places[quantity]])
        if not abs(value) < MAX_VALUE:  # true of nan, too
            raise ValueError(f"{quantity} {value:g} is out of range")
        return value


def listed(faults: Sequence[str]) -> list[str]:
    """Return the first faults, and a line that counts the others."""
    more = [f"... and {len(faults) - MAX_LISTED:,} more"] if len(faults) > MAX_LISTED else []
    return [*faults[:MAX_LISTED], *more]


def _lines(path: Path) -> tuple[list[str], list[tuple[int, str]]]:
    """Return the comments before the first row, and the numbered lines that are neither empty nor comments."""
    if path.is_dir():
        raise DataError(f"{path}: a folder (YOLO has a file for each picture); give --tracks one file; {ACCEPTED}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give --tracks a file of rows frame,id,left,top,width,height")
    data = path.read_bytes()
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in data:
        raise DataError(f"{path}: a binary file, not rows of text; unpack it, or export it as CSV; {ACCEPTED}")
    text = data.decode(encoding, errors="replace")
    if text.lstrip().startswith(("<", "{", "[")):
        kind = "XML or HTML" if text.lstrip().startswith("<") else "JSON"
        raise DataError(f"{path}: a file of {kind}, not of rows; export it as MOT (CVAT: MOT 1.1); {ACCEPTED}")
    comments: list[str] = []
    lines: list[tuple[int, str]] = []
    for line, content in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if content.lstrip().startswith(COMMENTS):
            if not lines:
                comments.append(content.strip().lstrip("#%/ "))
        elif content.strip():
            lines.append((line, content.strip(" ")))
    return comments, lines


def _table(comments: Sequence[str], lines: Sequence[tuple[int, str]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, if any, and the fields of each row. A leading comment may hold the names."""
    if not lines:
        return [], []
    # The first line may be a header, and the last cut off.
    separator = Counter(_separator(content) for _, content in lines[1:100] or lines).most_common(1)[0][0]
    rows = [(line, _fields(content, separator)) for line, content in lines]
    if all(len(fields) > 1 and fields[-1] == "" for _, fields in rows):
        rows = [(line, fields[:-1]) for line, fields in rows]  # a separator at the end of each row
    if is_header(rows[0][1]):
        return rows[0][1], rows[1:]
    for comment in comments:
        names = _fields(comment, separator)
        if len(names) == len(rows[0][1]) and is_header(names):
            return names, rows
    return [], rows


def _separator(row: str) -> str:
    """Return semicolon, tab, comma or space. In a row with spaces, a comma within a word is a decimal comma."""
    for separator in (";", "\t"):
        if separator in row:
            return separator
    parts = row.split(",")
    return "," if len(parts) > 1 and all(len(part.split()) < 2 for part in parts) else " "


def _fields(row: str, separator: str) -> list[str]:
    if separator == " ":
        return [part.strip("\"'") for part in row.split()]
    return [part.strip() for part in next(csv.reader([row], delimiter=separator, skipinitialspace=True))]


def _class_of(value: str) -> str:
    """Normalise a class as in --classes: 1 for 1.0, person for Person."""
    as_number = number_or_none(value)
    return str(int(as_number)) if as_number is not None and as_number % 1 == 0 else value.lower()


def _labels(path: Path) -> list[str]:
    """Return the names of classes from 1 in CVAT's labels.txt beside the tracks."""
    labels = path.with_name("labels.txt")
    if not labels.is_file():
        return []
    text = labels.read_text(encoding="utf-8-sig", errors="replace").rstrip()
    return [label.strip() for label in text.split("\n")]


def _check_cameras(path: Path, columns: Columns, rows: Sequence[Sequence[str]]) -> None:
    if "camera" in columns.places:
        cameras = sorted({row[columns.places["camera"]] for row in rows})
        if len(cameras) > 1:
            raise DataError(
                f"{path}: rows of {len(cameras)} cameras ({', '.join(cameras[:10])}); give each camera its own --video "
                "and --tracks"
            )


def _check_boxes(tracks: Tracks, first_frame: int) -> None:
    """Raise DataError on faults of the whole file, which leaving out bad rows does not cure."""
    path, boxes = tracks.path, tracks.boxes
    if not boxes:
        wrong = f"{path}: no usable box ({reasons(tracks.dropped) or 'all rows are bad'}); {ACCEPTED}"
    elif (first := min(boxes, key=lambda box: box.frame)).frame < first_frame:
        wrong = (
            f"{path}:{first.line}: frame {first.frame}, id {first.pid}: frames count from {first_frame}; give "
            f"--first-frame {first.frame} if that is the video's first frame, or renumber them"
        )
    elif lines := [box.line for box in boxes if box.pid == 0]:
        wrong = f"{path}:{lines[0]}: id 0: ids count from 1; add 1 to all ids, in all tracks files"
    elif max(max(box.width, box.height) for box in boxes) <= 2:
        wrong = f"{path}: no box is larger than 2 pixels: these are fractions of the picture, not pixels; {ACCEPTED}"
    else:
        return
    raise DataError(printable_lines([*listed(tracks.faults), wrong]))


def reasons(dropped: Mapping[str, int]) -> str:
    """Format the reasons for dropped boxes: `12 of confidence 0, 3 outside the picture`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)


def _size(comments: Sequence[str], columns: Columns, rows: Sequence[Sequence[str]]) -> tuple[int, int] | None:
    """Return the size of the pictures from columns or a comment: `# 1920x1080`, `# imWidth=1920 imHeight=1080`."""
    places = [columns.places.get(name) for name in ("picture width", "picture height")]
    if None not in places:
        width, height = (number_or_none(rows[0][place]) for place in places if place is not None)
        if width and height:
            return int(width), int(height)
    text = " ".join(comments)
    size = re.search(r"\b(\d{2,5}) ?[x×] ?(\d{2,5})\b", text) or re.search(
        r"width\W+(\d{2,5})\b.*height\W+(\d{2,5})\b", text, re.IGNORECASE
    )
    return (int(size[1]), int(size[2])) if size else None
