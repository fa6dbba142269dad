"""Rows of features while they are extracted, and their copy on disk, from which a stopped extraction goes on.

FOLDER/<digest of all that decides the features>/<first>-<stop>.safetensors   the features of these rows

A file holds whole tiles, so it does not matter which rank, of how many, writes or reads it. The files go when the
evaluation has written its scores; those of an evaluation that nobody went on with go after `MOST_DAYS`, at the end of
another one.

Shape suffixes: S rows of this rank, B clips of a batch, D feature, N rows of a file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SAVE_SECONDS = 30.0  # between two copies to disk; a shorter extraction writes nothing
MOST_DAYS = 7
FOLDER = "features.unfinished"  # beside evaluation.json
DIGEST = re.compile(r"[0-9a-f]{16}")
FILE = re.compile(r"(\d{1,12})-(\d{1,12})\.safetensors")


def weights_digest(model: nn.Module) -> str | None:
    """Return the SHA-256 of all weights and buffers; None under ZeRO-3, where a rank holds a part of them."""
    digest = hashlib.sha256()
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return None
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Unfinished:
    """Rows of one extraction, on disk.

    Args:
        folder: Folder for the extractions of an evaluation; made when rows are saved.
        facts: All that decides the features, as JSON values; rows of other facts are not read.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder / hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, first: int, features_SD: Tensor, dims: Sequence[int]) -> None:
        """Save the features of rows `first` on; `dims` are those of their parts. A full disk is logged, not raised."""
        path = self.folder / f"{first}-{first + len(features_SD)}.safetensors"
        try:
            if self._is_link():
                raise OSError("the folder is a link")
            self.folder.mkdir(parents=True, exist_ok=True)
            write_rows(path, features_SD, {"dims": json.dumps(list(dims))})
        except OSError as error:  # the evaluation itself needs none of these files
            logging.getLogger("mstat").warning("%s: features were not kept for a restart: %s", path, error)

    def load(self, start: int, stop: int) -> tuple[Tensor, Tensor, list[int]] | None:
        """Return which rows from `start` to `stop` are known (S,), the features (S, D) and the dims of their parts.

        None if no row is known. A damaged file counts as missing.
        """
        known_S, features_SD = torch.zeros(stop - start, dtype=torch.bool), None
        dims: list[int] = []
        for path, first, last in self._files():
            low, high = max(first, start), min(last, stop)
            if low >= high:
                continue
            try:
                with safe_open(path, "pt") as file:
                    of_file = [int(dim) for dim in json.loads(file.metadata()["dims"])]
                    part_ND = file.get_slice("features")[low - first : high - first]
            except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
                continue
            is_sound = part_ND.dtype == torch.float32 and min(of_file, default=0) > 0
            if not is_sound or part_ND.shape != (high - low, sum(of_file)) or (dims and of_file != dims):
                continue
            if features_SD is None:
                features_SD, dims = torch.zeros(stop - start, sum(of_file)), of_file
            features_SD[low - start : high - start] = part_ND
            known_S[low - start : high - start] = True
        return None if features_SD is None else (known_S, features_SD, dims)

    def _files(self) -> list[tuple[Path, int, int]]:
        paths = [] if self._is_link() else sorted(self.folder.glob("*.safetensors"))
        matches = [(path, FILE.fullmatch(path.name)) for path in paths if path.is_file() and not path.is_symlink()]
        return [(path, int(match[1]), int(match[2])) for path, match in matches if match]

    def _is_link(self) -> bool:
        return self.folder.is_symlink() or self.folder.parent.is_symlink()

    def remove(self) -> None:
        """Delete the rows, rows of other extractions that are older than `MOST_DAYS`, and the folder if it is empty.

        One process calls it, when no other one reads the rows.
        """
        if self._is_link():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        oldest = time.time() - MOST_DAYS * 24 * 3600
        with contextlib.suppress(OSError):  # another evaluation in this folder may do the same
            for other in self.folder.parent.iterdir():
                if DIGEST.fullmatch(other.name) and other.stat().st_mtime < oldest:
                    shutil.rmtree(other, ignore_errors=True)
            self.folder.parent.rmdir()


