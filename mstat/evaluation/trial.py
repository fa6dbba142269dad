"""One protocol and split of a data set: the queries, the gallery, and every score of their features.

Query features go to every rank; the gallery is never gathered (`mstat.evaluation.ranking`). Legend: S tracklets of this
rank, D feature, Q queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mstat.config import Config
from mstat.distributed.engine import Engine
from mstat.errors import UserError
from mstat.evaluation.distances import class_distances
from mstat.evaluation.extraction import Extraction
from mstat.evaluation.feature_writer import label_table
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
from mstat.report.progress import Count
from mstat.runs.scored_set import intact
from shards.read import Reader
from shards.records import Role

PLOTTED = 600  # most tracklets in the t-SNE plot
TOP = 10  # gallery tracklets listed for a query


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
        match, way_out = "a match from another camera", "a data set whose test identities appear in two cameras"
        if self.protocol.needs_outfits:
            match, way_out = "a match", "a data set whose test identities appear in other clothes or cameras"
        return (
            f"none of the {num_queries:,} queries of this protocol and split has {match} in the gallery, so nothing "
            f"can be scored: {why}. Choose another --data.protocol or --data.split, or {way_out}; "
            "--train.eval_every null trains without scores"
        )

    @property
    def pids_Q(self) -> np.ndarray:
        """Identity of each query."""
        return self.reader.pids[self.tracklets[self.queries]]

    @property
    def cmc_only(self) -> bool:
        """True if the protocol has CMC alone, without mAP and its like."""
        return self.protocol.cmc_only

    def labels(self) -> pa.Table:
        """Return the labels and roles of `tracklets`, the table of saved features."""
        roles = self.reader.roles(self.config.data.protocol, self.config.data.split)[self.tracklets]
        in_gallery = np.arange(len(roles)) < self.num_gallery
        is_query = np.zeros(len(roles), bool)
        is_query[self.queries] = True
        junk = in_gallery & ((roles & Role.JUNK) > 0)
        return label_table(self.reader, self.tracklets, query=is_query, gallery=in_gallery, junk=junk)

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
            with self._counting(f"ranking in camera {camid}") as progress:
                ranks_P = rank_positives(
                    query_QD, gallery_SD, start, pairs, reduce=self.engine.sum, progress=progress.advance
                )
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

    def _counting(self, label: str, num_others: int = 0) -> Count:
        """Return the progress display of a pass over all queries, and over other items."""
        unit = "items" if num_others else "queries"
        return Count(label, len(self.queries) + num_others, unit, enabled=self.engine.is_main)

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
        with self._counting("counting accepted pairs") as progress:
            accepted_2IM = count_accepted(*sides, self.pairs, identity_Q, thresholds_M, BINS, progress=progress.advance)
        accepted_2IM = self.engine.sum(accepted_2IM)
        return {**result, "intervals": verification_intervals(accepted_2IM, self.config.eval.seed)}

    def open_set(self, features_SD: torch.Tensor) -> dict[str, Any]:
        """Return the scores of open-set identification by cosine similarity."""
        gallery_pids = self.reader.pids[self.tracklets[: self.num_gallery]]
        arguments = (*self._sides(features_SD), self.pairs, self.pids_Q, gallery_pids, self.config.eval.seed)
        with self._counting("open set") as progress:
            return open_set(*arguments, gather=self.engine.gather_objects, progress=progress.advance)

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
            arguments = (query_QD, gallery_SD, start, self.pairs, *nearest)
            with self._counting("expanding queries") as progress:
                query_QD = expanded(
                    *arguments, reduce=engine.sum, gather=engine.gather_objects, progress=progress.advance
                )
        if settings.rerank == "none":
            with self._counting("ranking by expanded queries") as progress:
                ranks_P = rank_positives(
                    query_QD, gallery_SD, start, self.pairs, reduce=engine.sum, progress=progress.advance
                )
            return score_ranks(self.pairs, ranks_P)
        parameters = Reranking(settings.rerank_k1, settings.rerank_k2, settings.rerank_lambda)
        share = gallery_slices(len(query_QD), engine.world_size)[engine.rank]
        sides = (query_QD, gallery_SD, start, self.pairs, parameters, share)
        num_items = len(query_QD) + int((~self.pairs.junk_G).sum())
        with self._counting("re-ranking", num_items) as progress:
            ranks_P = rank_reranked(*sides, reduce=engine.sum, gather=engine.gather_objects, progress=progress.advance)
        return score_ranks(self.pairs, ranks_P)
