"""Extract features and rank the gallery, with the same bits on any number of processes (CPU).

The tracklets lie on one grid of tiles that does not depend on the number of ranks. A rank embeds whole tiles, in
batches of constant shape that never cross a tile, and ranks its tiles of the gallery (`mstat.evaluation.ranking`).
Query features go to every rank; the gallery is never gathered. Legend: S tracklets of this rank, D feature, Q queries.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mstat.config import Config
from mstat.console import print_line
from mstat.data.clips import evaluation_clips
from mstat.data.loader import EvaluationBatches, Tensors, load
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.distances import class_distances
from mstat.evaluation.feature_rows import FeatureRows, Unfinished
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.metrics import Scores
from mstat.evaluation.metrics import score as score_ranks
from mstat.evaluation.narrow_cone import collapse, spread
from mstat.evaluation.open_set import open_set
from mstat.evaluation.per_query import group_scores
from mstat.evaluation.query_expansion import expanded
from mstat.evaluation.ranking import count_similarities, gallery_slices, merge_top, rank_positives, top_ranks
from mstat.evaluation.reranking import Reranking, rank_reranked
from mstat.evaluation.verification import BINS, verification
from mstat.evaluation.verification_intervals import candidates, count_accepted, verification_intervals
from mstat.numerics import spreading
from mstat.provenance import PROJECT, source_digest, versions
from mstat.report.progress import Count
from mstat.runs.scored_set import intact
from shards.read import Reader
from shards.records import Role

TILE = 64  # tracklets that stay together on one rank
AT_ONCE = 8  # most batches that CPU threads embed at a time; each needs the memory of a forward pass
PLOTTED = 600  # most tracklets in the t-SNE plot
TOP = 10  # gallery tracklets listed for a query

# uint8 frames B,T,H,W,3 on the device -> parts of a feature, each (B, D of the part)
Embed = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def flip_averaged(embed: Embed) -> Embed:
    """Return a function that averages, in fp32, the features of clips and of their mirror images."""

    def averaged(frames_BTHWC: torch.Tensor) -> list[torch.Tensor]:
        pairs = zip(embed(frames_BTHWC), embed(frames_BTHWC.flip(3)), strict=True)
        return [(part.float() + mirrored.float()) / 2 for part, mirrored in pairs]

    return averaged


class Extraction:
    """Feature extraction of tracklets, distributed over ranks.

    Attributes:
        tracklets: Indices in the data set.
        num_intact: Number of leading tracklets whose frames are not degraded; the frames of all later ones get
            `eval.occlusion` and `eval.resolution`.
        bounds: This rank's slice of `tracklets`, in whole tiles.
        work: Folder for finished rows, from which a stopped evaluation goes on; None keeps none.
    """

    def __init__(
        self, engine: Engine, reader: Reader, config: Config, tracklets: np.ndarray, num_intact: int | None = None
    ) -> None:
        self.work: Path | None = None
        self._unfinished: list[Unfinished] = []
        self.engine, self.reader, self.config, self.tracklets = engine, reader, config, tracklets
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
        if rows.num_done and self.engine.is_main:
            known = f"{self._in_total(rows.num_done):,} of {len(self.tracklets):,}"
            print_line(f"{label}: {known} tracklets are known from an evaluation that was stopped")
        if intact is not None:
            num_intact = max(min(self.num_intact, stop) - start, 0)
            rows.take(torch.cat(list(intact), dim=1)[:num_intact], [part.shape[1] for part in intact])
        batches = [batch for tile in range(start, stop, TILE) for batch in self._batches(tile, rows, num_clips)]
        most = max(self.engine.gather_objects(len(batches)))
        dataset = EvaluationBatches(
            self.reader, self.tracklets.tolist(), batches, self.config.eval, size, self.num_intact
        )
        on_gpu = self.engine.device.type == "cuda"
        workers = min(self.config.data.num_workers, len(batches))
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
            closing(load(dataset, range(len(batches)), workers, on_gpu, at_once=spread.in_hand)) as loader,
            self._progress(f"extracting {label}", rows.num_done) as progress,
        ):
            for (batch, (joined_BD, dims)), clips in zip(spread.stream(joined_parts, loader), batches, strict=True):
                kept = batch["rows_B"] >= 0
                row, clip = clips[-1]
                end = row + (clip + 1 == num_clips[row - start])
                rows.add(batch["rows_B"][kept], joined_BD[kept], dims, end)
                progress.show(self._in_total(rows.num_done))
                self.engine.stop_if_asked()
            for _ in range(most - len(batches)):
                shape = (self.config.eval.batch_size, self.config.eval.num_frames, *size, 3)
                _, dims = joined_parts({"frames_BTHWC": torch.zeros(shape, dtype=torch.uint8)})
                self.engine.stop_if_asked()
        known_dims = self.engine.gather_objects(rows.dims or dims)  # a rank may have neither rows nor a call
        return rows.parts(next(filter(None, known_dims)))

    def _num_clips(self, row: int) -> int:
        length = int(self.reader.num_frames[self.tracklets[row]])
        return len(evaluation_clips(length, self.config.eval, int(self.tracklets[row])))

    def _batches(self, tile: int, rows: FeatureRows, num_clips: Sequence[int]) -> list[list[tuple[int, int]]]:
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
        """Delete the copies on disk of the extractions of this object."""
        while self._unfinished:
            self._unfinished.pop().remove()

    def _in_total(self, num_rows: int) -> int:
        """Return the tracklets of all ranks that are done if they are as far as this one, with `num_rows`."""
        return round(num_rows * len(self.tracklets) / max(1, self.bounds[1] - self.bounds[0]))

    def _progress(self, label: str, num_rows: int) -> Count:
        total = len(self.tracklets)
        return Count(label, total, "tracklets", self._in_total(num_rows), enabled=self.engine.is_main)


class Trial(Extraction):
    """Evaluation of one protocol and split of a data set, distributed over ranks.

    `tracklets` holds the gallery, followed by the queries that the gallery lacks. If only queries are degraded
    (`eval.degrade`), all queries follow, because a degraded query differs from the same tracklet in the gallery.

    Attributes:
        queries: Positions of the queries in `tracklets`.
    """

    def __init__(self, engine: Engine, reader: Reader, config: Config) -> None:
        roles = reader.roles(config.data.protocol, config.data.split)
        in_gallery, is_query = (roles & Role.GALLERY) > 0, (roles & Role.QUERY) > 0
        gallery = np.flatnonzero(in_gallery)
        if not len(gallery) or not is_query.any():
            raise UserError(f"{config.data.shards}: no queries or no gallery in this protocol and split")
        degraded = config.eval != intact(config.eval)
        apart = degraded and config.eval.degrade == "queries"
        others = np.flatnonzero(is_query if apart else is_query & ~in_gallery)
        num_intact = len(gallery) if apart else 0 if degraded else None
        super().__init__(engine, reader, config, np.concatenate([gallery, others]), num_intact)
        self.num_gallery = len(gallery)
        self.queries = len(gallery) + np.arange(len(others)) if apart else np.flatnonzero(is_query[self.tracklets])
        requested = self.tracklets[self.queries]
        places = np.minimum(np.searchsorted(gallery, requested), len(gallery) - 1)
        itself = [(query, place) for query, place in enumerate(places) if gallery[place] == requested[query]]
        self.protocol = reader.protocol(config.data.protocol)
        self.pairs: Pairs = make_pairs(
            reader.pids[requested],
            reader.camids[requested],
            reader.pids[gallery],
            reader.camids[gallery],
            junk=(roles[gallery] & Role.JUNK) > 0,
            same=itself,
            query_outfits=reader.outfits[requested],
            gallery_outfits=reader.outfits[gallery],
            ignore=self.protocol.ignore,
        )
        if not self.pairs.positives_2P.shape[1]:
            raise UserError(f"{config.data.shards}: {self._why_no_match(gallery)}")

    def _why_no_match(self, gallery: np.ndarray) -> str:
        """Return the reason why nothing can be scored, and the way out."""
        requested, num_queries = self.tracklets[self.queries], len(self.queries)
        searched = gallery[~self.pairs.junk_G.numpy()]
        if not np.isin(self.reader.pids[requested], self.reader.pids[searched]).any():
            why = "no identity of a query is in the gallery" + " except as junk" * (len(searched) < len(gallery))
        elif self.protocol.needs_outfits:
            why = f"the rule {self.protocol.ignore} ignores all tracklets of the queries' identities in the gallery"
        elif len(cameras := np.unique(self.reader.camids[searched])) == 1:
            why = f"gallery and queries come from a single camera, {cameras[0]}"
        else:
            why = "the gallery has the queries' identities only from the query's own camera, or as junk"
        match = "a match" if self.protocol.needs_outfits else "a match from another camera"
        return (
            f"none of the {num_queries:,} queries of this protocol and split has {match} in the gallery, so nothing "
            f"can be scored: {why}. Choose another --data.protocol or --data.split, or a data set whose test "
            "identities appear in two cameras; --train.eval_every null trains without scores"
        )

    @property
    def pids_Q(self) -> np.ndarray:
        """Identity of each query."""
        return self.reader.pids[self.tracklets[self.queries]]

    @property
    def cmc_only(self) -> bool:
        """Whether the protocol has CMC alone, without mAP and its like."""
        return self.reader.protocol(self.config.data.protocol).cmc_only

    def camera_pairs(self, features_SD: torch.Tensor) -> list[dict[str, Any]]:
        """Score the queries of each camera in the gallery of each other camera."""
        query_QD, gallery_SD, start = self._sides(features_SD)
        requested, searched = self.tracklets[self.queries], self.tracklets[: self.num_gallery]
        camids_Q = torch.as_tensor(self.reader.camids[requested])
        result = []
        for camid in np.unique(self.reader.camids[searched]).tolist():
            others = torch.as_tensor(self.reader.camids[searched] != camid)
            pairs = dataclasses.replace(
                self.pairs,
                junk_G=self.pairs.junk_G | others,
                positives_2P=self.pairs.positives_2P[:, ~others[self.pairs.positives_2P[1]]],
            )
            ranks_P = rank_positives(query_QD, gallery_SD, start, pairs, reduce=self.engine.sum)
            scores = score_ranks(pairs, ranks_P)
            for query_camid in camids_Q.unique().tolist():
                chosen_Q = camids_Q == query_camid
                if group := group_scores(scores, chosen_Q, self.pids_Q, self.config.eval.seed, not self.cmc_only):
                    result.append({"query": query_camid, "gallery": camid, **group})
        return result

    def shown(self) -> np.ndarray:
        """Return the positions in `tracklets` of the first third of the test identities (Fig. 12), at most PLOTTED."""
        pids = self.reader.pids[self.tracklets].copy()
        _, once = np.unique(self.tracklets, return_index=True)
        pids[np.setdiff1d(np.arange(len(pids)), once)] = 0  # a degraded query, whose tracklet is in the gallery, too
        people = np.unique(pids[pids > 0])
        places = [np.flatnonzero(pids == pid) for pid in people[: max(2, len(people) // 3)]]
        return np.concatenate(places)[:PLOTTED]

    def collect(self, features_SD: torch.Tensor, places: np.ndarray) -> torch.Tensor:
        """Return the features of the tracklets at these positions, on every rank."""
        start, stop = self.bounds
        collected = torch.zeros(len(places), features_SD.shape[1])
        here = torch.as_tensor((places >= start) & (places < stop))
        collected[here] = features_SD[places[here.numpy()] - start]
        return self.engine.sum(collected)

    def _counting(self, label: str, num_queries: int | None = None) -> Count:
        total = len(self.queries) if num_queries is None else num_queries
        return Count(label, total, "queries", enabled=self.engine.is_main)

    def distances(self, features_SD: torch.Tensor, scores: Scores) -> dict[str, Any]:
        """Return the distances within and between identities (Table VI), given the features and their scores."""
        query_QD, gallery_SD, start = self._sides(features_SD)
        correct_Q = scores.first_hit_Q == 1
        gather = self.engine.gather_objects
        with self._counting("distances") as progress:
            return class_distances(
                query_QD,
                gallery_SD,
                start,
                self.pairs,
                self.pids_Q,
                correct_Q,
                gather=gather,
                progress=progress.advance,
            )

    def verification(self, features_SD: torch.Tensor) -> dict[str, Any]:
        """Return the scores of verification by cosine similarity, and their `intervals`."""
        sides = self._sides(features_SD)
        with self._counting("counting similarities") as progress:
            counts = count_similarities(*sides, self.pairs, BINS, progress=progress.advance)
        genuine_N, impostor_N = self.engine.sum(torch.stack(counts))
        result = verification(genuine_N, impostor_N)
        if result["eer"] is None:
            return {**result, "intervals": {}}
        identity_Q = torch.from_numpy(np.unique(self.pids_Q, return_inverse=True)[1])
        thresholds_M = candidates(genuine_N, impostor_N)
        accepted_2IM = self.engine.sum(count_accepted(*sides, self.pairs, identity_Q, thresholds_M, BINS))
        return {**result, "intervals": verification_intervals(accepted_2IM, self.config.eval.seed)}

    def open_set(self, features_SD: torch.Tensor) -> dict[str, Any]:
        """Return the scores of open-set identification by cosine similarity."""
        gallery_pids = self.reader.pids[self.tracklets[: self.num_gallery]]
        gather, seed = self.engine.gather_objects, self.config.eval.seed
        return open_set(*self._sides(features_SD), self.pairs, self.pids_Q, gallery_pids, seed, gather=gather)

    def _sides(self, features_SD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return the features of all queries (on the device), those of this rank's gallery slice, and its start."""
        start = self.bounds[0]
        here = (self.queries >= start) & (self.queries < self.bounds[1])
        query_QD = torch.zeros(len(self.queries), features_SD.shape[1])
        query_QD[torch.from_numpy(here)] = features_SD[self.queries[here] - start]
        query_QD = self.engine.sum(query_QD).to(self.engine.device)
        return query_QD, features_SD[: max(self.num_gallery - start, 0)], start

    def rank(
        self, features_SD: torch.Tensor, label: str = "all stages"
    ) -> tuple[Scores, Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor]]]:
        """Score the features of all ranks; also return a function that finds the top ranks of chosen queries."""
        query_QD, gallery_SD, start = self._sides(features_SD)
        with self._counting(f"ranking by {label}") as progress:
            ranks_P = rank_positives(
                query_QD, gallery_SD, start, self.pairs, reduce=self.engine.sum, progress=progress.advance
            )

        def nearest(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            top = top_ranks(query_QD[list(rows)], rows, gallery_SD, start, self.pairs, TOP)
            return merge_top(self.engine.gather_objects(top), TOP)

        distances = self.engine.gather_objects(spread(features_SD, query_QD[0]))
        return dataclasses.replace(score_ranks(self.pairs, ranks_P), fault=collapse(max(distances))), nearest

    def rerank(self, features_SD: torch.Tensor) -> Scores:
        """Score the features of all ranks after the query expansion and re-ranking of `config.eval`."""
        settings, engine = self.config.eval, self.engine
        query_QD, gallery_SD, start = self._sides(features_SD)
        if settings.expansion:
            nearest = settings.expansion, settings.expansion_alpha
            query_QD = expanded(
                query_QD, gallery_SD, start, self.pairs, *nearest, reduce=engine.sum, gather=engine.gather_objects
            )
        if settings.rerank == "none":
            ranks_P = rank_positives(query_QD, gallery_SD, start, self.pairs, reduce=engine.sum)
        else:
            parameters = Reranking(settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda)
            share = gallery_slices(len(query_QD), engine.world_size)[engine.rank]
            ranks_P = rank_reranked(
                query_QD,
                gallery_SD,
                start,
                self.pairs,
                parameters,
                share,
                reduce=engine.sum,
                gather=engine.gather_objects,
            )
        return score_ranks(self.pairs, ranks_P)
