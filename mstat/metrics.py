"""CMC and mAP, re-ranking and query expansion, for use outside a run, and the features that a run has compared.

The public functions of mstat/evaluation/metrics.py, reranking.py, query_expansion.py and saved_features.py.
"""

from mstat.evaluation.metrics import NUM_CMC, Scores, cmc_map, cmc_map_from_distances
from mstat.evaluation.query_expansion import expand_queries
from mstat.evaluation.reranking import rerank, rerank_distances
from mstat.evaluation.saved_features import SavedFeatures, load_features

__all__ = [
    "NUM_CMC",
    "SavedFeatures",
    "Scores",
    "cmc_map",
    "cmc_map_from_distances",
    "expand_queries",
    "load_features",
    "rerank",
    "rerank_distances",
]
