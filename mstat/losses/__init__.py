"""Losses as pure functions of the global batch's features or logits and its labels."""

from mstat.losses.cross_entropy import cross_entropy
from mstat.losses.triplet import batch_hard, batch_hard_distances

__all__ = ["batch_hard", "batch_hard_distances", "cross_entropy"]
