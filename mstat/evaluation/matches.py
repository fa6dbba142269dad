"""The evaluation rule: true matches and ignored pairs among all (query, gallery) pairs.

Shape suffixes: Q queries, G gallery items, P positive pairs, I ignored pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mstat.errors import UserError
from mstat.evaluation.metric_inputs import flags, index_pairs, labels
from shards.records import IGNORE_RULES, NO_OUTFIT

Labels = Sequence[int] | np.ndarray[Any, Any] | Tensor  # whole numbers along one axis
Flags = Sequence[bool] | np.ndarray[Any, Any] | Tensor
IndexPairs = Sequence[Sequence[int]] | np.ndarray[Any, Any] | Tensor  # (N, 2)


@dataclass(frozen=True)
class Pairs:
    """True matches and ignored (query, gallery) pairs; small, and equal on every rank.

    Attributes:
        num_query: Q.
        num_gallery: G, junk included.
        junk_G: True where a gallery item is ignored for every query.
        positives_2P: Query and gallery index of each true match, sorted by query, then by gallery item.
        ignored_2I: Query and gallery index of pairs of one identity that the rule ignores, and of copies, but not of
            junk.
    """

    num_query: int
    num_gallery: int
    junk_G: Tensor
    positives_2P: Tensor
    ignored_2I: Tensor


def make_pairs(
    query_pids: Labels,
    query_camids: Labels,
    gallery_pids: Labels,
    gallery_camids: Labels,
    *,
    junk: Flags | None = None,
    same: IndexPairs | None = None,
    query_outfits: Labels | None = None,
    gallery_outfits: Labels | None = None,
    ignore: str = "camera",
) -> Pairs:
    """Apply the evaluation rule. A query ignores junk, its copies, and what `ignore` says of its own identity.

    Args:
        query_pids, query_camids: Q integers each (array, tensor or list).
        gallery_pids, gallery_camids: G integers each.
        junk: G flags, or None for no junk.
        same: (query index, gallery index) pairs that are copies of one tracklet, or None.
        query_outfits, gallery_outfits: Q and G integers, -1 for an unknown outfit, which equals no other; None if
            `ignore` does not need them.
        ignore: Gallery items of the query's identity that are ignored: those of its camera (`camera`), of its camera
            and outfit (`camera-and-outfit`), of its camera or outfit (`clothes-changing`), or of its camera or another
            outfit (`same-clothes`).

    Raises:
        UserError: If labels are not whole numbers along one axis, lengths do not match, an index of `same` is out of
            range, or `ignore` is another word or needs outfits that are not given.
    """
    if ignore not in IGNORE_RULES:
        raise UserError(f"ignore={ignore!r}: choose one of {', '.join(IGNORE_RULES)}")
    query_pids, query_camids = labels("query pids", query_pids), labels("query camids", query_camids)
    gallery_pids, gallery_camids = labels("gallery pids", gallery_pids), labels("gallery camids", gallery_camids)
    num_query, num_gallery = len(query_pids), len(gallery_pids)
    junk_G = torch.zeros(num_gallery, dtype=torch.bool) if junk is None else flags("junk flags", junk)
    check_length("query camids", query_camids, num_query)
    check_length("gallery camids", gallery_camids, num_gallery)
    check_length("junk flags", junk_G, num_gallery)
    same_2N = index_pairs("`same`", [] if same is None else same).T
    limits = torch.tensor([[num_query], [num_gallery]])
    if ((same_2N < 0) | (same_2N >= limits)).any():
        raise UserError(f"`same` has a pair outside {num_query} queries x {num_gallery} gallery items")

    by_pid_G = gallery_pids.argsort(stable=True)
    sorted_pids_G = gallery_pids[by_pid_G]
    first_Q = torch.searchsorted(sorted_pids_G, query_pids)
    counts_Q = torch.searchsorted(sorted_pids_G, query_pids, right=True) - first_Q
    query = torch.arange(num_query).repeat_interleave(counts_Q)
    nth = torch.arange(len(query)) - (counts_Q.cumsum(0) - counts_Q)[query]
    item = by_pid_G[first_Q[query] + nth]

    own_camera = query_camids[query] == gallery_camids[item]
    own_outfit = torch.zeros_like(own_camera)
    if query_outfits is not None and gallery_outfits is not None:
        outfits_Q, outfits_G = labels("query outfits", query_outfits), labels("gallery outfits", gallery_outfits)
        check_length("query outfits", outfits_Q, num_query)
        check_length("gallery outfits", outfits_G, num_gallery)
        own_outfit = (outfits_Q[query] == outfits_G[item]) & (outfits_Q[query] != NO_OUTFIT)
    elif ignore != "camera":
        raise UserError(f"ignore={ignore!r} needs query_outfits and gallery_outfits")
    ignored = IGNORE_RULES[ignore].ignores(own_camera, own_outfit)
    copy = torch.isin(query * num_gallery + item, same_2N[0] * num_gallery + same_2N[1])
    alike_2N = torch.stack([query, item])
    return Pairs(
        num_query=num_query,
        num_gallery=num_gallery,
        junk_G=junk_G,
        positives_2P=alike_2N[:, ~(ignored | copy | junk_G[item])],
        ignored_2I=torch.cat([alike_2N[:, ignored], same_2N], dim=1),
    )


def check_length(name: str, values: Tensor, length: int) -> None:
    """Raise UserError if a sequence is not as long as the pids it belongs to."""
    if len(values) != length:
        raise UserError(f"{len(values)} {name}, but there must be {length}: one for each pid")
