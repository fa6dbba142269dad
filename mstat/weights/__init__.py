"""Weights in files: reading those of anybody without running code, naming them as ours, writing a trained model.

What maps, checks or stores tensors belongs here. The model itself is in mstat/model, the steps of a run in mstat/runs.
"""
