"""CMC and mAP of features or distances, for use outside a run: the public functions of mstat/evaluation/metrics.py."""

from mstat.evaluation.metrics import NUM_CMC, Scores, cmc_map, cmc_map_from_distances

__all__ = ["NUM_CMC", "Scores", "cmc_map", "cmc_map_from_distances"]
