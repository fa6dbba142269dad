"""Losses of the global batch's features or logits and its labels."""

from mstat.losses.cross_entropy import cross_entropy
from mstat.losses.metric import NAMES, metric_loss
from mstat.losses.triplet import batch_hard, batch_hard_distances

__all__ = ["NAMES", "batch_hard", "batch_hard_distances", "cross_entropy", "metric_loss"]
