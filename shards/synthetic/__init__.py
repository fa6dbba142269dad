"""Synthetic data sets: persons for re-identification, and actions that differ only in the order of frames.

Real data sets are in shards/sources.
"""
