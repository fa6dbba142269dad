"""The BatchHard triplet loss: each clip with its farthest positive and nearest negative in the global batch.

Shape suffixes: n clips of the global batch, B of its rows, D feature dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mstat.errors import UserError
from mstat.numerics import at_least_fp32

TILE = 2**23  # distances at a time: 32 MB in fp32, and three times as much for masks and masked copies


def batch_hard(
    features_nD: Tensor,
    pids_n: Tensor,
    margin: float | None = 0.3,
    distance: Literal["euclidean", "cosine"] = "euclidean",
    rows: slice = slice(None),
) -> Tensor:
    """Compute the BatchHard triplet loss, a scalar, on Euclidean distances of features without normalisation.

    The loss is the mean over anchors a of max(0, d(a, p) - d(a, n) + margin), where p is the farthest clip of the same
    identity and n the nearest clip of another one; with `margin` None, of log(1 + exp(d(a, p) - d(a, n))). Anchors
    without a positive or a negative in the batch are ignored. If no anchor remains, loss and gradient are 0.

    Args:
        features_nD: Any floating type; fp64 is computed in fp64, all others in fp32 with autocast off.
        pids_n: Identity of each clip.
        margin: Margin in units of distance; None is the soft margin.
        distance: `cosine` compares |a - b|^2 / 2, which is 1 minus the cosine similarity of features of unit length.
        rows: Anchors to sum over. The sum is divided by the number of anchors in the batch, so that the losses of
            disjoint rows add up to the loss of the batch.

    Raises:
        UserError: If the shapes do not match.
    """
    positive_B, negative_B, valid_n = batch_hard_distances(features_nD, pids_n, rows)
    if distance == "cosine":
        positive_B, negative_B = positive_B.square() / 2, negative_B.square() / 2
    gap_B = positive_B - negative_B
    loss_B = F.softplus(gap_B) if margin is None else F.relu(gap_B + margin)
    return loss_B.where(valid_n[rows], 0).sum() / valid_n.sum().clamp(min=1)


def batch_hard_distances(
    features_nD: Tensor, pids_n: Tensor, rows: slice = slice(None)
) -> tuple[Tensor, Tensor, Tensor]:
    """Return distances to the farthest positive and the nearest negative, and which clips of the batch have both.

    Among equal distances, the lowest index counts. Memory holds `TILE` distances at a time.

    Returns:
        positive_B and negative_B of the anchors in `rows`, differentiable, and valid_n, bool, of all clips. Where
        valid_n is False, the distances are meaningless.

    Raises:
        UserError: If the shapes do not match.
    """
    if features_nD.ndim != 2 or pids_n.shape != features_nD.shape[:1]:
        raise UserError(
            f"features {tuple(features_nD.shape)} and pids {tuple(pids_n.shape)} must have shapes (n, D) and (n,)"
        )
    with torch.autocast(features_nD.device.type, enabled=False):
        wide_nD = at_least_fp32(features_nD)
        chosen_3B = _hardest(wide_nD.detach(), pids_n, rows)
        # Only the chosen pairs enter the graph, by one indexing: its gradient is as large as the batch.
        anchor_BD, positive_BD, negative_BD = wide_nD[chosen_3B.flatten()].unflatten(0, chosen_3B.shape)
        # vector_norm's gradient at distance 0 is 0, where sqrt's is NaN.
        positive_B = torch.linalg.vector_norm(anchor_BD - positive_BD, dim=1)
        negative_B = torch.linalg.vector_norm(anchor_BD - negative_BD, dim=1)
    return positive_B, negative_B, _has_triplet(pids_n)


def _hardest(features_nD: Tensor, pids_n: Tensor, rows: slice) -> Tensor:
    """Return (3, B): the positions of the anchors in `rows`, of their farthest positives and nearest negatives."""
    position_n = torch.arange(len(pids_n), device=pids_n.device)
    parts = []
    for tile_A in position_n[rows].split(max(1, TILE // max(1, len(pids_n)))):
        same_An = pids_n[tile_A, None] == pids_n
        positive_An = same_An & (position_n[tile_A, None] != position_n)
        # By differences, not inner products: |a|^2 + |b|^2 - 2ab cancels for near neighbours.
        distance_An = torch.cdist(features_nD[tile_A], features_nD, compute_mode="donot_use_mm_for_euclid_dist")
        farthest_A = distance_An.masked_fill(~positive_An, -torch.inf).argmax(dim=1)
        nearest_A = distance_An.masked_fill(same_An, torch.inf).argmin(dim=1)
        parts.append(torch.stack([tile_A, farthest_A, nearest_A]))
    return torch.cat(parts, dim=1)


def _has_triplet(pids_n: Tensor) -> Tensor:
    """Return for each clip whether the batch holds another one of its identity, and one of another identity."""
    ordered_n = pids_n.sort().values
    count_n = torch.searchsorted(ordered_n, pids_n, right=True) - torch.searchsorted(ordered_n, pids_n)
    return (count_n > 1) & (count_n < len(pids_n))
