"""The vocabulary of the shards room: what a tracklet, a frame and a protocol are.

Every source makes these records; the writer stores them; the reader gives them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import NamedTuple

JUNK_PID = -1  # MARS's `00-1`: a bad detection; ignored for every query
# Facts of a set that whoever uses it must see: what is missing of it, was dropped, or may be wrong.
WARNINGS = ("partial", "left out", "skipped", "gaps", "dropped", "vanished", "doubtful")
# Those that make scores incomparable with published ones; files beside a data set (`skipped`) do not.
INCOMPARABLE = tuple(name for name in WARNINGS if name != "skipped")
DISTRACTOR_PID = 0  # MARS's `0000`: a person, or a false alarm, that nobody searches for


class DataError(Exception):
    """Bad data, told in one line: the file, the key and the way out. The command line exits with 1."""


class UsageError(ValueError):
    """Options that do not fit each other or the data. The command line exits with 2; other ValueErrors are our bugs."""


class Role(IntFlag):
    """The use of a tracklet in one split. Query and gallery are independent: MARS's queries are both."""

    NONE = 0
    TRAIN = 1
    QUERY = 2
    GALLERY = 4
    JUNK = 8  # stands in the gallery and is ignored for every query


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to use a data set: which tracklets train, which are asked for, which are searched.

    `splits` are the names of its random divisions, ("0",) where the data set has a single one.
    """

    name: str
    splits: tuple[str, ...] = ("0",)
    description: str = ""
    cmc_only: bool = False  # one true match a query: mAP says nothing new and is not reported


class Frame(NamedTuple):
    """One picture on its way into a shard.

    `read` gives the encoded bytes (JPEG or PNG, as they came); `name` is what an error message shows.
    """

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class SourceTracklet:
    """A tracklet as a source hands it to the writer.

    key     unique name in the data set; a valid file name without a dot
    pid     identity; DISTRACTOR_PID and JUNK_PID are special
    camid   camera, as the data set numbers it
    roles   one Role for each (protocol, split), in the order of `Source.protocols` and their splits
    frames  called in the process that writes; frames in the order of time
    """

    key: str
    pid: int
    camid: int
    num_frames: int
    roles: tuple[Role, ...]
    frames: Callable[[], Iterator[Frame]]


@dataclass(frozen=True, slots=True)
class Source:
    """A data set on disk, read and checked against its official counts, ready to be written."""

    name: str
    protocols: tuple[Protocol, ...]
    tracklets: tuple[SourceTracklet, ...]
    facts: Mapping[str, str] = field(default_factory=dict)  # free notes that `info` shows


@dataclass(frozen=True, slots=True)
class Tracklet:
    """A tracklet as the reader gives it back. `roles` maps (protocol, split) to its Role there."""

    key: str
    pid: int
    camid: int
    num_frames: int
    roles: Mapping[tuple[str, str], Role]
