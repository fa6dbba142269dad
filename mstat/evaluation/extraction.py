"""Extract features and rank the gallery, with the same bits on any number of processes (CPU).

The tracklets lie on one grid of tiles that does not depend on the number of ranks. A rank embeds whole tiles, in
batches of constant shape that never cross a tile, and ranks its tiles of the gallery (`mstat.evaluation.ranking`).
Query features go to every rank; the gallery is never gathered. Legend: S tracklets of this rank, D feature, Q queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch

from mstat.config import Config
from mstat.data.clips import evaluation_clips
from mstat.data.loader import EvaluationBatches, Tensors, load
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.distances import class_distances
from mstat.evaluation.matches import Pairs, make_pairs
from mstat.evaluation.metrics import Scores
from mstat.evaluation.metrics import score as score_ranks
from mstat.evaluation.narrow_cone import collapse, spread
from mstat.evaluation.query_expansion import expanded
from mstat.evaluation.ranking import count_similarities, gallery_slices, merge_top, rank_positives, top_ranks
from mstat.evaluation.reranking import Reranking, rank_reranked
from mstat.evaluation.verification import BINS, verification
from mstat.numerics import spreading
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
    """

    def __init__(
        self, engine: Engine, reader: Reader, config: Config, tracklets: np.ndarray, num_intact: int | None = None
    ) -> None:
        self.engine, self.reader, self.config, self.tracklets = engine, reader, config, tracklets
        self.num_intact = len(tracklets) if num_intact is None else num_intact
        self.slices = gallery_slices(len(tracklets), engine.world_size, TILE)
        self.bounds = self.slices[engine.rank]

    def extract(
        self, embed: Embed, size: tuple[int, int], intact: Sequence[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the parts of the features of this rank's tracklets, each (S, D of the part) fp32 on the CPU.

        Frames are resized to `size`. Every rank calls `embed` equally often, because each call is a collective under
        ZeRO-3. Without DeepSpeed, several CPU threads call it at once. `eval.flip` makes `embed` average the clip
        and its mirror image, see `flip_averaged`.

        Args:
            intact: Result of `extract` in another trial with the same gallery and number of queries. The features of
                tracklets that are not degraded are copied from it.

        Raises:
            StopRequested: If a signal asked the training to stop.
        """
        if self.config.eval.flip:
            embed = flip_averaged(embed)
        start, stop = self.bounds
        num_clips = [self._num_clips(row) for row in range(len(self.tracklets))]
        known = 0 if intact is None else self.num_intact
        batches = [batch for tile in range(start, stop, TILE) for batch in self._batches(tile, stop, num_clips, known)]
        most = max(
            sum(len(self._batches(tile, last, num_clips, known)) for tile in range(first, last, TILE))
            for first, last in self.slices
        )
        tracklets = self.tracklets.tolist()
        dataset = EvaluationBatches(self.reader, tracklets, batches, self.config.eval, size, self.num_intact)
        on_gpu = self.engine.device.type == "cuda"
        workers = min(self.config.data.num_workers, len(batches))
        features: torch.Tensor | None = None
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
        ):
            for batch, (joined_BD, dims) in spread.stream(joined_parts, loader):
                if features is None:
                    features = torch.zeros(stop - start, sum(dims))
                kept = batch["rows_B"] >= 0
                features.index_add_(0, batch["rows_B"][kept] - start, joined_BD[kept])
                self.engine.stop_if_asked()
            for _ in range(most - len(batches)):
                shape = (self.config.eval.batch_size, self.config.eval.num_frames, *size, 3)
                _, dims = joined_parts({"frames_BTHWC": torch.zeros(shape, dtype=torch.uint8)})
                self.engine.stop_if_asked()
        if features is None:
            features = torch.zeros(stop - start, sum(dims))
        features /= torch.tensor(num_clips[start:stop]).view(-1, 1)
        if intact is not None:
            num_known = max(min(known, stop) - start, 0)
            features[:num_known] = torch.cat(list(intact), dim=1)[:num_known]
        return features.split(dims, dim=1)

    def _num_clips(self, row: int) -> int:
        length = int(self.reader.num_frames[self.tracklets[row]])
        return len(evaluation_clips(length, self.config.eval, int(self.tracklets[row])))

    def _batches(self, tile: int, stop: int, num_clips: list[int], known: int) -> list[list[tuple[int, int]]]:
        """Return the batches of (row, clip) of one tile, from row `known` on; none mixes intact and degraded frames."""
        stop = min(tile + TILE, stop)
        edge = min(max(tile, self.num_intact), stop)
        size, batches = self.config.eval.batch_size, []
        for rows in (range(max(tile, known), edge), range(edge, stop)):
            clips = [(row, clip) for row in rows for clip in range(num_clips[row])]
            batches += [clips[first : first + size] for first in range(0, len(clips), size)]
        return batches


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
        self.pairs: Pairs = make_pairs(
            reader.pids[requested],
            reader.camids[requested],
            reader.pids[gallery],
            reader.camids[gallery],
            junk=(roles[gallery] & Role.JUNK) > 0,
            same=itself,
        )
        if not self.pairs.positives_2P.shape[1]:
            raise UserError(f"{config.data.shards}: {self._why_no_match(gallery)}")

    def _why_no_match(self, gallery: np.ndarray) -> str:
        """Return the reason why nothing can be scored, and the way out."""
        requested, num_queries = self.tracklets[self.queries], len(self.queries)
        searched = gallery[~self.pairs.junk_G.numpy()]
        if not np.isin(self.reader.pids[requested], self.reader.pids[searched]).any():
            why = "no identity of a query is in the gallery" + " except as junk" * (len(searched) < len(gallery))
        elif len(cameras := np.unique(self.reader.camids[searched])) == 1:
            why = f"gallery and queries come from a single camera, {cameras[0]}"
        else:
            why = "the gallery has the queries' identities only from the query's own camera, or as junk"
        return (
            f"none of the {num_queries:,} queries of this protocol and split has a match from another camera in the "
            f"gallery, so nothing can be scored: {why}. Choose another --data.protocol or --data.split, or a data set "
            "whose test identities appear in two cameras; --train.eval_every null trains without scores"
        )

    @property
    def pids_Q(self) -> np.ndarray:
        """Identity of each query."""
        return self.reader.pids[self.tracklets[self.queries]]

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
                first_hit = scores.first_hit_Q[(camids_Q == query_camid) & (scores.first_hit_Q > 0)]
                if len(first_hit):
                    rank1 = float((first_hit == 1).double().mean())
                    result.append(
                        {"query": query_camid, "gallery": camid, "num_valid_query": len(first_hit), "rank1": rank1}
                    )
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

    def distances(self, features_SD: torch.Tensor, scores: Scores) -> dict[str, Any]:
        """Return the distances within and between identities (Table VI), given the features and their scores."""
        query_QD, gallery_SD, start = self._sides(features_SD)
        correct_Q = scores.first_hit_Q == 1
        gather = self.engine.gather_objects
        return class_distances(query_QD, gallery_SD, start, self.pairs, self.pids_Q, correct_Q, gather=gather)

    def verification(self, features_SD: torch.Tensor) -> dict[str, Any]:
        """Return the scores of verification by cosine similarity."""
        counts = count_similarities(*self._sides(features_SD), self.pairs, BINS)
        genuine_N, impostor_N = self.engine.sum(torch.stack(counts))
        return verification(genuine_N, impostor_N)

    def _sides(self, features_SD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return the features of all queries (on the device), those of this rank's gallery slice, and its start."""
        start = self.bounds[0]
        here = (self.queries >= start) & (self.queries < self.bounds[1])
        query_QD = torch.zeros(len(self.queries), features_SD.shape[1])
        query_QD[torch.from_numpy(here)] = features_SD[self.queries[here] - start]
        query_QD = self.engine.sum(query_QD).to(self.engine.device)
        return query_QD, features_SD[: max(self.num_gallery - start, 0)], start

    def rank(
        self, features_SD: torch.Tensor
    ) -> tuple[Scores, Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor]]]:
        """Score the features of all ranks; also return a function that finds the top ranks of chosen queries."""
        query_QD, gallery_SD, start = self._sides(features_SD)
        ranks_P = rank_positives(query_QD, gallery_SD, start, self.pairs, reduce=self.engine.sum)

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
