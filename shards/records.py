"""The records of the package: tracklets, frames, roles and protocols.

Sources make these records, the writer stores them, and the reader returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any, NamedTuple

JUNK_PID = -1  # `00-1` in MARS: a bad detection, ignored for every query
DISTRACTOR_PID = 0  # `0000` in MARS: a person or a false alarm that matches no query
NO_OUTFIT = -1  # of a tracklet whose clothes are not labelled; equal to no outfit
# Facts that every user of a set must see: data that is missing, was dropped, or may be wrong.
WARNINGS = ("partial", "left out", "skipped", "gaps", "dropped", "vanished", "doubtful")
# Warnings that make scores incomparable with published ones; skipped files are no part of a data set.
INCOMPARABLE = tuple(name for name in WARNINGS if name != "skipped")


class DataError(Exception):
    """Bad data. The message names the file, the key and the way out. The command line exits with 1."""


class UsageError(ValueError):
    """Options that contradict each other or the data. The command line exits with 2; other ValueErrors are bugs."""


class Role(IntFlag):
    """Role of a tracklet in one split. Query and gallery are independent: the queries of MARS are both."""

    NONE = 0
    TRAIN = 1
    QUERY = 2
    GALLERY = 4
    JUNK = 8  # in the gallery, but ignored for every query


class IgnoreRule(NamedTuple):
    """Rule of which gallery tracklets of its own identity a query ignores.

    Attributes:
        text: The rule in words.
        ignores: Returns what is ignored, given whether camera and outfit are those of the query, as arrays or tensors
            of booleans.
    """

    text: str
    ignores: Callable[[Any, Any], Any]


IGNORE_RULES: Mapping[str, IgnoreRule] = {
    "camera": IgnoreRule("same camera", lambda camera, outfit: camera),  # Market-1501, MARS and most others
    "camera-and-outfit": IgnoreRule("same camera in the same outfit", lambda camera, outfit: camera & outfit),
    "clothes-changing": IgnoreRule("same camera, or same outfit", lambda camera, outfit: camera | outfit),
    "same-clothes": IgnoreRule("same camera, or another outfit", lambda camera, outfit: camera | ~outfit),
}


@dataclass(frozen=True, slots=True)
class Protocol:
    """Division of a data set into training, query and gallery tracklets.

    Roles decide which tracklets are queries and gallery, so a directed protocol (queries of some cameras, gallery of
    others) gives the roles QUERY and GALLERY to the tracklets of these cameras only.

    `splits` names its random divisions; a data set with a single one has ("0",). `ignore` is one of IGNORE_RULES.
    """

    name: str
    splits: tuple[str, ...] = ("0",)
    description: str = ""
    cmc_only: bool = False  # each query has one true match, so that mAP adds nothing and is not reported
    ignore: str = "camera"

    @property
    def needs_outfits(self) -> bool:
        """True if the rule of what is ignored looks at outfits."""
        return self.ignore != "camera"


# Errors of `Frame.read` that concern the frame itself. Other read errors (of a disk or network) may not recur.
BAD_FRAME = (ValueError, FileNotFoundError, IsADirectoryError, PermissionError)


class Frame(NamedTuple):
    """A picture of a source. `read` returns its encoded bytes; error messages show `name`."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class SourceTracklet:
    """A tracklet of a source, to be written.

    Args:
        key: Unique name in the data set; a valid file name without a dot.
        pid: Identity; DISTRACTOR_PID and JUNK_PID are special.
        camid: Camera, as the data set numbers it.
        roles: One Role for each (protocol, split), in the order of `Source.protocols` and their splits.
        frames: Yields the frames in order of time; called in the process that writes.
        outfit: Clothes of the identity, as the data set numbers them; NO_OUTFIT if they are not labelled.
    """

    key: str
    pid: int
    camid: int
    num_frames: int
    roles: tuple[Role, ...]
    frames: Callable[[], Iterator[Frame]]
    outfit: int = NO_OUTFIT


@dataclass(frozen=True, slots=True)
class Source:
    """A data set on disk, read and checked against its official counts, ready to be written."""

    name: str
    protocols: tuple[Protocol, ...]
    tracklets: tuple[SourceTracklet, ...]
    facts: Mapping[str, str] = field(default_factory=dict)  # notes that `info` shows

    @property
    def has_outfits(self) -> bool:
        """True if a tracklet has an outfit, or a protocol needs outfits."""
        return any(protocol.needs_outfits for protocol in self.protocols) or any(
            tracklet.outfit != NO_OUTFIT for tracklet in self.tracklets
        )


@dataclass(frozen=True, slots=True)
class Tracklet:
    """A tracklet of a Reader. `roles` maps (protocol, split) to the Role there."""

    key: str
    pid: int
    camid: int
    num_frames: int
    roles: Mapping[tuple[str, str], Role]
    outfit: int = NO_OUTFIT
