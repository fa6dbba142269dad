"""The BatchHard triplet loss: each clip with its farthest positive and nearest negative in the global batch.

Shape suffixes: B clips of the global batch, D feature dimensions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mstat.errors import UserError
from mstat.numerics import at_least_fp32


def batch_hard(
    features_BD: Tensor,
    pids_B: Tensor,
    margin: float | None = 0.3,
    distance: Literal["euclidean", "cosine"] = "euclidean",
) -> Tensor:
    """Compute the BatchHard triplet loss, a scalar, on Euclidean distances of features without normalisation.

    The loss is the mean over anchors a of max(0, d(a, p) - d(a, n) + margin), where p is the farthest clip of the same
    identity and n the nearest clip of another one; with `margin` None, of log(1 + exp(d(a, p) - d(a, n))). Anchors
    without a positive or a negative in the batch are ignored. If no anchor remains, loss and gradient are 0.

    Args:
        features_BD: Any floating type; fp64 is computed in fp64, all others in fp32 with autocast off.
        pids_B: Identity of each clip.
        margin: Margin in units of distance; None is the soft margin.
        distance: `cosine` compares |a - b|^2 / 2, which is 1 minus the cosine similarity of features of unit length.

    Raises:
        UserError: If the shapes do not match.
    """
    positive_B, negative_B, valid_B = batch_hard_distances(features_BD, pids_B)
    if distance == "cosine":
        positive_B, negative_B = positive_B.square() / 2, negative_B.square() / 2
    gap_B = positive_B - negative_B
    loss_B = F.softplus(gap_B) if margin is None else F.relu(gap_B + margin)
    return loss_B.where(valid_B, 0).sum() / valid_B.sum().clamp(min=1)


def batch_hard_distances(features_BD: Tensor, pids_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each anchor's distances to its farthest positive and its nearest negative, and whether it has both.

    Among equal distances, the lowest index counts.

    Returns:
        positive_B and negative_B, differentiable, and valid_B, bool. Where valid_B is False, the distances are
        meaningless.

    Raises:
        UserError: If the shapes do not match.
    """
    if features_BD.ndim != 2 or pids_B.shape != features_BD.shape[:1]:
        raise UserError(
            f"features {tuple(features_BD.shape)} and pids {tuple(pids_B.shape)} must have shapes (B, D) and (B,)"
        )
    with torch.autocast(features_BD.device.type, enabled=False):
        wide_BD = at_least_fp32(features_BD)
        same_BB = pids_B[:, None] == pids_B[None, :]
        other_BB = ~torch.eye(len(pids_B), dtype=torch.bool, device=pids_B.device)
        # By differences, not inner products: |a|^2 + |b|^2 - 2ab cancels for near neighbours.
        distance_BB = torch.cdist(wide_BD.detach(), wide_BD.detach(), compute_mode="donot_use_mm_for_euclid_dist")
        farthest_B = distance_BB.masked_fill(~(same_BB & other_BB), -torch.inf).argmax(dim=1)
        nearest_B = distance_BB.masked_fill(same_BB, torch.inf).argmin(dim=1)
        # Only the chosen pairs enter the graph; vector_norm's gradient at distance 0 is 0, where sqrt's is NaN.
        positive_B = torch.linalg.vector_norm(wide_BD - wide_BD[farthest_B], dim=1)
        negative_B = torch.linalg.vector_norm(wide_BD - wide_BD[nearest_B], dim=1)
    valid_B = (same_BB & other_BB).any(dim=1) & ~same_BB.all(dim=1)
    return positive_B, negative_B, valid_B
