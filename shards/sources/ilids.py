"""iLIDS-VID (Wang et al., ECCV 2014), with its ten splits.

    ROOT/i-LIDS-VID/sequences/cam{1,2}/person<number3>/cam<cam>_person<number3>_<frame5>.png
    ROOT/train-test people splits/train_test_splits_ilidsvid.mat     ls_set, 10 x 300

The numbers of the 300 persons go to 319, with gaps. The splits hold positions (from 1) in the sorted list of folders,
not these numbers. Queries are of camera 1, the gallery of camera 2; scores are the mean of the ten splits. In
`official`, the first half of each row is the test part; in `first-half-trains`, the second half.
"""

from __future__ import annotations

import re
from pathlib import Path

from shards.records import DataError, Protocol, Source
from shards.sources.common import check_counts
from shards.sources.matlab import IntArray, load_mat
from shards.sources.two_cameras import two_cameras
from shards.sources.walk import Walk

PERSON = re.compile(r"person(\d{3})")
SPLITS = Path("train-test people splits") / "train_test_splits_ilidsvid.mat"
HOME = "it comes with iLIDS-VID, beside i-LIDS-VID"
OFFICIAL_COUNTS = {"splits": 10, "persons": 300}


def read(root: Path, *, partial: bool = False) -> Source:
    """List the persons, read the splits and map positions to persons.

    Raises DataError with file and way out: missing or unexpected folders, cameras with different persons, splits of
    other persons, pictures named for another person or camera, and, unless `partial`, counts other than the official
    ones.
    """
    walk = Walk(root)
    cameras = [root / "i-LIDS-VID" / "sequences" / f"cam{camid}" for camid in (1, 2)]
    first, second = (walk.folders(camera) for camera in cameras)
    for other in walk.folders(cameras[0].parent):
        if other not in ("cam1", "cam2"):
            walk.skip("pictures", cameras[0].parent / other)
    if first != second:
        alone = sorted(set(first) ^ set(second))[0]
        raise DataError(f"{cameras[0].parent}: {alone} is on one camera only; unpack the data set again")
    numbers = [_number(cameras[0] / name) for name in first]
    splits = load_mat(root / SPLITS, "ls_set", HOME)
    if splits.ndim != 2 or any(sorted(row) != list(range(1, len(numbers) + 1)) for row in splits.tolist()):
        raise DataError(
            f"{root / SPLITS}: its rows are not the positions 1 to {len(numbers)} of the persons in {cameras[0]}; "
            "take the originals of both"
        )
    counts = {"splits": len(splits), "persons": len(numbers)}
    note = check_counts(root, "iLIDS-VID", counts, OFFICIAL_COUNTS, partial)
    names = tuple(map(str, range(len(splits))))
    message = "query camera 1, gallery camera 2; the {} half of each row tests; the mean of the ten splits counts"
    protocols = [
        Protocol("official", names, message.format("first"), cmc_only=True),
        Protocol("first-half-trains", names, message.format("second"), cmc_only=True),
    ]
    half = splits.shape[1] // 2
    test = [[_persons(numbers, rows) for rows in part] for part in (splits[:, :half], splits[:, half:])]
    folders = {number: [camera / name for camera in cameras] for number, name in zip(numbers, first, strict=True)}
    facts = {"partial": note} if note else {}
    return two_cameras("ilids", protocols, walk, folders, "cam{1}_person{0:03d}_".format, test, facts)


def _number(folder: Path) -> int:
    match = PERSON.fullmatch(folder.name)
    if match is None:
        raise DataError(f"{folder}: not a name like person001, but the splits count folders; move it away")
    return int(match[1])


def _persons(numbers: list[int], positions: IntArray) -> frozenset[int]:
    return frozenset(numbers[position - 1] for position in positions.tolist())
