"""Losses of the global batch: cross-entropy and the metric losses, by name in `METRIC_LOSSES`.

A loss is a function of features or logits, labels, and the rows of a rank, whose share of the loss it returns. A new
one is an entry of that table, in `metric.py`. mstat/training gathers the features of all ranks and weighs the losses.
"""

from mstat.losses.cross_entropy import cross_entropy
from mstat.losses.metric import METRIC_LOSSES, metric_loss
from mstat.losses.triplet import batch_hard, batch_hard_distances

__all__ = ["METRIC_LOSSES", "batch_hard", "batch_hard_distances", "cross_entropy", "metric_loss"]