def write_rows(path: Path, features_ND: Tensor, metadata: Mapping[str, str] | None = None) -> None:
    """Write `features` to a safetensors file: under a temporary name, then renamed, with the mode of new files.

    Raises:
        OSError: If it cannot be written.
    """
    tmp = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        tmp.touch()
        mode = tmp.stat().st_mode
        save_file({"features": features_ND.contiguous()}, tmp, None if metadata is None else dict(metadata))
        tmp.chmod(mode)  # safetensors sets 0600 and ignores the umask
        tmp.replace(path)
    except SafetensorError as error:  # also on a full disk
        raise OSError(errno.EIO, str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()


class FeatureRows:
    """Features of rows `start` to `stop`, which are completed in ascending order.

    Args:
        num_clips: Clips of each of these rows, whose features are averaged.
        tile: Rows that are embedded and saved together.
        unfinished: Copy on disk; None keeps none.

    Attributes:
        known_S: Rows that are complete.
        num_done: Their number.
        dims: Dims of the parts of a feature; empty until one is known.
    """

    def __init__(
        self, start: int, stop: int, num_clips: Sequence[int], tile: int, unfinished: Unfinished | None
    ) -> None:
        self.start, self.stop, self._tile, self._unfinished = start, stop, tile, unfinished
        self._num_clips_S = torch.tensor(num_clips, dtype=torch.long)
        self.known_S = torch.zeros(stop - start, dtype=torch.bool)
        self._features_SD: Tensor | None = None
        self.dims: list[int] = []
        self._end = self._saved = start  # end of the complete rows, and of those on disk
        self.num_done = 0
        self._saved_at = self._began = time.monotonic()
        if unfinished and (loaded := unfinished.load(start, stop)):
            known_S, self._features_SD, self.dims = loaded
            for first in range(0, stop - start, tile):
                self.known_S[first : first + tile] = known_S[first : first + tile].all()
            self._features_SD[~self.known_S] = 0
            self._skip_known()

    def take(self, features_ND: Tensor, dims: Sequence[int]) -> None:
        """Take the first N rows of the slice from another extraction."""
        self._allocate(dims)[: len(features_ND)] = features_ND
        self.known_S[: len(features_ND)] = True
        self._skip_known()

    def _skip_known(self) -> None:
        """Count the known rows, and do not write the first ones again."""
        self.num_done = int(self.known_S.sum())
        missing = torch.nonzero(~self.known_S)
        first = int(missing[0]) if len(missing) else len(self.known_S)
        self._end = self._saved = self.start + first - first % self._tile

    def add(self, rows_B: Tensor, features_BD: Tensor, dims: Sequence[int], end: int) -> None:
        """Add the features of clips, given the row of each; rows before `end` are complete then."""
        features_SD = self._allocate(dims)
        features_SD.index_add_(0, rows_B - self.start, features_BD)
        done = slice(self._end - self.start, end - self.start)
        new = torch.nonzero(~self.known_S[done]).squeeze(1) + done.start
        features_SD[new] /= self._num_clips_S[new, None]
        self.known_S[new] = True
        self.num_done += len(new)
        self._end = max(self._end, end)
        if time.monotonic() - self._saved_at >= SAVE_SECONDS:
            self._save(end if end == self.stop else end - end % self._tile)

    def parts(self, dims: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the parts of the features, given their dims in case that there is no row."""
        if time.monotonic() - self._began >= SAVE_SECONDS:
            self._save(self._end)
        return self._allocate(dims).split(self.dims, dim=1)

    def _allocate(self, dims: Sequence[int]) -> Tensor:
        if self._features_SD is None:
            self.dims = list(dims)
            self._features_SD = torch.zeros(self.stop - self.start, sum(dims))
        return self._features_SD

    def _save(self, end: int) -> None:
        if self._unfinished and self._features_SD is not None and end > self._saved:
            rows = slice(self._saved - self.start, end - self.start)
            self._unfinished.save(self._saved, self._features_SD[rows], self.dims)
            self._saved, self._saved_at = end, time.monotonic()
