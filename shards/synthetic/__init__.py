"""Data sets that are drawn: persons for re-identification, and actions that only time tells apart.

Real data sets are in shards/sources.
"""
