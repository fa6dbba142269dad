"""From tracklets to scores: features, ranks of the true matches, CMC, mAP, distances, baselines, robustness.

A score is the same, bit for bit, on any number of processes. Pages and tables are made in mstat/report.
"""
