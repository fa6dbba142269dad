"""Extract features, with the same bits on any number of processes (CPU).

The tracklets lie on one grid of tiles that does not depend on the number of ranks. A rank embeds whole tiles, in
batches of constant shape that never cross a tile. Legend: S tracklets of this rank, D feature.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import accumulate, zip_longest
from pathlib import Path

import numpy as np
import torch

from mstat.config import Config
from mstat.console import print_line
from mstat.data.clips import evaluation_clips
from mstat.data.loader import EvaluationBatches, Tensors, load
from mstat.distributed.engine import Engine
from mstat.evaluation.feature_rows import FeatureRows, Unfinished
from mstat.evaluation.ranking import gallery_slices
from mstat.numerics import spreading
from mstat.provenance import PROJECT, source_digest, versions
from mstat.report.progress import Count
from shards.read import Reader
from shards.stream import StreamedReader

TILE = 64  # tracklets that stay together on one rank
AT_ONCE = 8  # most batches that CPU threads embed at a time; each needs the memory of a forward pass

# uint8 frames B,T,H,W,3 on the device -> parts of a feature, each (B, D of the part)
Embed = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def flip_averaged(embed: Embed) -> Embed:
    """Return a function that averages, in fp32, the features of clips and of their mirror images."""

    def averaged(frames_BTHWC: torch.Tensor) -> list[torch.Tensor]:
        pairs = zip(embed(frames_BTHWC), embed(frames_BTHWC.flip(3)), strict=True)
        return [(part.float() + mirrored.float()) / 2 for part, mirrored in pairs]

    return averaged


Batch = list[tuple[int, int]]  # (row, clip)


def _by_worker(tiles: Sequence[list[Batch]], num_workers: int) -> tuple[list[Batch], list[int]]:
    """Return batches and the worker of each, so that a tile's batches are one worker's, and workers take turns."""
    queues = [[batch for tile in tiles[worker::num_workers] for batch in tile] for worker in range(num_workers)]
    dealt = [
        (batch, worker) for batches in zip_longest(*queues) for worker, batch in enumerate(batches) if batch is not None
    ]
    return [batch for batch, _ in dealt], [worker for _, worker in dealt]


class Extraction:
    """Feature extraction of tracklets, distributed over ranks.

    Attributes:
        tracklets: Indices in the data set.
        num_intact: Number of leading tracklets whose frames are not degraded; the frames of all later ones get
            `eval.occlusion` and `eval.resolution`.
        bounds: This rank's slice of `tracklets`, in whole tiles.
        work: Folder for finished rows, from which a stopped evaluation goes on; None keeps none.

    Args:
        read_once: The tracklets are all of a set, in its order; a set behind a URL is streamed and not cached.
    """

    def __init__(
        self,
        engine: Engine,
        reader: Reader,
        config: Config,
        tracklets: np.ndarray,
        num_intact: int | None = None,
        read_once: bool = False,
    ) -> None:
        self.work: Path | None = None
        self._unfinished: list[Unfinished] = []
        self.engine, self.reader, self.config, self.tracklets = engine, reader, config, tracklets
        self.streams = read_once and reader.is_remote  # a local set is as fast with random access
        self.num_intact = len(tracklets) if num_intact is None else num_intact
        self.slices = gallery_slices(len(tracklets), engine.world_size, TILE)
        self.bounds = self.slices[engine.rank]

    def extract(
        self,
        embed: Embed,
        size: tuple[int, int],
        intact: Sequence[torch.Tensor] | None = None,
        *,
        label: str = "features",
        source: str | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the parts of the features of this rank's tracklets, each (S, D of the part) fp32 on the CPU.

        Frames are resized to `size`. Every rank calls `embed` equally often, because each call is a collective under
        ZeRO-3. Without DeepSpeed, several CPU threads call it at once. `eval.flip` makes `embed` average the clip
        and its mirror image, see `flip_averaged`.

        Args:
            intact: Result of `extract` in another trial with the same gallery and number of queries. The features of
                tracklets that are not degraded are copied from it.
            label: Name of the features in the progress display.
            source: Name of what `embed` computes, such as the digest of its weights. With it and `work`, finished rows
                are kept on disk, and those of an earlier process are not computed again.

        Raises:
            StopRequested: If a signal asked the training to stop.
        """
        if self.config.eval.flip:
            embed = flip_averaged(embed)
        start, stop = self.bounds
        num_clips = [self._num_clips(row) for row in range(start, stop)]
        rows = FeatureRows(start, stop, num_clips, TILE, self._kept(source, size))
        num_known = sum(self.engine.gather_objects(rows.num_done))
        if num_known and self.engine.is_main:
            known = f"{num_known:,} of {len(self.tracklets):,}"
            print_line(f"{label}: {known} tracklets are known from an evaluation that was stopped")
        if intact is not None:
            num_intact = max(min(self.num_intact, stop) - start, 0)
            rows.take(torch.cat(list(intact), dim=1)[:num_intact], [part.shape[1] for part in intact])
        tiles = [self._batches(tile, rows, num_clips) for tile in range(start, stop, TILE)]
        workers = min(self.config.data.num_workers, sum(map(len, tiles)))
        batches, turns, reader = [batch for tile in tiles for batch in tile], None, self.reader
        if self.streams:
            is_dealt = workers > 1
            if is_dealt:
                batches, turns = _by_worker(tiles, workers)
            reader = StreamedReader(reader.path, [*range(start + TILE, stop, TILE), stop] if is_dealt else [stop])
        # Rows before the first row of all later batches are complete.
        ends = [*reversed([*accumulate((batch[0][0] for batch in reversed(batches[1:])), min, initial=stop)])]
        of_ranks = self.engine.gather_objects(len(batches))
        most, total = max(of_ranks), len(self.tracklets)
        num_done = sum(self.engine.gather_objects(rows.num_done))
        dataset = EvaluationBatches(reader, self.tracklets.tolist(), batches, self.config.eval, size, self.num_intact)
        on_gpu = self.engine.device.type == "cuda"
        dims: list[int] = []

        def joined_parts(batch: Tensors) -> tuple[torch.Tensor, list[int]]:
            with self.engine.autocast():
                parts = embed(batch["frames_BTHWC"].to(self.engine.device, non_blocking=True))
            return torch.cat([part.float() for part in parts], dim=1).cpu(), [part.shape[1] for part in parts]

        # ZeRO-3 gathers weights for a call and frees them afterwards, so calls must not overlap.
        at_once = 1 if self.engine.is_deepspeed else AT_ONCE
        with (
            self.engine.uncompiled(),
            spreading(self.engine.device, at_once) as spread,
            closing(load(dataset, range(len(batches)), workers, on_gpu, spread.in_hand, turns)) as loader,
            Count(f"extracting {label}", total, "tracklets", num_done, enabled=self.engine.is_main) as progress,
        ):
            done = zip(spread.stream(joined_parts, loader), ends[: len(batches)], strict=True)
            for number, ((batch, (joined_BD, dims)), end) in enumerate(done, 1):
                kept = batch["rows_B"] >= 0
                rows.add(batch["rows_B"][kept], joined_BD[kept], dims, end)
                progress.show(num_done + (total - num_done) * number // most)  # as if all ranks were as far
                self.engine.stop_if_asked()
            for number in range(len(batches) + 1, most + 1):
                shape = (self.config.eval.batch_size, self.config.eval.num_frames, *size, 3)
                _, dims = joined_parts({"frames_BTHWC": torch.zeros(shape, dtype=torch.uint8)})
                progress.show(num_done + (total - num_done) * number // most)
                self.engine.stop_if_asked()
        known_dims = self.engine.gather_objects(rows.dims or dims)  # a rank may have neither rows nor a call
        return rows.parts(next(filter(None, known_dims)))

    def _num_clips(self, row: int) -> int:
        length = int(self.reader.num_frames[self.tracklets[row]])
        return len(evaluation_clips(length, self.config.eval, int(self.tracklets[row])))

    def _batches(self, tile: int, rows: FeatureRows, num_clips: Sequence[int]) -> list[Batch]:
        """Return the batches of (row, clip) of a tile, without known rows; none mixes intact and degraded frames."""
        start, stop = rows.start, min(tile + TILE, rows.stop)
        edge = min(max(tile, self.num_intact), stop)
        size, batches = self.config.eval.batch_size, []
        for group in (range(tile, edge), range(edge, stop)):
            missing = [row for row in group if not rows.known_S[row - start]]
            clips = [(row, clip) for row in missing for clip in range(num_clips[row - start])]
            batches += [clips[first : first + size] for first in range(0, len(clips), size)]
        return batches

    def _kept(self, source: str | None, size: tuple[int, int]) -> Unfinished | None:
        """Return the copy on disk of an extraction; None without `source` or `work`."""
        if source is None or self.work is None:
            return None
        facts = {
            "source": source,
            "data": self.reader.checksum,
            "tracklets": hashlib.sha256(self.tracklets.tobytes()).hexdigest(),
            "num_intact": self.num_intact,
            "size": size,
            "eval": dataclasses.asdict(self.config.eval),
            "precision": self.config.train.precision,
            "device": self.engine.device.type,
            "versions": versions(),
            "code": source_digest(PROJECT),
        }
        kept = Unfinished(self.work, facts)
        self._unfinished.append(kept)
        return kept

    def forget_unfinished(self) -> None:
        """Delete the copies on disk of the extractions of this object. Every rank calls it."""
        self.engine.barrier()  # another rank may still read them
        while self._unfinished:
            unfinished = self._unfinished.pop()
            if self.engine.is_main:
                unfinished.remove()
