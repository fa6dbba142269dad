"""What several sources share: MATLAB variables, counts that must be official, pictures in folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial as bind
from pathlib import Path
from typing import Any

import numpy as np

from shards.records import DataError, Frame, Protocol, Role, Source, SourceTracklet

HDF5 = b"MATLAB 7.3 MAT-file"
PICTURES = (".jpg", ".jpeg", ".png")
READ_BYTES = 1 << 16
MAX_NAMED = 10  # missing pictures that a message names; the rest is counted

IntArray = np.ndarray[Any, np.dtype[np.int64]]


def load_mat(path: Path, key: str, home: str, other_key: str | None = None) -> IntArray:
    """A variable of whole numbers in a MATLAB file of any version, as MATLAB shows it; `home` says where it is from.

    `other_key` is taken where there is no `key`.

    Raises DataError where the file is missing or damaged, or has no such variable.
    """
    if not path.is_file():
        raise DataError(f"{path}: missing; {home}")
    try:
        with path.open("rb") as file:
            is_hdf5 = file.read(len(HDF5)) == HDF5
        content = _load_hdf5(path) if is_hdf5 else _load_v5(path)
    except Exception as error:  # whatever the damaged bytes lead the readers to
        raise DataError(f"{path}: no MATLAB file that can be read ({error}); take the original") from error
    if other_key is not None and other_key in content and key not in content:
        key = other_key
    if key not in content:
        keys = f"{key} or {other_key}" if other_key else key
        there = ", ".join(k for k in content if not k.startswith("__")) or "nothing"
        raise DataError(f"{path}: no variable {keys} in it (there is: {there}); take the original")
    try:
        values = np.asarray(content[key])
        with np.errstate(invalid="ignore"):
            numbers = values.astype(np.int64)
        if not np.array_equal(numbers, values):  # fractions and NaN would become other numbers in silence
            raise ValueError("fractions or NaN")
        return numbers
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: {key} holds no whole numbers ({error}); take the original") from error


def _load_v5(path: Path) -> Mapping[str, Any]:
    import scipy.io

    content: Mapping[str, Any] = scipy.io.loadmat(path)
    return content


def _load_hdf5(path: Path) -> Mapping[str, Any]:
    """MATLAB lays matrices out by columns and HDF5 by rows, so that each comes transposed."""
    import h5py

    with h5py.File(path) as file:
        return {name: item[()].T for name, item in file.items() if isinstance(item, h5py.Dataset)}


def check_counts(root: Path, title: str, counts: Mapping[str, int], official: Mapping[str, int], partial: bool) -> str:
    """What differs from the official counts, for the fact `partial`; empty where nothing does.

    Raises DataError where something does and `partial` is not set.
    """
    wrong = "; ".join(f"{what} {counts[what]:,}, not {n:,}" for what, n in official.items() if counts[what] != n)
    if wrong and not partial:
        raise DataError(f"{root}: not the whole of {title}: {wrong}; complete it, or accept it with --partial")
    return wrong and f"not the whole of {title}, figures are not comparable: {wrong}"


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted: what a disk lists is in no order. Raises DataError where it is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; unpack the data set again, or give another --source")
    return sorted(name for name in os.listdir(folder) if not name.startswith(".") and (folder / name).is_dir())


def pictures_of(folder: Path) -> list[str]:
    """Names of the pictures in a folder, by the numbers in them (2 before 10). Raises DataError where there is none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: missing; unpack the data set again")
    names = [name for name in os.listdir(folder) if name.lower().endswith(PICTURES) and not name.startswith(".")]
    if not names:
        raise DataError(f"{folder}: no picture in it ({', '.join(PICTURES)}); unpack it again, or remove the folder")
    return sorted(names, key=natural)


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key: runs of digits count as numbers; names that differ in zeros alone keep an order."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


def numbered(names: Sequence[str], what: str) -> tuple[dict[str, int], dict[str, str]]:
    """A number for each name, and the fact that says which where they are no numbers from 1 already."""
    numbers = {name: int(name) for name in names if name.isdecimal() and int(name) > 0}
    if len(set(numbers.values())) == len(names):
        return numbers, {}
    numbers = {name: number for number, name in enumerate(names, start=1)}
    return numbers, {what: ", ".join(f"{number} {name}" for name, number in numbers.items())}


def files_of(folder: Path, names: Sequence[str]) -> Iterator[Frame]:
    """The frames that lie in a folder under these names."""
    for name in names:
        path = f"{folder}/{name}"
        yield Frame(path, bind(_read_file, path))


def _read_file(path: str) -> bytes:
    """As Path.read_bytes, in a quarter of its time, which counts where a file has a few kilobytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(descriptor, READ_BYTES)
        while more := os.read(descriptor, READ_BYTES):
            data += more
    finally:
        os.close(descriptor)
    return data


def missing_pictures(missing: Sequence[Path], listed_in: str) -> DataError:
    """The error for pictures that lists promise."""
    named = ", ".join(map(str, missing[:MAX_NAMED]))
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    return DataError(f"listed in {listed_in}, but missing: {named}{more}; unpack them again")


def two_cameras(
    name: str,
    protocols: Sequence[Protocol],
    folders: Mapping[int, Sequence[Path]],
    test: Sequence[Sequence[frozenset[int]]],
    facts: Mapping[str, str],
) -> Source:
    """A data set of one tracklet for each person and camera: who is asked for on camera 1 is searched on camera 2.

    Args:
        folders: Of each person's pictures, camera 1 first.
        test: For each protocol and split the persons that test; all others train.
    """
    tracklets = []
    for pid, of_cameras in sorted(folders.items()):
        for camid, folder in enumerate(of_cameras, start=1):
            names = pictures_of(folder)
            role = Role.QUERY if camid == 1 else Role.GALLERY
            roles = [role if pid in persons else Role.TRAIN for splits in test for persons in splits]
            key = f"{pid:04d}C{camid}T0001"
            tracklets.append(SourceTracklet(key, pid, camid, len(names), tuple(roles), bind(files_of, folder, names)))
    return Source(name, tuple(protocols), tuple(tracklets), facts)
