"""Weights in files: read untrusted files without running code, map their keys to ours, write a trained model.

Code that maps, checks or stores tensors belongs here. The model is in mstat/model, the steps of a run in mstat/runs.
"""
