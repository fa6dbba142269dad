"""Random access to frames: (tracklet, frame numbers) -> pixels, reading only the bytes of these frames.

A Reader is cheap to open, can be pickled and forked, and loads neither torch nor datasets.

Shapes: T requested frames, H height, W width.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards import images, index
from shards.columns import to_numpy
from shards.images import Uint8Array
from shards.paths import expand
from shards.records import INCOMPARABLE, NO_OUTFIT, DataError, Protocol, Role, Tracklet, UsageError
from shards.storage import Place, RemoteFiles, open_files

Int64Array = np.ndarray[Any, np.dtype[np.int64]]
MAX_TOGETHER = 2 << 20  # bytes of decoded frames that are resized in one call


class _Batch:
    """Frames of a record batch of the index, as views of the mapped file, which all processes share.

    The frames of its tracklet i are first[i] to first[i + 1] in the other arrays. An access through pyarrow's objects
    would take as long as decoding the frame.
    """

    __slots__ = ("crc32", "first", "offsets", "sizes")

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.first = to_numpy(batch["sizes"].offsets)
        self.offsets, self.sizes, self.crc32 = (to_numpy(batch[name].values) for name in ("offsets", "sizes", "crc32"))


class Reader:
    """A folder of shards, local or behind a URL.

    `len(reader)`, `reader[i] -> Tracklet`, `reader.frames(i, numbers)`; columns as arrays, for samplers.

    Attributes:
        name: Name of the data set.
        protocols: Protocols of the data set; the first is the default.
        checksum: Checksum of the whole set; equal for two builds of the same data.
        facts: Notes of the source.
        pids, camids, outfits, num_frames: int64 arrays with an entry for each tracklet; outfits are NO_OUTFIT where
            none is labelled.

    Raises DataError if the folder is not a finished set, has another format version, or lacks bytes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        cache: str | os.PathLike[str] | None = None,
        cache_gb: float | None = None,
    ) -> None:
        self.path, self._cache = expand(os.fspath(path)), (cache, cache_gb)
        self._files = open_files(self.path, cache, cache_gb)
        self.description, self.checksum = index.load_description(self._files)
        if isinstance(self._files, RemoteFiles):
            self._files.name_blocks(self.checksum)
        self.name = self.description.name
        self.protocols = self.description.protocols
        self.facts = self.description.facts
        self._check_shards()
        self._table = index.load_table(self._files, self.description)
        self.pids: Int64Array = to_numpy(self._table["pid"])
        self.camids: Int64Array = to_numpy(self._table["camid"])
        has_outfits = self.description.has_outfits
        self.outfits: Int64Array = to_numpy(self._table["outfit"]) if has_outfits else np.full(len(self), NO_OUTFIT)
        self._shards: Int64Array = to_numpy(self._table["shard"])
        self.num_frames: Int64Array = np.asarray(to_numpy(pc.list_value_length(self._table["sizes"])), np.int64)
        self._batches = [_Batch(batch) for batch in self._table.to_batches()]
        self._batch_starts = np.cumsum([0] + [len(batch.first) - 1 for batch in self._batches])

    def __reduce__(self) -> tuple[type[Reader], tuple[Any, ...]]:
        return Reader, (self.path, *self._cache)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, i: int) -> Tracklet:
        row = self._row(i)
        roles = self._table["roles"][row].as_py()
        return Tracklet(
            key=self._key(row),
            pid=int(self.pids[row]),
            camid=int(self.camids[row]),
            num_frames=int(self.num_frames[row]),
            roles={name: Role(role) for name, role in zip(self.description.role_names, roles, strict=True)},
            outfit=int(self.outfits[row]),
        )

    def frames(self, i: int, numbers: Sequence[int] | Int64Array, size: tuple[int, int] | None = None) -> Uint8Array:
        """Decode frames of a tracklet.

        Args:
            i: Tracklet, 0 <= i < len.
            numbers: T frame numbers, from 0, in any order, repeats allowed.
            size: (H, W) to resize to. Default: the size of the first frame.

        Returns:
            uint8 RGB of shape T,H,W,3.

        Raises IndexError on a tracklet or frame that does not exist, DataError on bytes that have changed.
        """
        row = self._row(i)
        requested = list(map(int, numbers))
        if not requested:
            raise ValueError("no frame numbers given; request at least one frame")
        different = list(dict.fromkeys(requested))  # a clip longer than its tracklet repeats frames
        parts: list[Uint8Array] = []
        for group in _groups(self._decoded(row, different, size)):
            size = size or (group[0].shape[0], group[0].shape[1])
            parts.append(images.resize(np.stack(group), size))
        frames_THW3 = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return frames_THW3 if different == requested else frames_THW3[[different.index(number) for number in requested]]

    def _decoded(self, row: int, numbers: Sequence[int], size: tuple[int, int] | None) -> Iterator[Uint8Array]:
        """Yield decoded frames: JPEGs of at least twice `size` at a fraction of their size, all others at full size."""
        for number, data in zip(numbers, self._read(row, numbers), strict=True):
            try:
                image_HW3 = images.decode(data, at_least=size)
            except ValueError as error:
                raise DataError(f"{self.path}: {self._key(row)} frame {number}: {error}; replace it") from error
            size = size or image_HW3.shape[:2]
            yield image_HW3

    def encoded(self, i: int, number: int) -> bytes:
        """Return the stored bytes of one frame (JPEG or PNG). Raises the exceptions of `frames`."""
        return self._read(self._row(i), [number])[0]

    def protocol(self, name: str | None = None) -> Protocol:
        """Return the protocol `name`, or the first. Raises UsageError on an unknown name."""
        for protocol in self.protocols:
            if name is None or protocol.name == name:
                return protocol
        known = ", ".join(protocol.name for protocol in self.protocols)
        raise UsageError(f"{self.name}: no protocol {name!r}; there are: {known}")

    def roles(self, protocol: str | None = None, split: str | None = None) -> Uint8Array:
        """Return the role bits of every tracklet in a split of a protocol (None: the first). Raises UsageError."""
        chosen = self.protocol(protocol)
        split = chosen.splits[0] if split is None else split
        if split not in chosen.splits:
            raise UsageError(
                f"{self.name}: {chosen.name} has no split {split!r}; there are: {', '.join(chosen.splits)}"
            )
        names = self.description.role_names
        return self._flat("roles").reshape(len(self), len(names))[:, names.index((chosen.name, split))].copy()

    @property
    def is_remote(self) -> bool:
        """True if the set is behind a URL."""
        return isinstance(self._files, RemoteFiles)

    @property
    def warnings(self) -> list[str]:
        """Return the warnings for scores on this set: data is missing, was dropped, or may be wrong."""
        return [f"{name}: {self.facts[name]}" for name in INCOMPARABLE if name in self.facts]

    @property
    def num_bytes(self) -> Int64Array:
        """Return the size in bytes of every frame, concatenated over tracklets."""
        return np.asarray(self._flat("sizes"), np.int64)

    def keys(self, rows: Int64Array) -> list[str]:
        """Return the keys of some tracklets."""
        keys: list[str] = self._table["key"].take(pa.array(rows)).to_pylist()
        return keys

    def find(self, key: str) -> int:
        """Return the tracklet with this key. Raises KeyError."""
        place = pc.index(self._table["key"], key).as_py() if key.isascii() else -1  # keys are ASCII
        if place < 0:
            raise KeyError(key)
        return int(place)

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        self._files.close()

    def _row(self, i: int) -> int:
        if not 0 <= i < len(self):  # a negative index would hide bugs of samplers
            raise IndexError(f"{self.path}: no tracklet {i}; the tracklets are 0 to {len(self) - 1}")
        return int(i)

    def _key(self, row: int) -> str:
        return str(self._table["key"][row].as_py())

    def _read(self, row: int, numbers: Sequence[int]) -> list[bytes]:
        """Return the stored bytes of frames, checked."""
        stored = self._stored(row, numbers)
        places = [(offset, size) for offset, size, _ in stored]
        result = self._fetch(row, numbers, places)
        shard = self._shard(row)
        for place, (number, (_, _, crc32)) in enumerate(zip(numbers, stored, strict=True)):
            if zlib.crc32(result[place]) != crc32 and self._files.forget(shard, *places[place]):
                result[place] = self._files.read(shard, [places[place]])[0]  # if only the cache was damaged
            if zlib.crc32(result[place]) != crc32:
                where = "DIR" if self.is_remote else self.path  # a remote set can be verified only as a copy
                raise DataError(
                    f"{self._files.where(shard)}: {self._key(row)} frame {number}: its bytes have changed since the "
                    f"build; `python -m shards verify {where}` lists all damage"
                )
        return result

    def _stored(self, row: int, numbers: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return offset, size and CRC-32 of frames of a tracklet in its tar."""
        length = int(self.num_frames[row])
        for number in numbers:
            if not 0 <= number < length:
                raise IndexError(
                    f"{self.path}: {self._key(row)} has no frame {number}; its frames are 0 to {length - 1}"
                )
        at = int(self._batch_starts.searchsorted(row, side="right")) - 1
        batch = self._batches[at]
        rows = batch.first[row - self._batch_starts[at]] + np.asarray(numbers)
        if int(batch.sizes[rows].max()) > (max_bytes := images.max_bytes()):
            raise DataError(
                f"{self.path}: {self._key(row)}: a frame of {batch.sizes[rows].max():,} bytes is larger than a "
                f"picture of {images.max_pixels():,} pixels may be ({max_bytes:,} bytes); {images.MORE_PIXELS}"
            )
        columns = (column[rows].tolist() for column in (batch.offsets, batch.sizes, batch.crc32))
        return list(zip(*columns, strict=True))

    def _fetch(self, row: int, numbers: Sequence[int], places: Sequence[Place]) -> list[bytes]:
        """Return the bytes of frames, given their places in the tar."""
        shard = self._shard(row)
        try:
            return self._files.read(shard, places)
        except FileNotFoundError as error:
            raise DataError(f"{self._files.where(shard)}: missing; bring it back, or build the set again") from error

    def _shard(self, row: int) -> str:
        """Return the name of a tracklet's tar."""
        return self.description.shards[self._shards[row]].file

    def _flat(self, column: str) -> np.ndarray[Any, Any]:
        """Return a copy of the values of a list column, concatenated."""
        return to_numpy(self._table[column].combine_chunks().flatten())

    def _check_shards(self) -> None:
        files = [shard.file for shard in self.description.shards]
        try:
            sizes = self._files.sizes(files)
        except FileNotFoundError as error:
            missing = error.filename or error
            raise DataError(f"{missing}: missing; bring it back, or build the set again") from error
        for shard, size in zip(self.description.shards, sizes, strict=True):
            if size not in (shard.bytes, None):
                raise DataError(
                    f"{self._files.where(shard.file)}: {size:,} bytes, but {shard.bytes:,} were written: cut off or "
                    "changed; bring it back, or build the set again"
                )


def _groups(decoded: Iterator[Uint8Array]) -> Iterator[list[Uint8Array]]:
    """Group consecutive frames of one size, up to MAX_TOGETHER bytes.

    Resizing a group in one call avoids the overhead per frame. Large frames come one by one, so that a clip is never
    in memory at full size.
    """
    group: list[Uint8Array] = []
    for image_HW3 in decoded:
        if group and (image_HW3.shape != group[0].shape or (len(group) + 1) * image_HW3.nbytes > MAX_TOGETHER):
            yield group
            group = []
        group.append(image_HW3)
    if group:
        yield group
