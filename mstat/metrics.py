"""CMC and mAP of features or distances, for use outside a run, and the features that a run has compared."""

from mstat.evaluation.metrics import NUM_CMC, Scores, cmc_map, cmc_map_from_distances
from mstat.evaluation.saved_features import SavedFeatures, load_features

__all__ = ["NUM_CMC", "SavedFeatures", "Scores", "cmc_map", "cmc_map_from_distances", "load_features"]
