"""Evaluation from tracklets to scores: features, ranks of true matches, CMC, mAP, distances, baselines, robustness.

A new score belongs in `metrics.py`. On CPUs, scores are the same bits on any number of processes. mstat/report makes
the pages and tables.
"""
