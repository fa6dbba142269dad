"""AG-VPReID (Nguyen et al., CVPR 2025): persons seen by drones and from the ground.

    ROOT/train/<pid>/<tracklet>/*.jpg
    ROOT/<case>/{query,gallery}/<pid>/<tracklet>/*.jpg
    ROOT/attributes/<case>/{query,gallery}.csv                          optional: id, and 15 attributes

Cases are case1_aerial_to_ground, case2_ground_to_aerial and case3_aerial_to_aerial, at least one of them. Names of
frames are like P81T2310171A2C2E152K7F7528.jpg: C is the camera, F the number of the frame; the number after P holds for
one day, so the identity is that of the folder, plus 1 (there is a folder 0). Cameras C0 and C1 are CCTV, C2 and C3
wearable, C4 and C5 drones: queries and gallery of a case must be of its sides. A tracklet that several cases contain is
stored once.

Folders, the first two cases, names and cameras are those that the authors' repositories describe
(agvpreid25/AG-VPReID and AG-VPReID-Net); case3_aerial_to_aerial is the name of a third case in other loaders of this
layout. Counts are not checked, since no list of the published copies is public. In the competition's copy, attributes
of the same number differ between query and gallery, so that its gallery seems to have other numbers, and scores on it
mean nothing: the fact `doubtful` reports such differences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path

from shards.guarded import read_regular
from shards.records import DataError, Frame, Protocol, Role, Source, SourceTracklet
from shards.sources.common import files_of, natural, some
from shards.sources.copies import Pictures, are_copies
from shards.sources.walk import Walk

NAME = re.compile(r"P\d+T\d+A\d+C(\d{1,2})E\d+K\d+F(\d{1,9})\.(?:jpg|jpeg|png)", re.ASCII | re.IGNORECASE)
IDENTITY = re.compile(r"[0-9]{1,9}")
EXAMPLE = "P81T2310171A2C2E152K7F7528.jpg"
TRACKLET = re.compile(r"[A-Za-z0-9_-]{1,40}")
FIRST_DRONE = 4
CASES = {
    "case1_aerial_to_ground": ("aerial", "ground"),
    "case2_ground_to_aerial": ("ground", "aerial"),
    "case3_aerial_to_aerial": ("aerial", "aerial"),
}
ROLES = {"query": Role.QUERY, "gallery": Role.GALLERY}
MAX_ATTRIBUTES = 10_000_000  # bytes of a file


@dataclass(frozen=True, slots=True)
class _Tracklet:
    """A folder of a tracklet. `part` is train, or case and side, such as case1_aerial_to_ground/query."""

    part: str
    folder: Path
    pid: int
    camid: int
    listing: str  # names of the frames, joined by /: ten million strings would take three times the memory

    @property
    def names(self) -> list[str]:
        return self.listing.split("/")

    @property
    def key(self) -> str:
        case, _, side = self.part.partition("/")
        return "-".join(filter(None, (case.partition("_")[0], side, self.folder.parent.name, self.folder.name)))


def read(root: Path) -> Source:
    """Walk the folders; check names and cameras, and find the tracklets that several cases contain.

    Raises DataError with folder and way out: a missing folder, no case, an identity that is not a number, an unexpected
    name, frames of several cameras in one folder, a camera of the wrong side.
    """
    walk = Walk(root)
    folders = walk.folders(root)
    cases = [case for case in CASES if case in folders]
    if not cases:
        raise DataError(f"{root}: contains none of {', '.join(CASES)}; give the folder that holds train and the cases")
    for name in sorted(set(folders) - {"train", "attributes", *cases}):
        walk.skip("", root / name)
    train = _walk(walk, root, "train", None)
    tests = [
        _walk(walk, root, f"{case}/{side}", view)
        for case in cases
        for side, view in zip(ROLES, CASES[case], strict=True)
    ]
    copies = _copies([tracklet for part in tests for tracklet in part])
    protocols = tuple(_protocol(case) for case in cases)
    tracklets = [_tracklet(tracklet, (Role.TRAIN,) * len(cases)) for tracklet in train]
    for first, parts in copies.items():
        roles = tuple(Role(sum(role for side, role in ROLES.items() if f"{case}/{side}" in parts)) for case in cases)
        tracklets.append(_tracklet(first, roles))
    facts = {"identities": "number of the folder + 1"}
    if shared := sum(len(parts) - 1 for parts in copies.values()):
        facts["copies"] = f"tracklets that several cases or sides contain, stored once: {shared:,} copies left out"
    if doubts := [doubt for case in cases if (doubt := _doubt(root, case))]:
        facts["doubtful"] = "; ".join(doubts)
    return Source("agvpreid", protocols, tuple(tracklets), {**facts, **walk.facts()})


def _protocol(case: str) -> Protocol:
    query, gallery = CASES[case]
    return Protocol(
        case.partition("_")[2].replace("_", "-"),
        description=f"queries of {query} cameras, gallery of {gallery} cameras; same identity and camera is ignored",
    )


def _walk(walk: Walk, root: Path, part: str, view: str | None) -> list[_Tracklet]:
    """Return the tracklets of a part, sorted by identity and name. `view` is the side its cameras must be of."""
    result = []
    empty: list[Path] = []
    pids: dict[int, str] = {}
    for identity in sorted(walk.folders(root / part), key=natural):
        folder = root / part / identity
        if not IDENTITY.fullmatch(identity):
            raise DataError(f"{folder}: not the number of an identity; is this AG-VPReID?")
        if pids.setdefault(int(identity), identity) != identity:
            raise DataError(f"{folder} and {pids[int(identity)]} are the same identity; join them")
        tracklets = sorted(walk.folders(folder), key=natural)
        if not tracklets:
            empty.append(folder)
        result += [_read_tracklet(walk, part, folder / name, int(identity) + 1, view) for name in tracklets]
    if empty:
        raise DataError(f"{some(empty)}: contains no folders of tracklets; unpack it again, or remove the folder")
    if not result:
        raise DataError(f"{root / part}: contains no tracklet; unpack it again")
    return result


def _read_tracklet(walk: Walk, part: str, folder: Path, pid: int, view: str | None) -> _Tracklet:
    if not TRACKLET.fullmatch(folder.name):
        raise DataError(f"{folder}: not a folder like tracklet_12 (at most 40 letters, digits, - and _); rename it")
    frames = []
    cameras = set()
    for name in walk.pictures(folder):
        match = NAME.fullmatch(name)
        if match is None:
            raise DataError(f"{folder / name}: not a name like {EXAMPLE}; remove it")
        cameras.add(int(match[1]))
        frames.append((int(match[2]), name))
    if len(cameras) != 1:
        raise DataError(f"{folder}: frames of cameras {', '.join(f'C{c}' for c in sorted(cameras))}; unpack it again")
    camid = cameras.pop()
    if view is not None and view != ("aerial" if camid >= FIRST_DRONE else "ground"):
        raise DataError(f"{folder}: camera C{camid}, but {part} is of {view} cameras; unpack it again")
    frames.sort(key=lambda frame: frame[0])  # equal numbers stay in the order of their names
    return _Tracklet(part, folder, pid, camid, "/".join(name for _, name in frames))


def _copies(tracklets: Sequence[_Tracklet]) -> Mapping[_Tracklet, set[str]]:
    """Return the distinct tracklets, each with the parts that contain it: same identity, names and bytes.

    Two equal tracklets of one part stay two, since the part's counts would change.
    """
    first: dict[tuple[int, str], _Tracklet] = {}
    pairs: dict[_Tracklet, _Tracklet] = {}
    taken: set[tuple[_Tracklet, str]] = set()
    for tracklet in tracklets:
        other = first.setdefault((tracklet.pid, tracklet.listing), tracklet)
        if other is not tracklet and (other, tracklet.part) not in taken:
            pairs[tracklet] = other
        taken.add((other, tracklet.part))
    same = are_copies([(Pictures(a.folder, a.names), Pictures(b.folder, b.names)) for a, b in pairs.items()])
    originals = {one: other for (one, other), equal in zip(pairs.items(), same, strict=True) if equal}
    parts: dict[_Tracklet, set[str]] = {}
    for tracklet in tracklets:
        parts.setdefault(originals.get(tracklet, tracklet), set()).add(tracklet.part)
    return parts


def _doubt(root: Path, case: str) -> str:
    """Return a warning if attributes of the same identity differ between query and gallery; otherwise an empty text."""
    paths = [root / "attributes" / case / f"{side}.csv" for side in ROLES]
    if not all(path.is_file() for path in paths):
        return ""
    query, gallery = ({line.partition(",")[0]: line for line in _lines(path)} for path in paths)
    both = query.keys() & gallery.keys()
    differ = sum(query[identity] != gallery[identity] for identity in both)
    if not differ:
        return ""
    return (
        f"{case}: attributes of {differ:,} of {len(both):,} identities differ between query and gallery; if the "
        "gallery's numbers are of other persons, as in the competition's copy, scores mean nothing"
    )


def _lines(path: Path) -> list[str]:
    lines = read_regular(path, MAX_ATTRIBUTES).decode("utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines[1:] if line.strip()]


def _tracklet(tracklet: _Tracklet, roles: tuple[Role, ...]) -> SourceTracklet:
    return SourceTracklet(
        key=tracklet.key,
        pid=tracklet.pid,
        camid=tracklet.camid,
        num_frames=len(tracklet.names),
        roles=roles,
        frames=bind(_frames, tracklet),
    )


def _frames(tracklet: _Tracklet) -> Iterator[Frame]:
    yield from files_of(tracklet.folder, tracklet.names)
