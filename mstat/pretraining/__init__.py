"""Training a TimeSformer on videos of actions, from which an MSTAT starts (`--model.init`).

Only what differs from mstat/training belongs here: the classifier, its task and its scores.
"""
