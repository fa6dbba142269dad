"""Evaluation from tracklets to scores: features, ranks of true matches, CMC, mAP, distances, baselines, robustness.

A score is the same, bit for bit, on any number of processes. mstat/report makes the pages and tables.
"""
