"""Batches from shards: sampling of clips and frames, augmentation, and the worker processes that load them.

A batch is a pure function of (seed, step). File formats belong to the package `shards`.
"""
