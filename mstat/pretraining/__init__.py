"""Pretraining of a TimeSformer on videos of actions, from which an MSTAT starts (`--model.init`).

This package holds only the differences from mstat/training: the classifier, its task and its scores.
"""
