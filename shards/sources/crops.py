"""Cut the boxes of one camera out of its video, and check that frames, sizes and columns of the tracks match it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shards import images
from shards.records import DataError
from shards.sources.sequence import Seqinfo, frame_numbers, read_seqinfo
from shards.sources.tracks import Box, Tracks, listed
from shards.sources.video import QUALITY, count_frames, decode
from shards.sources.walk import Walk
from shards.text import printable_lines

MIN_SIDE = 4  # pixels; a box that the edge of the picture cuts thinner shows nobody
OUTSIDE, THIN = "outside the picture", f"thinner than {MIN_SIDE} pixels in it"
BEYOND = 2.0  # pixels beyond the edge that rounding explains
FloatArray = np.ndarray[Any, np.dtype[np.float64]]
DROP = "leave them out with --bad-frames drop"


@dataclass(frozen=True, slots=True)
class Crop:
    """An encoded crop: identity, frame and place in the temporary file. `fault` is the reason if it is missing."""

    pid: int
    frame: int
    name: str
    offset: int
    size: int
    fault: str = ""


@dataclass(slots=True)
class Camera:
    """A video, its tracks, and its crops.

    Args:
        first_frame: The number of the first frame or picture in the tracks; None if not given.
        tracks_size: Width and height of the pictures in which the tracks were made; None if not given.
        dropped: Number of boxes that were not cut, by reason.
        warnings: Possible errors.
    """

    video: Path
    tracks: Tracks
    first_frame: int | None = None
    tracks_size: tuple[int, int] | None = None
    crops: list[Crop] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # from `decode`
    skipped: dict[str, str] = field(default_factory=dict)  # files that were not read in a folder of pictures
    missing: set[int] = field(default_factory=set)  # frames that have boxes but are not in the video
    mostly_outside: int = 0  # crops of boxes that lie outside the picture by half or more

    @property
    def lost(self) -> int:
        """Number of boxes of which the picture shows less than half, or nothing."""
        return self.dropped[OUTSIDE] + self.dropped[THIN] + self.mostly_outside

    @property
    def vanished(self) -> list[int]:
        """Identities without a crop."""
        return sorted(self.tracks.pids - {crop.pid for crop in self.crops})

    @property
    def in_frames(self) -> list[Box]:
        """The boxes whose frames are in the video."""
        return [box for box in self.tracks.boxes if box.frame not in self.missing]

    def frames(self) -> Sequence[int]:
        """Return the number of each frame, in order. For a video file, the count comes from its packets."""
        if self.video.is_dir():
            lowest = min(box.frame for box in self.tracks.boxes)
            walk = Walk(self.video.parent)
            numbers = frame_numbers(self.video, walk.pictures(self.video), self.first_frame, lowest)
            self.skipped = walk.facts()
            return numbers
        first = 1 if self.first_frame is None else self.first_frame
        return range(first, first + count_frames(self.video))

    def cut(self, crop_size: tuple[int, int], store: BinaryIO, *, drop: bool) -> None:
        """Append the crops to `store`, in order of time.

        Raises DataError if size or number of the pictures differ from seqinfo.ini, and, without `drop`, on boxes of
        missing frames.
        """
        self.dropped.update(self.tracks.dropped)
        seqinfo = read_seqinfo(self.tracks.path)
        frames = self.frames()
        _check_length(self, frames, seqinfo)
        of_frame: dict[int, list[Box]] = {}
        for box in self.tracks.boxes:
            of_frame.setdefault(box.frame, []).append(box)
        size: tuple[int, int] | None = None  # width and height of the pictures
        scale = 1.0, 1.0
        frame = 0
        for position, image_HW3 in decode(self.video, self.counts):
            # A video may have more frames than were counted.
            frame = frames.start + position - 1 if isinstance(frames, range) else frames[position - 1]
            boxes = of_frame.pop(frame, ())
            if isinstance(image_HW3, DataError):
                fault = str(image_HW3)
                self.crops += [Crop(box.pid, frame, self._name(box), store.tell(), 0, fault) for box in boxes]
            else:
                if size is None:
                    size = image_HW3.shape[1], image_HW3.shape[0]
                    scale = _scale(self, size, seqinfo)
                    _check_corners(self, size)
                    _check_centres(self, size)
                    _check_order(self)
                for box in boxes:
                    self._cut_box(box, box.scaled(*scale), image_HW3, crop_size, store)
            if not of_frame:
                break
        if of_frame:
            self._leave_out(set(of_frame), frame if isinstance(frames, range) else max(frames), drop)
        if size:
            _look_at_edges(self, size)

    def _cut_box(
        self, box: Box, scaled: Box, image_HW3: images.Uint8Array, crop_size: tuple[int, int], store: BinaryIO
    ) -> None:
        top, bottom, left, right = scaled.inside(*image_HW3.shape[:2])
        if bottom <= top or right <= left:
            self.dropped[OUTSIDE] += 1
        elif min(bottom - top, right - left) < MIN_SIDE:
            self.dropped[THIN] += 1
        else:
            self.mostly_outside += (bottom - top) * (right - left) < scaled.width * scaled.height / 2
            data = images.encode(images.resize(image_HW3[None, top:bottom, left:right], crop_size)[0], QUALITY)
            self.crops.append(Crop(box.pid, box.frame, self._name(box), store.tell(), len(data)))
            store.write(data)

    def _name(self, box: Box) -> str:
        return f"{self.tracks.path}:{box.line}"

    def _leave_out(self, missing: set[int], last: int, drop: bool) -> None:
        self.missing = missing
        faults = missing_frames(self, missing, last)
        if not drop:
            raise DataError(printable_lines([*listed(faults), f"{len(faults):,} boxes of missing frames; {DROP}"]))
        self.dropped["of frames that are not there"] += len(faults)


def missing_frames(camera: Camera, missing: set[int], last: int) -> list[str]:
    """Return a fault for each box in missing frames."""
    return [
        f"{camera.tracks.path}:{box.line}: frame {box.frame}, but {camera.video} has no such frame (its last is "
        f"{last}); do they belong together?"
        for box in camera.tracks.boxes
        if box.frame in missing
    ]


def _check_length(camera: Camera, frames: Sequence[int], seqinfo: Seqinfo | None) -> None:
    """Compare the number of frames: tracks of another frame rate would cut boxes out of the wrong frames."""
    if not frames:  # a video of unknown length, or one that cannot be opened, which decoding reports
        return
    num_frames = len(frames), max(frames) - min(1, min(frames)) + 1  # in a folder with gaps, the second
    if seqinfo and seqinfo.num_frames and min(abs(seqinfo.num_frames - count) for count in num_frames) > 1:
        raise DataError(
            f"{seqinfo.path}: seqLength {seqinfo.num_frames:,}, but {camera.video} has {num_frames[0]:,} frames, "
            "perhaps at another frame rate; give the video of the tracks, or correct the file"
        )
    last = max(box.frame for box in camera.tracks.boxes)
    if not seqinfo and len(frames) > 10 and last < 0.6 * max(frames):
        camera.warnings.append(
            f"{camera.tracks.path} ends at frame {last:,}, {camera.video} at {max(frames):,}: were the tracks made at "
            "another frame rate?"
        )


def _scale(camera: Camera, size: tuple[int, int], seqinfo: Seqinfo | None) -> tuple[float, float]:
    """Return the factors from pixels of the tracks to pixels of the pictures. Raises DataError if sizes differ."""
    if camera.tracks_size:
        width, height = camera.tracks_size
        x, y = size[0] / width, size[1] / height
        if (width > height) != (size[0] > size[1]) and abs(x / y - 1) > 0.02:
            raise DataError(
                f"--tracks-size {width}x{height}, but {camera.video} has {size[0]}x{size[1]}: one is portrait, one "
                "landscape; the width comes first"
            )
        if abs(x / y - 1) > 0.02:
            camera.warnings.append(
                f"--tracks-size {width}x{height} is of another shape than {camera.video} with {size[0]}x{size[1]}"
            )
        return x, y
    known_sizes = [(*(camera.tracks.size or (None, None)), camera.tracks.path)]
    if seqinfo:
        known_sizes.append((seqinfo.width, seqinfo.height, seqinfo.path))
    for width, height, where in known_sizes:
        known = f"{width or '?'}x{height or '?'}"
        if (width or size[0], height or size[1]) != size:
            raise DataError(
                f"{camera.tracks.path}: tracks of {known} pixels (according to {where}), but {camera.video} has "
                f"{size[0]}x{size[1]}; give the video of the tracks, or --tracks-size {known}, which scales the boxes; "
                "if the stated size is wrong, correct it"
            )
    return 1.0, 1.0


def _check_corners(camera: Camera, size: tuple[int, int]) -> None:
    """Raise DataError if width and height seem to be the right and lower edges.

    Then nearly all exceed left and top and lie within the picture, while many sums do not.
    """
    boxes = camera.tracks.boxes
    corners = sum(b.left < b.width <= size[0] and b.top < b.height <= size[1] for b in boxes)
    over = sum(b.left + b.width > size[0] + BEYOND or b.top + b.height > size[1] + BEYOND for b in boxes)
    if corners >= 0.9 * len(boxes) and over > 0.1 * len(boxes):
        raise DataError(
            f"{camera.tracks.path}: its boxes are corners (left, top, right, bottom) where width and height should be: "
            f"{over:,} of {len(boxes):,} would reach over the edge of {camera.video}; name the columns in a first "
            "line, as frame,id,xmin,ymin,xmax,ymax"
        )


def _check_centres(camera: Camera, size: tuple[int, int]) -> None:
    """Raise DataError if left and top seem to be centres.

    Then boxes extend beyond the right and the lower edge, and all would fit as centres. Boxes beyond only one of these
    edges may be people who leave the picture, and cause a warning.
    """
    boxes, path = camera.tracks.boxes, camera.tracks.path
    if camera.tracks.is_clear or camera.tracks_size or len(boxes) < 10:
        return
    fit = all(
        b.width / 2 - BEYOND <= b.left <= size[0] + BEYOND - b.width / 2
        and b.height / 2 - BEYOND <= b.top <= size[1] + BEYOND - b.height / 2
        for b in boxes
    )
    right = sum(b.left + b.width > size[0] + BEYOND for b in boxes)
    lower = sum(b.top + b.height > size[1] + BEYOND for b in boxes)
    if not fit or right + lower < 0.01 * len(boxes):
        return
    message = (
        f"{path}: {right:,} boxes reach over the right edge of {camera.video} and {lower:,} over the lower one, and "
        "all would fit if they were centres and sizes; name the columns in a first line: frame,id,cx,cy,width,height "
        "if they are, frame,id,left,top,width,height if not"
    )
    if min(right, lower) > 0.002 * len(boxes):
        raise DataError(message)
    camera.warnings.append(message)


def _check_order(camera: Camera) -> None:
    """Raise DataError if frame and id seem swapped: boxes of a frame overlap, and boxes of an id do not."""
    boxes_6N = np.array(
        [(b.frame, b.pid, 2 * b.left + b.width, 2 * b.top + b.height, b.width, b.height) for b in camera.tracks.boxes]
    ).T
    if _continuity(boxes_6N, of=1, along=0) < 0.3 and _continuity(boxes_6N, of=0, along=1) > 0.9:
        raise DataError(
            f"{camera.tracks.path}: frame and id seem swapped: the boxes of a frame overlap as those of an id "
            "should; put the frame first, or correct the names of the columns"
        )


def _continuity(boxes_6N: FloatArray, of: int, along: int) -> float:
    """Return the share of neighbours that overlap; nan if there are fewer than 10.

    Neighbours have the same value in row `of` and are consecutive in row `along`. Rows 2 and 3 are twice the centres,
    rows 4 and 5 the sizes.
    """
    boxes_6N = boxes_6N[:, np.lexsort((boxes_6N[along], boxes_6N[of]))]
    one, other = boxes_6N[:, :-1], boxes_6N[:, 1:]
    overlaps = np.all(np.abs(one[2:4] - other[2:4]) < one[4:] + other[4:], axis=0)
    are_neighbours = one[of] == other[of]
    return float(overlaps[are_neighbours].mean()) if are_neighbours.sum() >= 10 else math.nan


def _look_at_edges(camera: Camera, size: tuple[int, int]) -> None:
    """Warn if boxes stay far from the edges, or extend beyond the right one only: the tracks may have another size.

    A matching seqinfo.ini is no proof: scaled pictures often come with a corrected one.
    """
    if camera.tracks_size:
        return
    boxes, path, video = camera.tracks.boxes, camera.tracks.path, camera.video
    right, bottom = max(b.left + b.width for b in boxes), max(b.top + b.height for b in boxes)
    way_out = "if the tracks were made at another size, say it with --tracks-size WIDTHxHEIGHT"
    if len(boxes) >= 10 and right < 0.7 * size[0] and bottom < 0.7 * size[1]:
        camera.warnings.append(
            f"no box of {path} reaches beyond {right:.0f}x{bottom:.0f} of {video}'s {size[0]}x{size[1]} pixels; "
            f"{way_out}"
        )
    over = sum(b.left + b.width > size[0] + BEYOND for b in boxes)
    before = sum(b.left < -BEYOND for b in boxes)
    if over > max(1, 0.01 * len(boxes), 5 * before):
        camera.warnings.append(
            f"{over:,} boxes of {path} reach over the right edge of {video} ({size[0]} pixels), to {right:.0f}, and "
            f"{before:,} over the left one; {way_out}"
        )
