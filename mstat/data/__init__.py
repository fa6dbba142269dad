"""From shards to batches: which clips make a batch, their frames, augmentation, and the processes that load them.

A batch is a pure function of (seed, step). Formats of files belong to the package `shards`.
"""
