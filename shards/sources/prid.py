"""PRID-2011, multi-shot (Hirzer et al., SCIA 2011), with the ten splits in common use.

    ROOT/multi_shot/cam_{a,b}/person_<number4>/<frame4>.png
    SPLITS.json    a list of splits: {"train": ["person_0001", ...], "test": [...]}, 89 persons each

The splits come with several public toolkits, not with the data. Only the persons named in the splits are read: most
folders are of people seen by one camera. Queries are of camera a, the gallery of camera b; scores are the mean of the
ten splits.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from shards.guarded import read_regular
from shards.paths import path
from shards.records import DataError, Protocol, Source
from shards.sources.common import check_counts
from shards.sources.two_cameras import two_cameras
from shards.sources.walk import Walk

PERSON = re.compile(r"person_(\d{4})")
CAMERAS = ("cam_a", "cam_b")
OFFICIAL_COUNTS = {"splits": 10, "persons": 178, "persons of each half": 89}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `build prid`."""
    parser.add_argument("--source", type=path, required=True, metavar="DIR", help="folder with multi_shot")
    parser.add_argument("--splits", type=path, required=True, metavar="FILE", help="the ten splits, JSON")
    parser.add_argument("--partial", action="store_true", help="accept other numbers of splits and persons")
    parser.set_defaults(read=lambda args: read(args.source, args.splits, partial=args.partial))


def read(root: Path, splits: Path, *, partial: bool = False) -> Source:
    """Read the splits, and the pictures of their persons on both cameras.

    Raises DataError with file and way out: splits that are invalid or overlap, persons without pictures, pictures whose
    names are not numbers, and, unless `partial`, other numbers of splits or persons than in common use.
    """
    halves = _read_splits(splits)
    persons = frozenset.union(*(train | test for train, test in halves))
    sizes = {len(half) for split in halves for half in split}
    counts = {
        "splits": len(halves),
        "persons": len(persons),
        "persons of each half": sizes.pop() if len(sizes) == 1 else -1,
    }
    note = check_counts(splits, "the splits in common use", counts, OFFICIAL_COUNTS, partial)
    protocol = Protocol(
        "official",
        tuple(map(str, range(len(halves)))),
        "query camera a, gallery camera b; the mean of the ten splits counts",
        cmc_only=True,
    )
    folders = {pid: [root / "multi_shot" / cam / f"person_{pid:04d}" for cam in CAMERAS] for pid in persons}
    if not (root / "multi_shot").is_dir():
        raise DataError(f"{root}: contains no folder multi_shot; give the folder prid_2011 that holds it")
    walk = Walk(root)
    _skip_foreign(walk, root / "multi_shot")
    test = [[test for _, test in halves]]
    facts = {"partial": note} if note else {}
    return two_cameras("prid", [protocol], walk, folders, lambda pid, camid: "", test, facts, first_frame=1)


def _skip_foreign(walk: Walk, multi_shot: Path) -> None:
    """Note folders of neither cameras nor persons. Persons outside the splits are part of the data set."""
    for name in walk.folders(multi_shot):
        if name not in CAMERAS:
            walk.skip("pictures", multi_shot / name)
    for camera in CAMERAS:
        for name in walk.folders(multi_shot / camera):
            if not PERSON.fullmatch(name):
                walk.skip("pictures", multi_shot / camera / name)


def _read_splits(path: Path) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Return the persons (train, test) of each split."""
    try:
        content = json.loads(read_regular(path))
        halves = [(_persons(split["train"]), _persons(split["test"])) for split in content]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give --splits the splits in common use, as JSON") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f'{path}: not a list of {{"train": ["person_0001", ...], "test": [...]}} ({error})') from error
    if not halves:
        raise DataError(f"{path}: contains no split")
    for number, (train, test) in enumerate(halves):
        if train & test:
            raise DataError(f"{path}: split {number}: person_{min(train & test):04d} both trains and tests")
        if train | test != halves[0][0] | halves[0][1]:
            raise DataError(f"{path}: split {number} has other persons than split 0")
    return halves


def _persons(names: list[str]) -> frozenset[int]:
    matches = [PERSON.fullmatch(name) for name in names]
    if None in matches:
        raise ValueError(f"{names[matches.index(None)]!r} is not a name like person_0001")
    return frozenset(int(match[1]) for match in matches if match)
