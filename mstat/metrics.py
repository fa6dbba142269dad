"""CMC and mAP of features or distances, re-ranking and query expansion, for use outside a run.

The public functions of mstat/evaluation/metrics.py, reranking.py and query_expansion.py.
"""

from mstat.evaluation.metrics import NUM_CMC, Scores, cmc_map, cmc_map_from_distances
from mstat.evaluation.query_expansion import expand_queries
from mstat.evaluation.reranking import rerank, rerank_distances

__all__ = ["NUM_CMC", "Scores", "cmc_map", "cmc_map_from_distances", "expand_queries", "rerank", "rerank_distances"]
